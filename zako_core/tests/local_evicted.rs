//! Deleting what was evicted: it stays away, also when the eviction itself was not
//! on disk yet as the power went out.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[allow(dead_code, reason = "other tests use the rest")]
mod sim;

use std::sync::Arc;

use bytes::Bytes;
use sim::{Call, EIO, Fault, SimFs};
use zako_core::Digest;
use zako_core::cas::{Cas, CasExt, Lease};
use zako_core::store::{LocalStore, StoreOptions};

async fn open(fs: &SimFs) -> LocalStore {
    let mut options = StoreOptions::default();
    options.max_bytes = Some(1 << 20);
    options.segment_bytes = Some(64 << 10);
    options.large_from = Some(6 << 10);
    options.backend = Arc::new(fs.clone());
    LocalStore::open("/store", options).await.unwrap()
}

fn content(number: u64, length: usize) -> Bytes {
    let mut data = vec![0; length];
    data[..8].copy_from_slice(&number.to_le_bytes());
    data.into()
}

/// Fills a store with blobs of this length until some are evicted: those.
async fn evicted(store: &LocalStore, length: usize) -> Vec<Digest> {
    let mut stored = Vec::new();
    for number in 0.. {
        // What could not be freed may leave no room.
        let Ok((digest, _)) = store.put_bytes(content(number, length)).await else {
            break;
        };
        stored.push(digest);
        let missing = store.missing(&stored, Lease::None).await.unwrap();
        if missing.len() > 3 {
            break;
        }
    }
    store.missing(&stored, Lease::None).await.unwrap()
}

async fn stay_away(fs: &SimFs, digests: &[Digest], about: &str) {
    let store = open(fs).await;
    let missing = store.missing(digests, Lease::None).await.unwrap();
    assert_eq!(missing, digests, "{about}");
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn evicted_files_stay_away_once_deleted() {
    let fs = SimFs::new();
    let store = open(&fs).await;
    let evicted = evicted(&store, 20_000).await;
    assert!(!evicted.is_empty());
    for digest in &evicted {
        assert!(!store.delete(digest).await.unwrap());
    }
    fs.power_off();
    let _ = store.close().await;
    for seed in 0..32 {
        stay_away(&fs.restart(seed), &evicted, &format!("seed {seed}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn evicted_records_stay_away_once_deleted() {
    let fs = SimFs::new();
    let store = open(&fs).await;
    // An eviction that gets no further than the index.
    fs.fail(Fault {
        call: Call::Remove,
        path: "/segments/",
        after: 0,
        times: u64::MAX,
        errno: EIO,
    });
    let evicted = evicted(&store, 5_000).await;
    assert!(!evicted.is_empty());
    for digest in &evicted {
        assert!(!store.delete(digest).await.unwrap());
    }
    fs.power_off();
    let _ = store.close().await;
    stay_away(&fs.after_kill(), &evicted, "killed").await;
    for seed in 0..32 {
        stay_away(&fs.restart(seed), &evicted, &format!("seed {seed}")).await;
    }
}
