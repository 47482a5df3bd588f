//! Wrong bytes over RDMA are got again by gRPC wherever none of them was given away.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod flaky;
mod rdma_support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use flaky::{Flaky, Sums};
use rdma_support::{Joined, is_held_off, noise, options};
use zako_core::cas::{Cas, CasExt, ErrorKind};
use zako_core::client::{Client, TransportChoice};
use zako_core::transfer::{self, Download};
use zako_core::{BlobRange, Digest};
use zako_rdma::soft::Faults;

/// A server whose store gives wrong bytes the next time, and those that it should have given.
async fn lies_once(seed: u64, size: usize) -> (Joined, Arc<Flaky>, Digest, Bytes) {
    let store = Flaky::new(0, 0);
    let data = noise(seed, size);
    let (digest, _) = store.store.put_bytes(data.clone()).await.unwrap();
    store.lying.store(true, Ordering::SeqCst);
    let joined = Joined::of(store.clone(), Faults::default()).await;
    let truth = store.clone();
    // Looks whenever another task has run: a blob takes the server's many times.
    tokio::spawn(async move {
        while truth.read.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        truth.lying.store(false, Ordering::SeqCst);
    });
    (joined, store, digest, data)
}

fn came_again(client: &Client, size: usize) {
    let roads = client.roads();
    assert_eq!(roads.rdma.received_bytes, size as u64);
    assert_eq!(roads.grpc.received_bytes, size as u64);
    assert_eq!(roads.fallbacks, 1);
    assert!(is_held_off(client));
}

#[tokio::test]
async fn blobs_in_memory_are_right() {
    for size in [2 << 20, 200_000] {
        let (joined, _store, digest, data) = lies_once(1, size).await;
        let client = joined.client().await;
        assert!(client.fetch_bytes(&digest).await.unwrap() == data);
        came_again(&client, size);

        let (joined, _store, digest, data) = lies_once(2, size).await;
        let client = joined.client().await;
        let fetched = client.fetch_batch(&[digest]).await.remove(0);
        assert!(fetched.unwrap() == data);
        came_again(&client, size);
    }
}

#[tokio::test]
async fn a_small_blob_is_right_before_it_is_given() {
    let size = 40_000;
    let (joined, _store, digest, data) = lies_once(3, size).await;
    let mut options = options();
    options.rdma_from_bytes = 1;
    let client = joined.client_with(options).await.unwrap();
    let blob = client.fetch(&digest, BlobRange::FULL).await.unwrap();
    assert!(blob.bytes().await.unwrap() == data);
    came_again(&client, size);
}

#[tokio::test]
async fn a_file_is_right_and_counted_once() {
    let size = 3 << 20;
    let (joined, _store, digest, data) = lies_once(4, size).await;
    let client = joined.client().await;
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let files = vec![Download {
        digest,
        target: target.clone(),
        mode: None,
    }];
    let cas: Arc<dyn Cas> = Arc::new(client.clone());
    let sums = Sums::default();
    let options = flaky::quick();
    transfer::download(&cas, files, &options, &sums)
        .await
        .unwrap();
    assert!(std::fs::read(&target).unwrap() == data);
    sums.check();
    came_again(&client, size);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn bytes_that_stay_wrong_are_refused() {
    let store = Flaky::new(0, 0);
    let size = 3 << 20;
    let (digest, _) = store.store.put_bytes(noise(5, size)).await.unwrap();
    store.lying.store(true, Ordering::SeqCst);
    let joined = Joined::of(store.clone(), Faults::default()).await;
    let client = joined.client().await;
    let error = client.fetch_bytes(&digest).await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    came_again(&client, size);
    let folder = tempfile::tempdir().unwrap();
    let files = vec![Download {
        digest,
        target: folder.path().join("file"),
        mode: None,
    }];
    let cas: Arc<dyn Cas> = Arc::new(joined.client().await);
    let options = flaky::quick();
    let error = transfer::download(&cas, files, &options, &Sums::default()).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_strict_client_gets_no_second_road() {
    let (joined, _store, digest, _) = lies_once(6, 2 << 20).await;
    let mut options = options();
    options.transport = TransportChoice::Rdma;
    let client = joined.client_with(options).await.unwrap();
    let error = client.fetch_bytes(&digest).await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(!error.is_transient());
    assert_eq!(client.roads().grpc.received_bytes, 0);
}
