//! Batches of blobs read from the local store: the same as one by one.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[allow(dead_code, reason = "other tests use the rest")]
mod sim;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use sim::SimFs;
use zako_core::Digest;
use zako_core::cas::{Cas, CasExt, ErrorKind};
use zako_core::store::{LocalStore, StoreOptions};

async fn open(fs: &SimFs) -> LocalStore {
    let mut options = StoreOptions::default();
    options.max_bytes = Some(64 << 20);
    options.segment_bytes = Some(256 << 10);
    options.large_from = Some(60 << 10);
    options.backend = Arc::new(fs.clone());
    LocalStore::open("/store", options).await.unwrap()
}

fn content(number: u64, length: usize) -> (Digest, Bytes) {
    let data: Vec<u8> = (0..length)
        .map(|at| (at as u64 * 31 + number * 17 + (at as u64 >> 8)) as u8)
        .collect();
    (zako_digest::hash::bytes(&data), data.into())
}

/// Flips a bit of these bytes on disk.
fn flip(fs: &SimFs, data: &[u8]) {
    let mut flipped = 0;
    for path in fs.files_below(Path::new("/store")) {
        fs.edit(&path, |bytes| {
            if let Some(at) = bytes.windows(data.len()).position(|part| part == data) {
                bytes[at + data.len() / 2] ^= 0x10;
                flipped += 1;
            }
        });
    }
    assert_eq!(flipped, 1);
}

#[tokio::test]
async fn a_batch_has_what_single_reads_have_in_the_order_asked_for() {
    let fs = SimFs::new();
    let store = open(&fs).await;
    // Many side by side, some far from others, in several segments, in files.
    let lengths = [0, 1, 15, 16, 17, 100, 5_000, 8_192, 30_000, 60_000, 90_000];
    let mut blobs = Vec::new();
    for number in 0..66 {
        let (digest, data) = content(number, lengths[number as usize % lengths.len()]);
        store.put(&digest, data.clone()).await.unwrap();
        blobs.push((digest, data));
    }
    for at in (0..blobs.len()).step_by(9) {
        store.delete(&blobs[at].0).await.unwrap();
    }
    // Not in the order of the disk, and some twice.
    let asked: Vec<Digest> = (0..2 * blobs.len())
        .map(|at| blobs[at * 29 % blobs.len()].0)
        .collect();
    for _ in 0..2 {
        let batch = store.fetch_batch(&asked).await;
        assert_eq!(batch.len(), asked.len());
        let mut absent = 0;
        for (digest, outcome) in asked.iter().zip(batch) {
            match (store.fetch_bytes(digest).await, outcome) {
                (Ok(alone), Ok(among)) => assert_eq!(alone, among),
                (Err(alone), Err(among)) => {
                    assert_eq!(alone.kind(), among.kind());
                    absent += 1;
                }
                (alone, among) => panic!("{alone:?} {among:?}"),
            }
        }
        assert!(absent > 8, "{absent}");
    }
}

#[tokio::test]
async fn damage_hits_one_of_a_batch_and_ends_in_quarantine() {
    let fs = SimFs::new();
    let store = open(&fs).await;
    let blobs: Vec<_> = (0..8).map(|number| content(number, 1_000)).collect();
    for outcome in store.put_batch(blobs.clone()).await {
        outcome.unwrap();
    }
    flip(&fs, &blobs[3].1);
    let asked: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    for (at, outcome) in store.fetch_batch(&asked).await.into_iter().enumerate() {
        match outcome {
            Ok(data) => assert_eq!(data, blobs[at].1),
            Err(error) => assert_eq!((at, error.kind()), (3, ErrorKind::Corrupt)),
        }
    }
    assert!(!store.contains(&asked[3]).await.unwrap());
    let again = store.fetch_batch(&asked).await;
    assert_eq!(again[3].as_ref().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(again.iter().filter(|outcome| outcome.is_ok()).count(), 7);
}

#[tokio::test]
async fn a_tiny_blob_does_not_keep_what_was_read_with_it() {
    let fs = SimFs::new();
    let store = open(&fs).await;
    let mut tiny = Vec::new();
    for number in 0..20 {
        let (digest, data) = content(number, 10);
        store.put(&digest, data).await.unwrap();
        tiny.push(digest);
        let (digest, data) = content(number, 3_900);
        store.put(&digest, data).await.unwrap();
    }
    for blob in store.fetch_batch(&tiny).await {
        assert!(blob.unwrap().is_unique());
    }
}
