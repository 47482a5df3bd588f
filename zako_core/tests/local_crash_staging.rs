//! Staged uploads on a disk that loses its power at any moment.
//!
//! The promise: what was acknowledged is there; a blob has the bytes that its witness
//! let pass; an upload goes on after the crash with what is staged, or is told to
//! begin again; no space leaks.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[allow(dead_code, reason = "other tests use the rest")]
mod sim;
#[allow(dead_code, reason = "other tests use the rest")]
mod witness;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sim::SimFs;
use witness::wants;
use zako_core::Digest;
use zako_core::cas::{
    Cas, CasExt, ErrorKind, Lease, Maintain, Result, StagedSize, Staging, Stored, UploadKey,
};
use zako_core::store::{LocalStore, StoreOptions};

const ROOT: &str = "/store";
const BLOBS: u64 = 20;

fn options(fs: &SimFs) -> StoreOptions {
    let mut options = StoreOptions::default();
    options.max_bytes = Some(64 << 20);
    options.segment_bytes = Some(64 << 10);
    options.large_from = Some(6 << 10);
    options.backend = Arc::new(fs.clone());
    options
}

/// One of few different blobs, some of which fit in a record.
fn blob(number: u64) -> (Digest, Bytes) {
    static ALL: LazyLock<Vec<(Digest, Bytes)>> = LazyLock::new(|| (0..BLOBS).map(make).collect());
    ALL[number as usize].clone()
}

fn make(number: u64) -> (Digest, Bytes) {
    let mut content = StdRng::seed_from_u64(number);
    let length = match number {
        // More than one step.
        0..3 => content.random_range(500_000..1_300_000),
        _ if number.is_multiple_of(2) => content.random_range(1..6_000),
        _ => content.random_range(6_200..40_000),
    };
    let mut data = vec![0; length];
    content.fill(&mut data[..]);
    (zako_digest::hash::bytes(&data), data.into())
}

fn key(number: u64) -> UploadKey {
    UploadKey::of_name(&number.to_le_bytes())
}

fn size(rng: &mut StdRng, digest: &Digest) -> StagedSize {
    match rng.random() {
        true => StagedSize::Exactly(digest.size()),
        false => StagedSize::AtMost(digest.size() + rng.random_range(0..20_000)),
    }
}

/// What one does with an upload.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    ToTheEnd,
    Park,
    Drop,
    Discard,
}

/// Goes on with an upload from `offset`; the blob, if it was stored.
async fn upload(
    store: &LocalStore,
    rng: &mut StdRng,
    number: u64,
    offset: u64,
    way: Way,
) -> Result<Option<Stored>> {
    let (digest, data) = blob(number);
    let size = size(rng, &digest);
    let mut writer = store
        .stage(&key(number), size, offset, wants(digest))
        .await?;
    let end = match way {
        Way::ToTheEnd => data.len(),
        _ => rng.random_range(offset as usize..=data.len()),
    };
    let step = rng.random_range(1_000..300_000);
    for step in data[offset as usize..end].chunks(step) {
        writer.write(data.slice_ref(step)).await?;
    }
    match way {
        Way::Park => writer.park().await.map(|_| None),
        Way::Discard => writer.discard().await.map(|()| None),
        Way::Drop => Ok(None),
        Way::ToTheEnd => {
            let (named, stored) = writer.commit().await?;
            assert_eq!(named, digest);
            Ok(Some(stored))
        }
    }
}

/// Uploads until the power is out; what was acknowledged.
async fn load(store: LocalStore, fs: SimFs, seed: u64) -> HashSet<u64> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut stored = HashSet::new();
    for _ in 0..25 {
        let number = rng.random_range(0..BLOBS);
        if rng.random_range(0..5) == 0 {
            let outcomes = store.put_unnamed(vec![blob(number).1]).await;
            if outcomes[0].is_ok() && !fs.is_dead() {
                stored.insert(number);
            }
            continue;
        }
        let held = store.staged(&key(number)).await.unwrap_or(0);
        let offset = match rng.random_range(0..4) {
            0 => 0,
            1 => rng.random_range(0..=held),
            _ => held,
        };
        let way = match rng.random_range(0..10) {
            0..=4 => Way::ToTheEnd,
            5 | 6 => Way::Park,
            7 | 8 => Way::Drop,
            _ => Way::Discard,
        };
        match upload(&store, &mut rng, number, offset, way).await {
            Ok(Some(_)) if !fs.is_dead() => {
                stored.insert(number);
            }
            // Another task goes on with it, or it was one of an earlier life.
            Err(error) if [ErrorKind::NotHeld, ErrorKind::Stale].contains(&error.kind()) => {}
            Err(error) => assert!(fs.is_dead(), "seed {seed}: {error:?}"),
            Ok(_) => {}
        }
    }
    stored
}

async fn close(store: LocalStore) {
    let _ = store.close().await;
    drop(store);
}

/// Whether the promise holds.
async fn check(store: &LocalStore, fs: &SimFs, stored: &HashSet<u64>, about: &str) {
    for number in 0..BLOBS {
        let (digest, data) = blob(number);
        let missing = store.missing(&[digest], Lease::None).await.unwrap();
        if missing.is_empty() {
            let found = store.fetch_bytes(&digest).await;
            let found = found.unwrap_or_else(|error| panic!("{about}: {error}"));
            assert!(found == data, "{about}: blob {number} has other bytes");
        } else {
            assert!(!stored.contains(&number), "{about}: blob {number} was lost");
        }
    }
    let usage = store.usage().await.unwrap();
    assert!(usage.blobs <= BLOBS, "{about}: wrong bytes were stored");
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

/// Everybody finishes what was interrupted; how many met bytes that were damaged.
async fn resume(store: &LocalStore, rng: &mut StdRng, about: &str) -> usize {
    let mut stale = 0;
    for number in 0..BLOBS {
        let staged = store.staged(&key(number)).await.unwrap();
        let outcome = upload(store, rng, number, staged, Way::ToTheEnd).await;
        let stored = match outcome {
            Err(error) if staged > 0 => {
                let kinds = [ErrorKind::Stale, ErrorKind::NotHeld];
                assert!(kinds.contains(&error.kind()), "{about}: {error:?}");
                let staged = store.staged(&key(number)).await.unwrap();
                assert_eq!(staged, 0, "{about}: it would fail again");
                // Else the file was that of a blob: its removal came to nothing.
                stale += usize::from(error.kind() == ErrorKind::Stale);
                upload(store, rng, number, 0, Way::ToTheEnd).await
            }
            outcome => outcome,
        };
        let stored = stored.unwrap_or_else(|error| panic!("{about}: {error:?}"));
        assert!(stored.is_some(), "{about}");
        assert_eq!(store.staged(&key(number)).await.unwrap(), 0, "{about}");
    }
    let partial_bytes = store.usage().await.unwrap().partial_bytes;
    assert_eq!(partial_bytes, 0, "{about}: a partial upload leaked");
    stale
}

/// Some crashes one after another, and then everything is uploaded.
async fn one_life(seed: u64, may_kill: bool, may_lose_power: bool) -> usize {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut fs = SimFs::new();
    let mut stored = HashSet::new();
    for crash in 0..3 {
        let about = format!("seed {seed}, crash {crash}");
        fs.power_off_after(rng.random_range(1..250));
        if let Ok(store) = LocalStore::open(ROOT, options(&fs)).await {
            let tasks: Vec<_> = (0..3)
                .map(|_| tokio::spawn(load(store.clone(), fs.clone(), rng.random())))
                .collect();
            for task in tasks {
                stored.extend(task.await.unwrap());
            }
            fs.power_off();
            close(store).await;
        }
        fs.power_off();
        fs = match may_kill && (!may_lose_power || rng.random()) {
            true => fs.after_kill(),
            false => fs.restart(rng.random()),
        };
        let store = LocalStore::open(ROOT, options(&fs)).await;
        let store = store.unwrap_or_else(|error| panic!("{about}: {error}"));
        check(&store, &fs, &stored, &about).await;
        close(store).await;
    }
    let about = format!("seed {seed}, at the end");
    let store = LocalStore::open(ROOT, options(&fs)).await.unwrap();
    let stale = resume(&store, &mut rng, &about).await;
    check(&store, &fs, &(0..BLOBS).collect(), &about).await;
    close(store).await;
    stale
}

const LIVES: u64 = 30;

#[tokio::test(flavor = "multi_thread")]
async fn power_loss() {
    let mut stale = 0;
    for seed in 0..LIVES {
        stale += one_life(seed, false, true).await;
    }
    assert!(stale > 0, "no upload met bytes that were lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process() {
    for seed in 1000..1000 + LIVES {
        let stale = one_life(seed, true, false).await;
        assert_eq!(stale, 0, "seed {seed}: a kill alone loses no byte");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_now_and_powerless_then() {
    for seed in 2000..2000 + LIVES {
        one_life(seed, true, true).await;
    }
}
