//! How many connections a client opens for what moves at once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::field_reassign_with_default,
    missing_docs
)]

mod client_support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client_support::{Running, any_port, noise, quick};
use futures::StreamExt;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use zako_core::BlobRange;
use zako_core::cas::{Blob, Cas, CasExt};
use zako_core::client::{Client, RetryPolicy, ServerUrl};
use zako_core::server::ServerOptions;
use zako_core::store::MemoryStore;
use zako_digest::hash;

const ROOM: u64 = 256 << 20;
const LARGE: usize = 9 << 20;
const SMALL: usize = 2 << 20;

struct Setup {
    _server: Running,
    client: Client,
    large: Bytes,
    small: Bytes,
}

impl Setup {
    async fn new(most: usize, options: ServerOptions) -> Self {
        let store = MemoryStore::new(ROOM);
        let (large, small) = (noise(1, LARGE), noise(2, SMALL));
        store.put_bytes(large.clone()).await.unwrap();
        store.put_bytes(small.clone()).await.unwrap();
        let server = Running::start(Arc::new(store), &any_port(), options).await;
        let mut options = quick();
        options.max_connections = most;
        let client = Client::connect(&server.url, options).await.unwrap();
        Self {
            _server: server,
            client,
            large,
            small,
        }
    }

    async fn open(&self, data: &Bytes) -> Blob {
        let digest = hash::bytes(data);
        self.client.fetch(&digest, BlobRange::FULL).await.unwrap()
    }

    async fn sessions(&self) -> u64 {
        self.client.status().await.unwrap().sessions
    }
}

async fn read(mut blob: Blob) -> Vec<u8> {
    let mut data = Vec::new();
    while let Some(step) = blob.next().await {
        data.extend_from_slice(&step.unwrap());
    }
    data
}

#[tokio::test(flavor = "multi_thread")]
async fn large_blobs_have_a_connection_each_up_to_the_limit() {
    let setup = Setup::new(3, ServerOptions::default()).await;
    let mut open = Vec::new();
    // With one core these are all streams that the server recommends.
    for sessions in [1, 2, 3, 3] {
        open.push(setup.open(&setup.large).await);
        assert_eq!(setup.sessions().await, sessions);
    }
    let others = async {
        for blob in open {
            assert!(read(blob).await == setup.large);
        }
    };
    let further = async {
        let blob = setup.open(&setup.large).await;
        assert_eq!(setup.sessions().await, 3);
        assert!(read(blob).await == setup.large);
    };
    futures::join!(further, others);
    // What is free is used again.
    let again = [
        setup.open(&setup.large).await,
        setup.open(&setup.large).await,
    ];
    assert_eq!(setup.sessions().await, 3);
    for blob in again {
        assert!(read(blob).await == setup.large);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_begin_at_once_get_one_each() {
    let setup = Setup::new(4, ServerOptions::default()).await;
    let tasks = [(); 4].map(|()| setup.open(&setup.large));
    let open = futures::future::join_all(tasks).await;
    assert_eq!(setup.sessions().await, 4);
    drop(open);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_count_too() {
    let setup = Setup::new(4, ServerOptions::default()).await;
    let _down = setup.open(&setup.large).await;
    let new = noise(3, LARGE);
    let mut up = setup.client.writer(&hash::bytes(&new), 0).await.unwrap();
    assert_eq!(setup.sessions().await, 2);
    up.write(new).await.unwrap();
    up.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn smaller_blobs_share() {
    let setup = Setup::new(4, ServerOptions::default()).await;
    // Two at once, which is what the server recommends with one core.
    let large = setup.open(&setup.large).await;
    let small = setup.open(&setup.small).await;
    assert_eq!(setup.sessions().await, 1);
    assert!(read(small).await == setup.small);
    let part = BlobRange::new(0, SMALL as u64);
    let digest = hash::bytes(&setup.large);
    let part = setup.client.fetch(&digest, part).await.unwrap();
    assert_eq!(setup.sessions().await, 1);
    assert!(read(large).await == setup.large);
    assert!(read(part).await == setup.large[..SMALL]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_no_more_connections_serves_all_on_one() {
    let mut options = ServerOptions::default();
    options.max_connections = 1;
    let setup = Setup::new(4, options).await;
    let open = [
        setup.open(&setup.large).await,
        setup.open(&setup.large).await,
    ];
    assert_eq!(setup.sessions().await, 1);
    for blob in open {
        assert!(read(blob).await == setup.large);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_gives_no_more_sessions_serves_all_on_one() {
    let mut options = ServerOptions::default();
    options.max_sessions = 1;
    let store = MemoryStore::new(ROOM);
    let server = Running::start(Arc::new(store), &any_port(), options).await;
    let mut options = quick();
    options.max_connections = 4;
    options.retry = RetryPolicy::NEVER;
    let client = Client::connect(&server.url, options).await.unwrap();
    // None of them is told of the others' refusals.
    let writers = (0..6).map(|number| {
        let client = client.clone();
        async move {
            let data = noise(number, LARGE);
            let mut writer = client.writer(&hash::bytes(&data), 0).await.unwrap();
            writer.write(data).await.unwrap();
            writer.commit().await.unwrap()
        }
    });
    assert_eq!(futures::future::join_all(writers).await.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_that_nobody_polls_hold_up_no_others() {
    let setup = Setup::new(1, ServerOptions::default()).await;
    let blobs: Vec<_> = (0..40).map(|number| noise(100 + number, 1000)).collect();
    let blobs: Vec<_> = blobs
        .into_iter()
        .map(|data| (hash::bytes(&data), data))
        .collect();
    let mut begun = Vec::new();
    for (digest, data) in &blobs[1..] {
        let mut put = setup.client.put(digest, data.clone());
        // Some may be done at once; the first four at least had to begin a call.
        let _ = futures::poll!(&mut put);
        begun.push(put);
    }
    let last = setup.client.put(&blobs[0].0, blobs[0].1.clone());
    let last = tokio::time::timeout(Duration::from_secs(60), last).await;
    last.expect("it ends").unwrap();
    drop(begun);
}

/// Passes the first connection on; the others get no answer.
async fn only_one_answers(server: &Running) -> ServerUrl {
    let to = server.url.to_string()["http://".len()..].to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = ServerUrl::from(listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(to).await.unwrap();
        tokio::spawn(async move { copy_bidirectional(&mut near, &mut far).await });
        let mut silent = Vec::new();
        while let Ok((further, _)) = listener.accept().await {
            silent.push(further);
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_never_answer_hold_up_no_large_blob() {
    let store = MemoryStore::new(ROOM);
    let data = noise(1, LARGE);
    let (digest, _) = store.put_bytes(data.clone()).await.unwrap();
    let server = Running::start(Arc::new(store), &any_port(), ServerOptions::default()).await;
    let url = only_one_answers(&server).await;
    let mut options = quick();
    // Long enough that the test fails where it is waited for.
    options.call_timeout = Duration::from_secs(3600);
    options.connect_timeout = Duration::from_secs(3600);
    options.keepalive = Duration::from_secs(3600);
    let client = Client::connect(&url, options).await.unwrap();
    // Each is read as it begins: with one core there are fewer streams than blobs.
    let all = (0..4).map(|_| async {
        let blob = client.fetch(&digest, BlobRange::FULL).await.unwrap();
        assert!(read(blob).await == data);
    });
    let all = futures::future::join_all(all);
    let ended = tokio::time::timeout(Duration::from_secs(60), all).await;
    ended.expect("they begin and end");
}
