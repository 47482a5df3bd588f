//! Small blobs that many tasks store one by one through one client.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod client_support;

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use client_support::{Running, any_port, noise, quick};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use zako_core::cas::{Blob, BlobStat, BlobWriter, Cas, CasExt, ErrorKind, Lease, Result, Stored};
use zako_core::client::Client;
use zako_core::server::ServerOptions;
use zako_core::store::MemoryStore;
use zako_core::{BlobRange, Digest};
use zako_digest::hash;

/// A store whose batches each wait for a permit.
#[derive(Debug)]
struct Slow {
    store: MemoryStore,
    turns: Semaphore,
    /// The blobs of each batch that came.
    batches: Mutex<Vec<usize>>,
}

#[async_trait]
impl Cas for Slow {
    async fn missing(&self, digests: &[Digest], lease: Lease) -> Result<Vec<Digest>> {
        self.store.missing(digests, lease).await
    }

    async fn stat(&self, digest: &Digest) -> Result<BlobStat> {
        self.store.stat(digest).await
    }

    async fn fetch(&self, digest: &Digest, range: BlobRange) -> Result<Blob> {
        self.store.fetch(digest, range).await
    }

    async fn put(&self, digest: &Digest, data: Bytes) -> Result<Stored> {
        self.store.put(digest, data).await
    }

    async fn writer(&self, digest: &Digest, offset: u64) -> Result<Box<dyn BlobWriter>> {
        self.store.writer(digest, offset).await
    }

    async fn held(&self, digest: &Digest) -> Result<u64> {
        self.store.held(digest).await
    }

    async fn delete(&self, digest: &Digest) -> Result<bool> {
        self.store.delete(digest).await
    }

    async fn put_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<Stored>> {
        self.batches.lock().push(blobs.len());
        self.turns.acquire().await.unwrap().forget();
        self.store.put_batch(blobs).await
    }
}

impl Slow {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            store: MemoryStore::new(64 << 20),
            turns: Semaphore::new(0),
            batches: Mutex::default(),
        })
    }

    /// Returns when so many batches have come.
    async fn came(&self, batches: usize) {
        while self.batches.lock().len() < batches {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_calls_run_shares_the_next_one_and_each_has_its_outcome() {
    let slow = Slow::new();
    let server = Running::tcp(slow.clone()).await;
    let client = server.client().await;
    let blobs: Vec<_> = (0..100)
        .map(|number| noise(number, 3_000))
        .map(|data| (hash::bytes(&data), data))
        .collect();
    let old = &blobs[60];
    slow.store.put(&old.0, old.1.clone()).await.unwrap();
    let mut tasks = Vec::new();
    for (at, (digest, data)) in blobs.iter().cloned().enumerate() {
        let client = client.clone();
        tasks.push(tokio::spawn(async move {
            let wrong = noise(1_000, 3_000);
            let data = if at == 70 { wrong } else { data };
            client.put(&digest, data).await
        }));
        if at == 3 {
            slow.came(4).await;
        }
    }
    // Some go away that wait; they take none of the others with them.
    while tasks[80..90].iter().any(|task| !task.is_finished()) {
        tasks[80..90].iter().for_each(|task| task.abort());
        tokio::task::yield_now().await;
    }
    slow.turns.add_permits(1_000);
    for (at, task) in tasks.into_iter().enumerate() {
        let outcome = match task.await {
            Ok(outcome) => outcome,
            Err(error) => {
                assert!(error.is_cancelled() && (80..90).contains(&at));
                continue;
            }
        };
        match at {
            60 => assert_eq!(outcome.unwrap(), Stored::Existing),
            70 => assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Mismatch),
            _ => assert_eq!(outcome.unwrap(), Stored::New),
        }
        assert_eq!(slow.store.contains(&blobs[at].0).await.unwrap(), at != 70);
    }
    let batches = slow.batches.lock().clone();
    assert_eq!(batches[..4], [1; 4]);
    assert!(batches.len() < 50, "{batches:?}");

    // Whatever waited, the next one finds its way.
    let (digest, data) = &blobs[85];
    client.put(digest, data.clone()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_passes_its_turn_on() {
    let slow = Slow::new();
    let server = Running::tcp(slow.clone()).await;
    let client = server.client().await;
    let put = |number| {
        let (client, data) = (client.clone(), noise(number, 100));
        tokio::spawn(async move { client.put_bytes(data).await })
    };
    let running: Vec<_> = (0..4).map(put).collect();
    slow.came(4).await;
    let waiting: Vec<_> = (4..8).map(put).collect();
    for task in &running {
        task.abort();
    }
    slow.came(5).await;
    slow.turns.add_permits(1_000);
    for task in waiting {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_nobody_polls_holds_up_no_other() {
    for streams in [1, 256] {
        let mut options = ServerOptions::default();
        options.max_streams_per_connection = streams;
        let slow = Slow::new();
        slow.turns.add_permits(1_000);
        let server = Running::start(slow.clone(), &any_port(), options).await;
        let mut options = quick();
        options.max_connections = 1;
        let client = Client::connect(&server.url, options).await.unwrap();
        // From then on the client knows how many streams there are.
        client.put_bytes(noise(0, 100)).await.unwrap();
        let mut numbers = 1..;
        let mut blob = || noise(numbers.next().unwrap(), 100);
        // On a busy machine a call may be over before its first poll is.
        let put = loop {
            let mut put = Box::pin(client.put_bytes(blob()));
            match futures::poll!(&mut put) {
                Poll::Pending => break put,
                Poll::Ready(stored) => drop(stored.unwrap()),
            }
        };
        for _ in 0..18 {
            client.put_bytes(blob()).await.unwrap();
        }
        put.await.unwrap();
    }
}
