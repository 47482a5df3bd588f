//! What tests of the local store on a real disk begin with.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use zako_core::Digest;
use zako_core::cas::{Cas, ErrorKind, Lease};
use zako_core::store::{Clock, LocalStore, StoreOptions};

/// A clock that the test moves.
#[derive(Debug, Default)]
pub(crate) struct TestClock {
    seconds: AtomicU64,
}

impl TestClock {
    pub(crate) fn pass(&self, seconds: u64) {
        self.seconds.fetch_add(seconds, Ordering::Relaxed);
    }

    fn elapsed(&self) -> Duration {
        Duration::from_secs(self.seconds.load(Ordering::Relaxed))
    }
}

impl Clock for TestClock {
    fn monotonic(&self) -> Duration {
        self.elapsed()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now() + self.elapsed()
    }
}

pub(crate) fn options(max_bytes: u64) -> StoreOptions {
    let mut options = StoreOptions::default();
    options.max_bytes = Some(max_bytes);
    options
}

/// Opens a store whose last user may still be finishing what it had begun.
pub(crate) async fn open(folder: &Path, options: StoreOptions) -> LocalStore {
    loop {
        match LocalStore::open(folder, options.clone()).await {
            Err(error) if error.kind() == ErrorKind::Locked => tokio::task::yield_now().await,
            outcome => return outcome.unwrap(),
        }
    }
}

pub(crate) fn content(number: u64, length: usize) -> (Digest, Bytes) {
    let mut data = vec![number as u8; length];
    let label = number.to_le_bytes();
    data[..8].copy_from_slice(&label);
    (zako_digest::hash::bytes(&data), data.into())
}

pub(crate) async fn fill(
    store: &LocalStore,
    numbers: std::ops::Range<u64>,
    length: usize,
) -> Vec<Digest> {
    let mut all = Vec::new();
    for number in numbers {
        let (digest, data) = content(number, length);
        store.put(&digest, data).await.unwrap();
        all.push(digest);
    }
    all
}

pub(crate) async fn absent(store: &LocalStore, digests: &[Digest]) -> usize {
    store.missing(digests, Lease::None).await.unwrap().len()
}

pub(crate) fn disk_usage(folder: &Path) -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        // The store's own threads may have tidied up meanwhile.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        bytes += if metadata.is_dir() {
            disk_usage(&entry.path())
        } else {
            metadata.len()
        };
    }
    bytes
}
