//! Uploads into the local store on a real disk: interrupted, forgotten, in small pieces.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[allow(dead_code, reason = "other tests use the rest")]
mod local_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use local_support::{TestClock, content, open, options};
use tempfile::TempDir;
use zako_core::cas::{Cas, CasExt, ErrorKind, Location, Maintain, Stored};

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let (digest, data) = content(1, 5 << 20);
    let store = open(folder.path(), options(1 << 30)).await;
    let mut writer = store.writer(&digest, 0).await.unwrap();
    writer.write(data.slice(..3 << 20)).await.unwrap();
    // Dropped, not parked: as when a connection ends.
    drop(writer);
    store.close().await.unwrap();
    drop(store);

    let store = open(folder.path(), options(1 << 30)).await;
    let held = store.held(&digest).await.unwrap();
    assert!(held > 2 << 20 && held <= 3 << 20, "{held}");
    assert_eq!(store.usage().await.unwrap().partial_bytes, held);
    let error = store
        .writer(&digest, held + 1)
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.held()),
        (ErrorKind::NotHeld, Some(held))
    );
    let mut writer = store.writer(&digest, held - 77).await.unwrap();
    writer
        .write(data.slice(held as usize - 77..))
        .await
        .unwrap();
    assert_eq!(writer.commit().await.unwrap(), Stored::New);
    assert_eq!(store.fetch_bytes(&digest).await.unwrap(), data);
    assert_eq!(store.usage().await.unwrap().partial_bytes, 0);
    assert_eq!(store.stat(&digest).await.unwrap().location, Location::File);
    store.close().await.unwrap();
    assert_eq!(
        std::fs::read_dir(folder.path().join("partial"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn forgotten_uploads_expire() {
    let folder = TempDir::new().unwrap();
    let clock = Arc::new(TestClock::default());
    let mut options = options(1 << 30);
    options.clock = clock.clone();
    let store = open(folder.path(), options).await;
    let (digest, data) = content(1, 5 << 20);
    let mut writer = store.writer(&digest, 0).await.unwrap();
    writer.write(data.slice(..2 << 20)).await.unwrap();
    writer.park().await.unwrap();
    clock.pass(23 * 3600);
    assert_eq!(store.collect_garbage().await.unwrap().partials_expired, 0);
    clock.pass(2 * 3600);
    let report = store.collect_garbage().await.unwrap();
    assert_eq!((report.partials_expired, report.bytes_freed), (1, 2 << 20));
    assert_eq!(store.held(&digest).await.unwrap(), 0);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn small_pieces_do_not_keep_large_buffers() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path(), options(1 << 30)).await;
    let (digest, data) = content(1, 3 << 20);
    let mut writer = store.writer(&digest, 0).await.unwrap();
    // Each piece is all that keeps a buffer of its own alive.
    let freed = Arc::new(AtomicU64::new(0));
    for piece in data[..300_000].chunks(3) {
        let owner = Counted(piece.to_vec(), Arc::clone(&freed));
        writer.write(Bytes::from_owner(owner)).await.unwrap();
    }
    assert_eq!(freed.load(Ordering::Relaxed), 100_000);
    for piece in data[300_000..].chunks(100_001) {
        writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    assert_eq!(writer.commit().await.unwrap(), Stored::New);
    assert_eq!(store.fetch_bytes(&digest).await.unwrap(), data);
    store.close().await.unwrap();
}

/// Bytes that tell when they are freed.
struct Counted(Vec<u8>, Arc<AtomicU64>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}
