//! The store on a disk that loses its power at any moment.
//!
//! The promise: no blob is reported present that can't be read back whole; no
//! acknowledged blob is lost; what was deleted stays deleted; no space leaks.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[allow(dead_code, reason = "other tests use the rest")]
mod sim;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sim::SimFs;
use zako_core::Digest;
use zako_core::cas::{Cas, CasExt, Lease, Maintain};
use zako_core::store::{Durability, LocalStore, StoreOptions};

const ROOT: &str = "/store";

/// What is known of a blob: what was acknowledged last.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// A put was acknowledged, and no delete was begun since.
    Present,
    /// A delete was acknowledged, and no put was begun since.
    Deleted,
    /// Something was begun and not acknowledged.
    Open,
}

type Model = Arc<Mutex<HashMap<Digest, Fate>>>;

fn options(fs: &SimFs, cap: u64) -> StoreOptions {
    let mut options = StoreOptions::default();
    options.max_bytes = Some(cap);
    options.segment_bytes = Some(64 << 10);
    options.large_from = Some(6 << 10);
    options.backend = Arc::new(fs.clone());
    options
}

fn blob(rng: &mut StdRng) -> Bytes {
    let length = match rng.random_range(0..10) {
        0 => 0,
        1..=6 => rng.random_range(1..2_000),
        7 | 8 => rng.random_range(2_000..6_200),
        _ => rng.random_range(6_200..40_000),
    };
    // Few different ones, so that they are put and deleted again and again.
    let seed = rng.random_range(0..60u64);
    let mut content = StdRng::seed_from_u64((seed << 20) | (length as u64 / 3_000));
    let mut data = vec![0; length / 3_000 * 3_000 + seed as usize];
    content.fill(&mut data[..]);
    data.into()
}

async fn load(store: LocalStore, fs: SimFs, model: Model, seed: u64, steps: usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..steps {
        let data = blob(&mut rng);
        let digest = zako_digest::hash::bytes(&data);
        let begin = || model.lock().unwrap().insert(digest, Fate::Open);
        let end = |acknowledged: bool, before: Option<Fate>, after: Fate| {
            if acknowledged && !fs.is_dead() {
                model.lock().unwrap().insert(digest, after);
            } else if before == Some(after) {
                // What failed would have changed nothing.
                model.lock().unwrap().insert(digest, after);
            }
        };
        match rng.random_range(0..10) {
            0 | 1 => {
                let before = begin();
                let deleted = store.delete(&digest).await.is_ok();
                end(deleted, before, Fate::Deleted);
            }
            2 => {
                // An upload that stops on its way.
                if let Ok(mut writer) = store.writer(&digest, 0).await {
                    let _ = writer.write(data.slice(..data.len() / 2)).await;
                    let _ = writer.park().await;
                }
            }
            3 => {
                let steps = data.chunks(1_000).map(|step| Ok(data.slice_ref(step)));
                let steps = futures::stream::iter(steps.collect::<Vec<_>>());
                let before = begin();
                let stored = store.store(&digest, steps).await.is_ok();
                end(stored, before, Fate::Present);
            }
            4 => {
                let _ = store.collect_garbage().await;
            }
            _ => {
                let before = begin();
                let stored = store.put(&digest, data).await.is_ok();
                end(stored, before, Fate::Present);
            }
        }
    }
}

/// Whether the promise holds.
async fn check(store: &LocalStore, fs: &SimFs, model: &Model, evicting: bool, about: &str) {
    let model = model.lock().unwrap().clone();
    for (digest, fate) in &model {
        let present = store
            .missing(&[*digest], Lease::None)
            .await
            .unwrap()
            .is_empty();
        match fate {
            Fate::Present => assert!(present || evicting, "{about}: {digest} was lost"),
            Fate::Deleted => assert!(!present, "{about}: {digest} came back"),
            Fate::Open => {}
        }
        if present {
            let data = store.fetch_bytes(digest).await;
            let data = data.unwrap_or_else(|error| panic!("{about}: {error}"));
            assert_eq!(zako_digest::hash::bytes(&data), *digest, "{about}");
        }
    }
    let usage = store.usage().await.unwrap();
    assert_eq!(usage.quarantined_blobs, 0, "{about}");
    let on_disk = fs.bytes_below(Path::new(ROOT));
    // Files are counted in blocks, segments with the footers they will have.
    let slack = 4096 * (fs.files_below(Path::new(ROOT)).len() as u64 + 1) + 48 * 4000;
    assert!(
        usage.disk_bytes + 4096 >= on_disk && usage.disk_bytes <= on_disk + slack,
        "{about}: {} counted, {on_disk} on disk",
        usage.disk_bytes
    );
}

async fn close(store: LocalStore) {
    let _ = store.close().await;
    drop(store);
}

/// Opens the store on a disk whose last user is gone.
async fn open(fs: &SimFs, cap: u64) -> zako_core::cas::Result<LocalStore> {
    LocalStore::open(ROOT, options(fs, cap)).await
}

/// How a life ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    PowerLoss,
    Kill,
    /// A kill leaves names and bytes that are not on disk; what is built on them
    /// meets a power loss later.
    Either,
}

async fn one_life(seed: u64, cap: u64, end: End) {
    let mut rng = StdRng::seed_from_u64(seed);
    let evicting = cap < 8 << 20;
    let mut fs = SimFs::new();
    let model = Model::default();
    for crash in 0..4 {
        let about = format!("seed {seed}, crash {crash}");
        // The power may go out while the store opens, too.
        fs.power_off_after(rng.random_range(1..400));
        if let Ok(store) = open(&fs, cap).await {
            let tasks: Vec<_> = (0..3)
                .map(|_| {
                    let (store, fs, model) = (store.clone(), fs.clone(), Arc::clone(&model));
                    // Each knows what it did itself; `merge` finds what all agree on.
                    let seed = rng.random();
                    tokio::spawn(async move {
                        let own = Model::default();
                        load(store, fs, Arc::clone(&own), seed, 60).await;
                        (model, own)
                    })
                })
                .collect();
            for task in tasks {
                let (model, own) = task.await.unwrap();
                merge(&model, &own);
            }
            fs.power_off();
            close(store).await;
        }
        fs.power_off();
        let kill = end == End::Kill || (end == End::Either && rng.random());
        fs = if kill {
            fs.after_kill()
        } else {
            fs.restart(rng.random())
        };
        let store = open(&fs, cap)
            .await
            .unwrap_or_else(|error| panic!("{about}: {error}"));
        check(&store, &fs, &model, evicting, &about).await;
        close(store).await;
    }
}

/// Fates of tasks that ran at once: what they don't agree on is open.
fn merge(model: &Model, own: &Model) {
    let (mut model, own) = (model.lock().unwrap(), own.lock().unwrap());
    for (digest, fate) in own.iter() {
        model
            .entry(*digest)
            .and_modify(|known| {
                if known != fate {
                    *known = Fate::Open;
                }
            })
            .or_insert(*fate);
    }
}

const LIVES: u64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn power_loss_with_room() {
    for seed in 0..LIVES {
        one_life(seed, 64 << 20, End::PowerLoss).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn power_loss_while_evicting() {
    for seed in 1000..1000 + LIVES {
        one_life(seed, 1 << 20, End::PowerLoss).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process() {
    for seed in 2000..2000 + LIVES {
        one_life(seed, 64 << 20, End::Kill).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_now_and_powerless_then() {
    for seed in 4000..4000 + LIVES {
        one_life(seed, 64 << 20, End::Either).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_durable_is_lost_whole() {
    for seed in 3000..3000 + LIVES {
        let fs = SimFs::new();
        let mut relaxed = options(&fs, 64 << 20);
        relaxed.durability = Durability::None;
        let store = LocalStore::open(ROOT, relaxed).await.unwrap();
        let model = Model::default();
        load(store.clone(), fs.clone(), Arc::clone(&model), seed, 100).await;
        fs.power_off();
        close(store).await;
        // Anything may be lost; nothing may be half there.
        for fate in model.lock().unwrap().values_mut() {
            *fate = Fate::Open;
        }
        let fs = fs.restart(seed);
        let store = open(&fs, 64 << 20).await.unwrap();
        let known = model.lock().unwrap().clone();
        for digest in known.keys() {
            match store.fetch_bytes(digest).await {
                Ok(data) => assert_eq!(zako_digest::hash::bytes(&data), *digest),
                Err(error) => assert!(error.is_not_found(), "seed {seed}: {error}"),
            }
        }
        close(store).await;
    }
}
