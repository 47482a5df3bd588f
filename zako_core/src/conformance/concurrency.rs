//! Many calls at once, and calls that are dropped.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;

use super::samples::{LARGE, ensure_present, sample};
use super::{Check, Violation, ensure, ensure_eq};
use crate::cas::{Cas, CasExt, ErrorKind, Lease, Result, Stored};
use crate::{BlobRange, Digest};

/// Of many that store one blob at once, by `put` and by writers, one stores it,
/// and for the others it exists.
pub async fn writers_of_one_blob_do_not_disturb_one_another(cas: Arc<dyn Cas>) -> Check {
    for size in [1000, 64 * 1024 + 1, LARGE] {
        let (digest, data) = sample("one blob", size);
        cas.delete(&digest).await?;
        let tasks = (0..8).map(|at| {
            let (cas, data) = (Arc::clone(&cas), data.clone());
            tokio::spawn(async move {
                if at % 2 == 0 {
                    cas.put(&digest, data).await
                } else {
                    write(&cas, &digest, &data, size / 5 + at).await
                }
            })
        });
        let mut new = 0;
        for outcome in try_join_all(tasks).await.map_err(panicked)? {
            if outcome? == Stored::New {
                new += 1;
            }
        }
        ensure_eq!(new, 1, "how many of 8 stored the blob of {size} bytes");
        ensure_present(&cas, &digest, &data).await?;
        ensure_eq!(
            cas.held(&digest).await?,
            digest.size(),
            "held of the stored blob"
        );
    }
    Ok(())
}

/// Under a load of stores, reads, look-ups and deletions of the same blobs, what is
/// read is right, and nothing fails but for absence.
pub async fn mixed_load_never_shows_wrong_bytes(cas: Arc<dyn Cas>) -> Check {
    const TASKS: usize = 12;
    const ROUNDS: usize = 30;
    let blobs: Arc<Vec<(Digest, Bytes)>> = Arc::new(
        [10, 5_000, 70_000, 300_000, 1 << 20, (1 << 20) + 1]
            .iter()
            .enumerate()
            .map(|(at, size)| sample(&format!("mixed {at}"), *size))
            .collect(),
    );
    let tasks = (0..TASKS).map(|task| {
        let (cas, blobs) = (Arc::clone(&cas), Arc::clone(&blobs));
        tokio::spawn(async move {
            for round in 0..ROUNDS {
                let (digest, data) = &blobs[(task * 5 + round * 7) % blobs.len()];
                mixed_step(&cas, digest, data, (task + round * 3) % 7).await?;
            }
            Ok::<(), Violation>(())
        })
    });
    for outcome in try_join_all(tasks).await.map_err(panicked)? {
        outcome?;
    }
    for (digest, data) in blobs.iter() {
        cas.put(digest, data.clone()).await?;
        ensure_present(&cas, digest, data).await?;
    }
    Ok(())
}

async fn mixed_step(cas: &Arc<dyn Cas>, digest: &Digest, data: &Bytes, what: usize) -> Check {
    let size = data.len();
    match what {
        0 | 1 => {
            cas.put(digest, data.clone()).await?;
        }
        2 => {
            write(cas, digest, data, size / 3 + 1).await?;
        }
        3 => {
            cas.delete(digest).await?;
        }
        4 => {
            let missing = cas.missing(&[*digest, *digest], Lease::Default).await?;
            ensure!(
                missing.iter().all(|one| one == digest),
                "missing names a digest that wasn't asked for"
            );
        }
        _ => {
            let range = size / 4..if what == 5 { size } else { size / 2 };
            let asked = BlobRange::from(range.start as u64..range.end as u64);
            let read = match cas.fetch(digest, asked).await {
                Ok(blob) => blob.bytes().await,
                Err(error) => Err(error),
            };
            match read {
                Ok(read) => ensure!(
                    read == data[range],
                    "{asked} of {size} bytes has other bytes under load"
                ),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// A future that is dropped midway leaves each blob whole or absent, and what comes
/// after works.
pub async fn dropped_futures_leave_the_store_whole(cas: Arc<dyn Cas>) -> Check {
    for size in [1000, LARGE] {
        for polls in [0, 1, 2, 3, 5, 9, 20] {
            let (digest, data) = sample(&format!("dropped {polls}"), size);
            cas.delete(&digest).await?;

            poll_then_drop(cas.put(&digest, data.clone()), polls).await;
            ensure_whole_or_absent(&cas, &digest, &data).await?;
            poll_then_drop(write(&cas, &digest, &data, size / 7 + 1), polls).await;
            ensure_whole_or_absent(&cas, &digest, &data).await?;
            poll_then_drop(cas.missing(&[digest], Lease::Default), polls).await;
            poll_then_drop(cas.fetch_bytes(&digest), polls).await;

            write(&cas, &digest, &data, size / 2).await?;
            ensure_present(&cas, &digest, &data).await?;
            poll_then_drop(cas.fetch_bytes(&digest), polls).await;
            ensure_present(&cas, &digest, &data).await?;
            poll_then_drop(cas.delete(&digest), polls).await;
            ensure_whole_or_absent(&cas, &digest, &data).await?;
            // Its deletion may still take place; so may no more than that.
            cas.delete(&digest).await?;
            cas.put(&digest, data.clone()).await?;
            ensure_whole_or_absent(&cas, &digest, &data).await?;
        }
    }
    Ok(())
}

pub(super) async fn ensure_whole_or_absent(
    cas: &Arc<dyn Cas>,
    digest: &Digest,
    data: &Bytes,
) -> Check {
    match cas.fetch_bytes(digest).await {
        Ok(read) => ensure!(read == data, "a dropped future left other bytes"),
        Err(error) => ensure!(
            error.is_not_found(),
            "a dropped future broke reading: {error:?}"
        ),
    }
    Ok(())
}

/// Polls at most that often, letting others run in between.
pub(super) async fn poll_then_drop<T>(future: impl Future<Output = T>, polls: usize) {
    let mut future = pin!(future);
    for _ in 0..polls {
        if futures::poll!(&mut future).is_ready() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Stores by a writer from the beginning, whoever else does so.
async fn write(cas: &Arc<dyn Cas>, digest: &Digest, data: &Bytes, step: usize) -> Result<Stored> {
    let mut writer = match cas.writer(digest, 0).await {
        Ok(writer) => writer,
        Err(error) if error.is_already_exists() => return Ok(Stored::Existing),
        Err(error) => return Err(error),
    };
    for step in data.chunks(step) {
        writer.write(data.slice_ref(step)).await?;
    }
    writer.commit().await
}

pub(super) fn panicked(error: tokio::task::JoinError) -> Violation {
    Violation::new(format!("a call panicked: {error}"))
}
