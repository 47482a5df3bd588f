//! What metrics cost: small blobs through a real server, with its observer or without.
//!
//!     cargo bench -p zako_telemetry --bench observer -- on|off get|put|get-batch|put-batch [COUNT]
//!
//! One load a process, so that `perf stat -e instructions:u` and `perf record` see it alone.
//! Prints microseconds of CPU for each blob, of server and client together.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "figures are what it is for"
)]

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use rustix::time::{ClockId, clock_gettime};
use zako_core::Digest;
use zako_core::cas::{Cas, CasExt};
use zako_core::client::{Client, ClientOptions};
use zako_core::observe::Observer;
use zako_core::server::{Server, ServerOptions};
use zako_core::store::{Durability, LocalStore, StoreOptions};
use zako_digest::hash;
use zako_telemetry::{Metrics, OtlpOptions};

/// Of each blob.
const SIZE: usize = 8 << 10;

/// At once.
const CALLS: usize = 16;

/// Blobs in a batch.
const BATCH: usize = 128;

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut words = words
        .iter()
        .map(String::as_str)
        .filter(|word| *word != "--bench");
    let (Some(mode), Some(load)) = (words.next(), words.next()) else {
        println!("skipped: name on|off and get|put|get-batch|put-batch");
        return;
    };
    let count = words.next().map_or(20_000, |count| count.parse().unwrap());
    let metrics = Metrics::new(&OtlpOptions::default(), &|_| None).unwrap();
    let observer: Option<Arc<dyn Observer>> = match mode {
        "on" => Some(Arc::new(metrics.clone())),
        _ => None,
    };
    let folder = tempfile::tempdir().unwrap();
    let mut options = StoreOptions::default();
    // The disk's part is the same either way, and would hide ours.
    options.durability = Durability::None;
    options.observer = observer.clone();
    let store = LocalStore::open(folder.path().join("data"), options).await;
    let store = Arc::new(store.unwrap());
    let mut server = Server::new(store, ServerOptions::default());
    if let Some(observer) = observer {
        server = server.with_observer(observer);
    }
    let server = server.bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let url = format!("http://{}", server.local_addr()).parse().unwrap();
    tokio::spawn(server.serve(std::future::pending()));
    let client = Client::connect(&url, ClientOptions::default())
        .await
        .unwrap();
    let blobs: Vec<(Digest, Bytes)> = (0..count).map(blob).collect();
    if load.starts_with("get") {
        put_batches(&client, &blobs).await;
    }
    let began = cpu();
    match load {
        "put" => {
            let puts = stream::iter(&blobs).map(|(digest, data)| client.put(digest, data.clone()));
            let puts = puts.buffer_unordered(CALLS);
            puts.for_each(async |stored| {
                let _ = stored.unwrap();
            })
            .await;
        }
        "get" => {
            let gets = stream::iter(&blobs).map(|(digest, _)| client.fetch_bytes(digest));
            let gets = gets.buffer_unordered(CALLS);
            gets.for_each(async |got| assert_eq!(got.unwrap().len(), SIZE))
                .await;
        }
        "put-batch" => put_batches(&client, &blobs).await,
        _ => {
            for batch in blobs.chunks(BATCH) {
                let digests: Vec<_> = batch.iter().map(|(digest, _)| *digest).collect();
                let got = client.fetch_batch(&digests).await;
                assert!(got.iter().all(Result::is_ok));
            }
        }
    }
    println!(
        "{mode} {load} {:.3} us/blob",
        (cpu() - began) * 1e6 / count as f64
    );
}

async fn put_batches(client: &Client, blobs: &[(Digest, Bytes)]) {
    for batch in blobs.chunks(BATCH) {
        let stored = client.put_batch(batch.to_vec()).await;
        assert!(stored.iter().all(Result::is_ok));
    }
}

fn blob(number: usize) -> (Digest, Bytes) {
    let mut data = vec![0; SIZE];
    data[..8].copy_from_slice(&(number as u64).to_le_bytes());
    (hash::bytes(&data), data.into())
}

/// CPU time of this process in seconds.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
