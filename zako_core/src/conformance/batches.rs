//! Many small blobs in one call.

use std::sync::Arc;

use bytes::Bytes;

use super::samples::{LARGE, ensure_absent, ensure_present, sample, spoiled};
use super::{Check, ensure, ensure_eq, ensure_error};
use crate::Digest;
use crate::cas::{Cas, ErrorKind, Stored};

/// `put_batch` has an outcome for each blob, in order: a wrong one doesn't hinder
/// the others.
pub async fn batches_store_what_is_right(cas: Arc<dyn Cas>) -> Check {
    ensure!(
        cas.put_batch(Vec::new()).await.is_empty(),
        "an empty batch has outcomes"
    );
    let fresh = sample("batch fresh", 10_000);
    let existing = sample("batch existing", 20_000);
    let wrong = sample("batch wrong", 30_000);
    let short = sample("batch short", 100);
    let twice = sample("batch twice", 64 * 1024 + 1);
    for (digest, _) in [&fresh, &wrong, &short, &twice] {
        cas.delete(digest).await?;
    }
    cas.delete(&Digest::EMPTY).await?;
    cas.put(&existing.0, existing.1.clone()).await?;

    let outcomes = cas
        .put_batch(vec![
            fresh.clone(),
            (wrong.0, spoiled(&wrong.1)),
            existing.clone(),
            twice.clone(),
            (Digest::EMPTY, Bytes::new()),
            (short.0, short.1.slice(..50)),
            twice.clone(),
        ])
        .await;
    ensure_eq!(outcomes.len(), 7, "the number of outcomes for a batch of 7");
    let mut outcomes = outcomes.into_iter();
    let mut next = || outcomes.next().unwrap_or(Ok(Stored::New));
    ensure_eq!(next()?, Stored::New, "the outcome of a new blob");
    ensure_error!(next(), ErrorKind::Mismatch, "the outcome of wrong bytes");
    ensure_eq!(next()?, Stored::Existing, "the outcome of a present blob");
    let first = next()?;
    ensure_eq!(next()?, Stored::New, "the outcome of the empty blob");
    ensure_error!(next(), ErrorKind::Mismatch, "the outcome of too few bytes");
    let second = next()?;
    ensure!(
        first != second,
        "a blob twice in a batch was {first:?} and {second:?}"
    );

    for (digest, data) in [&fresh, &existing, &twice] {
        ensure_present(&cas, digest, data).await?;
    }
    ensure_present(&cas, &Digest::EMPTY, &[]).await?;
    ensure_absent(&cas, &wrong.0).await?;
    ensure_absent(&cas, &short.0).await
}

/// `fetch_batch` has an outcome for each digest, in order: an absent one doesn't
/// hinder the others.
pub async fn batches_read_what_is_there(cas: Arc<dyn Cas>) -> Check {
    ensure!(
        cas.fetch_batch(&[]).await.is_empty(),
        "an empty batch has outcomes"
    );
    let blobs: Vec<(Digest, Bytes)> = (0..200)
        .map(|at| sample(&format!("batch read {at}"), at * 97))
        .collect();
    let mut asked = Vec::new();
    for (at, (digest, data)) in blobs.iter().enumerate() {
        if at % 5 == 4 {
            cas.delete(digest).await?;
        } else {
            cas.put(digest, data.clone()).await?;
        }
        asked.push(*digest);
    }
    asked.extend_from_within(..10);
    let outcomes = cas.fetch_batch(&asked).await;
    ensure_eq!(outcomes.len(), asked.len(), "the number of outcomes");
    for (at, outcome) in outcomes.into_iter().enumerate() {
        let at = at % blobs.len();
        if at % 5 == 4 {
            ensure_error!(
                outcome,
                ErrorKind::NotFound,
                "the outcome of absent blob {at}"
            );
        } else {
            ensure!(
                outcome? == blobs[at].1,
                "blob {at} of the batch has other bytes"
            );
        }
    }
    Ok(())
}

/// A batch may have more bytes than fit into one message of any protocol, and a
/// large blob among the small ones.
pub async fn batches_may_be_large(cas: Arc<dyn Cas>) -> Check {
    let mut blobs: Vec<(Digest, Bytes)> = (0..150)
        .map(|at| sample(&format!("large batch {at}"), 60_000 + at))
        .collect();
    blobs.insert(70, sample("large batch, large blob", LARGE));
    for (digest, _) in &blobs {
        cas.delete(digest).await?;
    }
    let outcomes = cas.put_batch(blobs.clone()).await;
    ensure_eq!(outcomes.len(), blobs.len(), "the number of outcomes");
    for (at, outcome) in outcomes.into_iter().enumerate() {
        ensure_eq!(outcome?, Stored::New, "the outcome of blob {at}");
    }
    let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    let outcomes = cas.fetch_batch(&digests).await;
    ensure_eq!(outcomes.len(), blobs.len(), "the number of outcomes");
    for (at, outcome) in outcomes.into_iter().enumerate() {
        ensure!(outcome? == blobs[at].1, "blob {at} has other bytes");
    }
    Ok(())
}
