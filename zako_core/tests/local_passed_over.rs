//! Which segment is freed first: not the oldest, if half of it was used; but leased
//! blobs only move elsewhere.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[allow(dead_code, reason = "other tests use the rest")]
mod sim;

use std::sync::Arc;

use bytes::Bytes;
use sim::SimFs;
use zako_core::Digest;
use zako_core::cas::{Cas, CasExt, Lease};
use zako_core::store::{LocalStore, StoreOptions};

/// So many records of [`LENGTH`] fill a segment.
const RECORDS: usize = 12;
const LENGTH: usize = 5_000;

/// Two thirds of a segment: more than half, less than nearly all.
const WANTED: usize = 8;

fn content(number: usize) -> Bytes {
    let mut data = vec![0; LENGTH];
    data[..8].copy_from_slice(&(number as u64).to_le_bytes());
    data.into()
}

async fn put(store: &LocalStore, number: usize) -> Digest {
    store.put_bytes(content(number)).await.unwrap().0
}

/// A store with one segment that is full, and the blobs in it.
async fn store() -> (LocalStore, Vec<Digest>) {
    let mut options = StoreOptions::default();
    options.max_bytes = Some(1 << 20);
    options.segment_bytes = Some(64 << 10);
    options.large_from = Some(6 << 10);
    options.backend = Arc::new(SimFs::new());
    let store = LocalStore::open("/store", options).await.unwrap();
    let mut digests = Vec::new();
    for number in 0..RECORDS {
        digests.push(put(&store, number).await);
    }
    (store, digests)
}

/// Puts new blobs until a segment is freed; what went, by number.
async fn first_to_go(store: &LocalStore, mut digests: Vec<Digest>) -> Vec<usize> {
    for number in digests.len().. {
        digests.push(put(store, number).await);
        let missing = store.missing(&digests, Lease::None).await.unwrap();
        if !missing.is_empty() {
            let at = |digest| digests.iter().position(|it| it == digest).unwrap();
            return missing.iter().map(at).collect();
        }
    }
    unreachable!("the store is bounded")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_half_used_is_passed_over() {
    let (store, digests) = store().await;
    for digest in &digests[..WANTED] {
        store.fetch_bytes(digest).await.unwrap();
    }
    let second: Vec<usize> = (RECORDS..2 * RECORDS).collect();
    assert_eq!(first_to_go(&store, digests).await, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_keep_their_blobs_and_not_the_segment() {
    let (store, digests) = store().await;
    let wanted = &digests[..WANTED];
    assert!(
        store
            .missing(wanted, Lease::Default)
            .await
            .unwrap()
            .is_empty()
    );
    let rest: Vec<usize> = (WANTED..RECORDS).collect();
    assert_eq!(first_to_go(&store, digests.clone()).await, rest);
    for (number, digest) in wanted.iter().enumerate() {
        assert_eq!(store.fetch_bytes(digest).await.unwrap(), content(number));
    }
}
