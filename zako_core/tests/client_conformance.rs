//! The client is a store like any other.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod client_support;

use std::sync::Arc;

use client_support::{Running, noise, quick};
use zako_core::cas::{Cas, CasExt, ErrorKind, Lease, Location, Stored};
use zako_core::client::Client;
use zako_core::conformance;
use zako_core::store::MemoryStore;
use zako_digest::hash;

const ROOM: u64 = 512 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp() {
    let server = Running::tcp(Arc::new(MemoryStore::new(ROOM))).await;
    let client = server.client().await;
    let made = conformance::run_all(async || Arc::new(client.clone()) as _).await;
    made.unwrap_or_else(|violations| panic!("{violations}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zako.sock");
    let server = Running::unix(Arc::new(MemoryStore::new(ROOM)), &path).await;
    let client = server.client().await;
    let made = conformance::run_all(async || Arc::new(client.clone()) as _).await;
    made.unwrap_or_else(|violations| panic!("{violations}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_stream_on_one_connection_and_small_windows() {
    let server = Running::tcp(Arc::new(MemoryStore::new(ROOM))).await;
    let mut options = quick();
    options.max_connections = 1;
    options.stream_window = 64 << 10;
    options.connection_window = 0;
    options.frame_bytes = 0;
    options.message_bytes = 1_500;
    options.batch_bytes = 10_000;
    options.small_blob_bytes = 5_000;
    let client = Client::connect(&server.url, options).await.unwrap();
    for length in [0, 1, 4_999, 5_000, 5_001, 700_000] {
        let data = noise(length as u64, length);
        let (digest, stored) = client.put_bytes(data.clone()).await.unwrap();
        assert_eq!(stored, Stored::New);
        assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
    }
    let blobs: Vec<_> = (0..300)
        .map(|n| noise(1_000 + n, 4_000 + n as usize * 10))
        .map(|data| (hash::bytes(&data), data))
        .collect();
    let all = blobs.len();
    let stored = client.put_batch(blobs.clone()).await;
    assert!(stored.into_iter().all(|one| one.unwrap() == Stored::New));
    let digests: Vec<_> = blobs.iter().map(|(digest, _)| *digest).collect();
    let fetched = client.fetch_batch(&digests).await;
    assert_eq!(fetched.len(), all);
    for (fetched, (_, data)) in fetched.into_iter().zip(&blobs) {
        assert_eq!(fetched.unwrap(), data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_digests_are_asked_for_in_many_batches() {
    let server = Running::tcp(Arc::new(MemoryStore::new(ROOM))).await;
    let client = server.client().await;
    let digests: Vec<_> = (0..50_000u32)
        .map(|n| hash::bytes(&n.to_le_bytes()))
        .collect();
    for n in [0u32, 8_191, 8_192, 49_999] {
        client.put_bytes(n.to_le_bytes().to_vec()).await.unwrap();
    }
    let mut absent = digests.clone();
    for n in [49_999, 8_192, 8_191, 0] {
        absent.remove(n);
    }
    for lease in [Lease::Default, Lease::None] {
        assert_eq!(client.missing(&digests, lease).await.unwrap(), absent);
    }
    let stat = client.stat_batch(&digests[..2]).await.unwrap();
    assert!(stat[0].present && !stat[1].present);
    assert_eq!(stat[0].location, Location::Memory);
    let gone = client.delete_batch(&digests[..9_000]).await.unwrap();
    assert_eq!(gone, [digests[0], digests[8_191], digests[8_192]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_tells_of_itself() {
    let server = Running::tcp(Arc::new(MemoryStore::new(ROOM))).await;
    let client = server.client().await;
    let status = client.status().await.unwrap();
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(status.sessions, 1);
    assert!(client.recommended_concurrency() >= 1);
    assert_eq!(client.transport(), "grpc");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_work_than_one_connection_takes_opens_others_up_to_the_limit() {
    let server = Running::tcp(Arc::new(MemoryStore::new(ROOM))).await;
    let mut options = quick();
    options.max_connections = 3;
    let client = Client::connect(&server.url, options).await.unwrap();
    let data = noise(1, 2 << 20);
    let (digest, _) = client.put_bytes(data.clone()).await.unwrap();
    let tasks: Vec<_> = (0..200)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.fetch_bytes(&digest).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), data);
    }
    let sessions = client.status().await.unwrap().sessions;
    assert!((2..=3).contains(&sessions), "{sessions}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_refuses_arrives_as_its_kind() {
    let server = Running::tcp(Arc::new(MemoryStore::new(1 << 20))).await;
    let mut options = quick();
    options.retry = zako_core::client::RetryPolicy::NEVER;
    let client = Client::connect(&server.url, options).await.unwrap();
    let error = client.put_bytes(noise(1, 4 << 20)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert_eq!(error.retry_after(), None, "it can never fit");
    let text = error.to_string();
    assert_eq!(text.matches("blob").count(), 2, "the digest once: {text}");
    let absent = hash::bytes(b"absent");
    let error = client.fetch_bytes(&absent).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.digest()),
        (ErrorKind::NotFound, Some(absent))
    );
    let error = client.writer(&absent, 3).await.err().unwrap();
    assert_eq!((error.kind(), error.held()), (ErrorKind::NotHeld, Some(0)));
}
