//! Recovery as a property: whatever was done before, and wherever the files end or
//! are damaged, an opened store has what it should have, whole.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[allow(dead_code, reason = "other tests use the rest")]
mod sim;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use sim::SimFs;
use zako_core::Digest;
use zako_core::cas::{Cas, CasExt, Lease, Maintain};
use zako_core::store::{LocalStore, StoreOptions};

const ROOT: &str = "/store";

#[derive(Clone, Debug)]
enum Step {
    Put(u8, usize),
    Delete(u8, usize),
    Batch(Vec<(u8, usize)>),
    Collect,
    /// A clean stop.
    Restart,
    /// The process is killed, nothing is in flight.
    Kill,
    /// The power fails, nothing is in flight.
    PowerLoss(u64),
}

fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), 1..100usize, 900..1_100usize, 5_000..9_000usize]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..12u8, lengths()).prop_map(|(blob, length)| Step::Put(blob, length)),
        3 => (0..12u8, lengths()).prop_map(|(blob, length)| Step::Delete(blob, length)),
        2 => prop::collection::vec((0..12u8, lengths()), 1..20).prop_map(Step::Batch),
        1 => Just(Step::Collect),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
        1 => any::<u64>().prop_map(Step::PowerLoss),
    ];
    prop::collection::vec(step, 1..60)
}

fn content(blob: u8, length: usize) -> (Digest, Bytes) {
    // A few lengths only, so that blobs come again.
    let length = length / 300 * 300;
    let data: Vec<u8> = (0..length).map(|at| blob ^ ((at * 7) >> 2) as u8).collect();
    (zako_digest::hash::bytes(&data), data.into())
}

fn options(fs: &SimFs) -> StoreOptions {
    let mut options = StoreOptions::default();
    options.max_bytes = Some(64 << 20);
    options.segment_bytes = Some(64 << 10);
    options.large_from = Some(6_000);
    options.backend = Arc::new(fs.clone());
    options
}

async fn open(fs: &SimFs) -> LocalStore {
    LocalStore::open(ROOT, options(fs)).await.unwrap()
}

async fn end(store: LocalStore) {
    let _ = store.close().await;
}

async fn check(store: &LocalStore, model: &BTreeMap<Digest, bool>) {
    for (digest, present) in model {
        let missing = store.missing(&[*digest], Lease::None).await.unwrap();
        assert_eq!(missing.is_empty(), *present, "{digest}");
        if *present {
            let data = store.fetch_bytes(digest).await.unwrap();
            assert_eq!(zako_digest::hash::bytes(&data), *digest);
        }
    }
    let present: Vec<_> = model.iter().filter(|(_, present)| **present).collect();
    let usage = store.usage().await.unwrap();
    assert_eq!(usage.blobs, present.len() as u64);
    let bytes: u64 = present.iter().map(|(digest, _)| digest.size()).sum();
    assert_eq!(usage.blob_bytes, bytes);
    assert_eq!(usage.quarantined_blobs, 0);
}

async fn live(steps: Vec<Step>) {
    let mut fs = SimFs::new();
    let mut store = open(&fs).await;
    let mut model = BTreeMap::new();
    for step in steps {
        match step {
            Step::Put(blob, length) => {
                let (digest, data) = content(blob, length);
                store.put(&digest, data).await.unwrap();
                model.insert(digest, true);
            }
            Step::Delete(blob, length) => {
                let (digest, _) = content(blob, length);
                let known = model.insert(digest, false).unwrap_or(false);
                assert_eq!(store.delete(&digest).await.unwrap(), known);
            }
            Step::Batch(blobs) => {
                let blobs: Vec<_> = blobs
                    .iter()
                    .map(|(blob, length)| content(*blob, *length))
                    .collect();
                model.extend(blobs.iter().map(|(digest, _)| (*digest, true)));
                for stored in store.put_batch(blobs).await {
                    stored.unwrap();
                }
            }
            Step::Collect => {
                store.collect_garbage().await.unwrap();
            }
            Step::Restart => {
                end(store).await;
                store = open(&fs).await;
            }
            Step::Kill => {
                let after = fs.after_kill();
                fs.power_off();
                end(store).await;
                fs = after;
                store = open(&fs).await;
            }
            Step::PowerLoss(seed) => {
                let after = fs.restart(seed);
                fs.power_off();
                end(store).await;
                fs = after;
                store = open(&fs).await;
            }
        }
        check(&store, &model).await;
    }
    end(store).await;
}

/// A segment of 20 blobs, cut and damaged at will: what is untouched is found, and
/// nothing else is.
async fn damaged(cut: usize, flips: Vec<(usize, u8)>) {
    let fs = SimFs::new();
    let store = open(&fs).await;
    let mut ends = Vec::new();
    let mut at = 64;
    for blob in 0..20 {
        let (digest, data) = content(blob + 100, 900);
        store.put(&digest, data).await.unwrap();
        let end = at + (64 + 900usize).next_multiple_of(16);
        ends.push((digest, at..end));
        at = end;
    }
    // Killed, so that there is no footer to lean on.
    let after = fs.after_kill();
    fs.power_off();
    end(store).await;
    let segment = after.files_below(&Path::new(ROOT).join("segments"))[0].clone();
    let mut hit = Vec::new();
    after.edit(&segment, |bytes| {
        assert_eq!(bytes.len(), at);
        for (place, bit) in &flips {
            // The segment's own header is another test's.
            let place = 64 + place % (bytes.len() - 64);
            bytes[place] ^= 1 << (bit % 8);
            hit.push(place);
        }
        bytes.truncate(64 + cut % (bytes.len() - 63));
        at = bytes.len();
    });
    let store = open(&after).await;
    for (digest, place) in ends {
        // Padding and reserved bytes may be hit without harm.
        let untouched = place.end <= at && !hit.iter().any(|hit| place.contains(hit));
        let present = store.contains(&digest).await.unwrap();
        assert!(present || !untouched, "{digest} at {place:?} was lost");
        if present {
            let data = store.fetch_bytes(&digest).await.unwrap();
            assert_eq!(zako_digest::hash::bytes(&data), digest);
        }
    }
    let (digest, data) = content(7, 900);
    store.put(&digest, data).await.unwrap();
    end(store).await;
    let store = open(&after).await;
    assert!(store.contains(&digest).await.unwrap());
    end(store).await;
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_was_done_is_found(steps in steps()) {
        run(live(steps));
    }

    #[test]
    fn damage_costs_only_what_it_hits(
        cut: usize,
        flips in prop::collection::vec(any::<(usize, u8)>(), 0..6),
    ) {
        run(damaged(cut, flips));
    }
}
