//! The local store on a real disk: restarts, folders and formats, and where bytes lie.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[allow(dead_code, reason = "other tests use the rest")]
mod local_support;

use local_support::{absent, content, fill, open, options};
use tempfile::TempDir;
use zako_core::cas::{Cas, CasExt, ErrorKind, Lease, Maintain};
use zako_core::store::LocalStore;
use zako_core::{BlobRange, Digest};

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_there_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let mut all = Vec::new();
    for round in 0..4 {
        let store = open(folder.path(), options(256 << 20)).await;
        assert_eq!(absent(&store, &all).await, 0, "round {round}");
        all.extend(fill(&store, round * 1_000..round * 1_000 + 300, 3_000).await);
        all.extend(fill(&store, round * 1_000 + 500..round * 1_000 + 503, 2 << 20).await);
        let gone = all.swap_remove(7);
        assert!(store.delete(&gone).await.unwrap());
        let usage = store.usage().await.unwrap();
        assert_eq!(usage.blobs, all.len() as u64);
        assert_eq!(usage.blob_bytes, all.iter().map(Digest::size).sum::<u64>());
        store.close().await.unwrap();
        assert_eq!(
            store.put_bytes("late").await.unwrap_err().kind(),
            ErrorKind::Closed
        );
        drop(store);
        let store = open(folder.path(), options(256 << 20)).await;
        assert_eq!(absent(&store, &[gone]).await, 1, "round {round}");
        for digest in &all {
            store.fetch_bytes(digest).await.unwrap();
        }
        store.close().await.unwrap();
    }
    // Restarts go on with the segment that was open.
    let segments = std::fs::read_dir(folder.path().join("segments")).unwrap();
    assert!(segments.count() <= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_wait_for_a_store_that_opens_in_the_background() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path(), options(256 << 20)).await;
    let all = fill(&store, 0..2_000, 1_000).await;
    store.close().await.unwrap();
    drop(store);
    let store = LocalStore::open_in_background(folder.path(), options(256 << 20))
        .await
        .unwrap();
    let (usage, absent, read) = tokio::join!(
        store.usage(),
        store.missing(&all, Lease::None),
        store.fetch_bytes(&all[77])
    );
    assert_eq!(usage.unwrap().blobs, 2_000);
    assert!(absent.unwrap().is_empty());
    assert_eq!(read.unwrap().len(), 1_000);
    store.close().await.unwrap();
    drop(store);

    // What is found wrong later is every call's error.
    let store = LocalStore::open_in_background(folder.path(), options(256 << 20))
        .await
        .unwrap();
    assert!(store.close().await.is_ok(), "closed while it opens");
    drop(store);
    let segments = folder.path().join("segments");
    std::fs::create_dir(segments.join("00000fff.seg")).unwrap();
    let store = LocalStore::open_in_background(folder.path(), options(256 << 20))
        .await
        .unwrap();
    let error = store.missing(&all, Lease::None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(store.usage().await.is_err());
    drop(store);
    std::fs::remove_dir(segments.join("00000fff.seg")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_at_a_time() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path(), options(64 << 20)).await;
    let error = LocalStore::open(folder.path(), options(64 << 20))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    let note = std::fs::read_to_string(folder.path().join("lock")).unwrap();
    assert_eq!(note.trim(), std::process::id().to_string());
    store.close().await.unwrap();
    drop(store);
    open(folder.path(), options(64 << 20))
        .await
        .close()
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_formats_and_strange_folders_are_refused() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("letter.txt"), "dear").unwrap();
    let error = LocalStore::open(folder.path(), options(64 << 20))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Format);
    assert!(error.to_string().contains("letter.txt"), "{error}");
    assert!(!folder.path().join("segments").exists());

    let folder = TempDir::new().unwrap();
    let store = open(folder.path(), options(64 << 20)).await;
    fill(&store, 0..10, 100).await;
    store.close().await.unwrap();
    drop(store);
    let meta = folder.path().join("zako.store");
    let good = std::fs::read(&meta).unwrap();
    for (at, value, text) in [
        (8, 7, "format 7"),
        (0, b'X', "not a store's"),
        (30, 1, "damaged"),
    ] {
        let mut bad = good.clone();
        bad[at] = value;
        std::fs::write(&meta, &bad).unwrap();
        let error = LocalStore::open(folder.path(), options(64 << 20))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Format);
        assert!(error.to_string().contains(text), "{error}");
    }
    std::fs::write(&meta, &good[..40]).unwrap();
    let error = LocalStore::open(folder.path(), options(64 << 20))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Format);
    std::fs::write(&meta, &good).unwrap();
    let store = open(folder.path(), options(64 << 20)).await;
    assert_eq!(store.usage().await.unwrap().blobs, 10);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn extents_point_at_the_bytes() {
    use std::os::unix::fs::FileExt;
    let folder = TempDir::new().unwrap();
    let store = open(folder.path(), options(1 << 30)).await;
    for length in [5_000, 3 << 20] {
        let (digest, data) = content(9, length);
        store.put(&digest, data.clone()).await.unwrap();
        let blob = store
            .fetch(&digest, BlobRange::new(100, 900))
            .await
            .unwrap();
        let extent = blob.extent().unwrap().clone();
        assert!(store.delete(&digest).await.unwrap());
        let mut read = vec![0; 900];
        extent.file.read_exact_at(&mut read, extent.offset).unwrap();
        assert_eq!(read, data[100..1000]);
    }
    store.close().await.unwrap();
}
