//! For how long an evicted blob is remembered: one that comes back meanwhile outlives
//! blobs that are new.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[allow(dead_code, reason = "other tests use the rest")]
mod sim;

use std::sync::Arc;

use bytes::Bytes;
use sim::SimFs;
use zako_core::Digest;
use zako_core::cas::{Cas, CasExt, Lease};
use zako_core::store::{LocalStore, StoreOptions};

const CAP: u64 = 1 << 20;

/// Blobs of this length are records, and of that, files.
const LENGTHS: [u64; 2] = [5_000, 20_000];

struct Filled {
    store: LocalStore,
    length: u64,
    next: u64,
}

impl Filled {
    async fn new(length: u64) -> Self {
        let mut options = StoreOptions::default();
        options.max_bytes = Some(CAP);
        options.segment_bytes = Some(64 << 10);
        options.large_from = Some(6 << 10);
        options.backend = Arc::new(SimFs::new());
        let store = LocalStore::open("/store", options).await.unwrap();
        let mut filled = Self {
            store,
            length,
            next: 0,
        };
        filled.put_new(2 * CAP).await;
        filled
    }

    async fn put(&self, number: u64) -> Digest {
        let mut data = vec![0; self.length as usize];
        data[..8].copy_from_slice(&number.to_le_bytes());
        self.store.put_bytes(Bytes::from(data)).await.unwrap().0
    }

    /// Puts so many bytes of blobs that were never there.
    async fn put_new(&mut self, bytes: u64) {
        for _ in 0..bytes / self.length {
            self.put(self.next).await;
            self.next += 1;
        }
    }

    async fn has(&self, digest: Digest) -> bool {
        let missing = self.store.missing(&[digest], Lease::None).await.unwrap();
        missing.is_empty()
    }

    /// Puts a blob, then so many bytes of others, then it again, then others for
    /// twice what the store holds; whether it is still there.
    async fn outlives_others_after(&mut self, bytes: u64) -> bool {
        let number = self.next;
        self.next += 1;
        let digest = self.put(number).await;
        self.put_new(bytes).await;
        assert!(!self.has(digest).await, "not evicted");
        self.put(number).await;
        self.put_new(2 * CAP).await;
        self.has(digest).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_evicted_lately_is_remembered() {
    for length in LENGTHS {
        let mut filled = Filled::new(length).await;
        assert!(filled.outlives_others_after(CAP / 2 * 3).await, "{length}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_forgotten_when_a_store_of_others_was_evicted() {
    for length in LENGTHS {
        let mut filled = Filled::new(length).await;
        assert!(!filled.outlives_others_after(3 * CAP).await, "{length}");
    }
}
