//! Presence, leases and deletion.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use super::samples::{LARGE, ensure_nothing_held, ensure_present, sample};
use super::{Check, ensure, ensure_eq, ensure_error};
use crate::cas::{Cas, CasExt, ErrorKind, Lease, Stored};
use crate::{BlobRange, Digest, Hash};

/// `missing` answers in the order asked, duplicates included, for no digests and
/// for many.
pub async fn missing_keeps_order_and_duplicates(cas: Arc<dyn Cas>) -> Check {
    ensure_eq!(
        cas.missing(&[], Lease::Default).await?,
        [],
        "missing of nothing"
    );
    let mut asked = Vec::new();
    let mut expected = Vec::new();
    for at in 0..300 {
        let (digest, data) = sample(&format!("missing_order {at}"), at);
        cas.delete(&digest).await?;
        let present = at % 3 == 0;
        if present {
            cas.put(&digest, data).await?;
        }
        for _ in 0..1 + at % 2 {
            asked.push(digest);
            if !present {
                expected.push(digest);
            }
        }
    }
    asked.extend_from_within(..50);
    let again: Vec<_> = asked[asked.len() - 50..]
        .iter()
        .filter(|digest| expected.contains(digest))
        .copied()
        .collect();
    expected.extend(again);
    for lease in [
        Lease::None,
        Lease::Default,
        Lease::For(Duration::from_secs(60)),
    ] {
        let missing = cas.missing(&asked, lease).await?;
        ensure!(
            missing == expected,
            "missing of {} digests with {lease:?} gave {} instead of {}, or another order",
            asked.len(),
            missing.len(),
            expected.len()
        );
    }
    Ok(())
}

/// One question may have more digests than fit into one message of any protocol.
pub async fn missing_takes_many_digests(cas: Arc<dyn Cas>) -> Check {
    const MANY: u64 = 150_000;
    let (present, data) = sample("missing_many", 100);
    cas.put(&present, data).await?;
    let absent = |at: u64| {
        let mut hash = [0xa5; Hash::LEN];
        hash[..8].copy_from_slice(&at.to_be_bytes());
        Digest::new(Hash::from_bytes(hash), at)
    };
    let mut asked: Vec<Digest> = (0..MANY).map(absent).collect();
    asked[10] = present;
    asked[MANY as usize - 1] = present;
    let missing = cas.missing(&asked, Lease::None).await?;
    asked.retain(|digest| *digest != present);
    ensure!(
        missing == asked,
        "missing of {MANY} digests gave {} instead of {}, or another order",
        missing.len(),
        asked.len()
    );
    Ok(())
}

/// A blob that `missing` didn't report is leased; an absurdly long lease is no
/// error.
pub async fn missing_leases_what_is_present(cas: Arc<dyn Cas>) -> Check {
    for lease in [
        Lease::Default,
        Lease::For(Duration::from_secs(600)),
        Lease::For(Duration::MAX),
    ] {
        let (digest, data) = sample(&format!("leases {lease:?}"), 1000);
        cas.put(&digest, data).await?;
        cas.missing(&[digest], lease).await?;
        let leased = cas.stat(&digest).await?.leased_for;
        ensure!(
            leased > Duration::ZERO,
            "the blob isn't leased after {lease:?}"
        );
        cas.missing(&[digest], Lease::For(Duration::from_millis(1)))
            .await?;
        let after = cas.stat(&digest).await?.leased_for;
        ensure!(
            after + Duration::from_secs(300) > leased,
            "a shorter lease cut the longer one from {leased:?} to {after:?}"
        );
        ensure!(cas.delete(&digest).await?, "a lease stopped the deletion");
        ensure!(
            !cas.contains(&digest).await?,
            "a leased blob outlived its deletion"
        );
    }
    Ok(())
}

/// Nothing is found of a blob that was never stored.
pub async fn absent_blobs_are_not_found(cas: Arc<dyn Cas>) -> Check {
    for size in [1, 1000, LARGE] {
        let (digest, _) = sample("absent", size);
        ensure_nothing_held(&cas, &digest).await?;
        ensure!(
            !cas.delete(&digest).await?,
            "delete says that an absent blob was there"
        );
        ensure_nothing_held(&cas, &digest).await?;
    }
    Ok(())
}

/// When `delete` has returned, nothing is found of the blob.
pub async fn deleted_blobs_are_gone(cas: Arc<dyn Cas>) -> Check {
    for size in [0, 1, 1000, LARGE] {
        let (digest, data) = sample("deleted", size);
        let (other, other_data) = sample("not deleted", size + 1);
        cas.put(&digest, data).await?;
        cas.put(&other, other_data.clone()).await?;
        ensure!(
            cas.delete(&digest).await?,
            "delete says that a stored blob was absent"
        );
        ensure_nothing_held(&cas, &digest).await?;
        ensure!(
            !cas.delete(&digest).await?,
            "the second delete says that it was there"
        );
        ensure_present(&cas, &other, &other_data).await?;
    }
    Ok(())
}

/// A deleted blob can be stored again, and be deleted again.
pub async fn deleted_blobs_can_be_stored_again(cas: Arc<dyn Cas>) -> Check {
    for size in [1000, LARGE] {
        let (digest, data) = sample("stored again", size);
        cas.delete(&digest).await?;
        for turn in 0..4 {
            let stored = cas.put(&digest, data.clone()).await?;
            ensure_eq!(
                stored,
                Stored::New,
                "put after {turn} deletions of {size} bytes"
            );
            ensure_present(&cas, &digest, &data).await?;
            ensure!(
                cas.delete(&digest).await?,
                "deletion {turn} found nothing of {size} bytes"
            );
            ensure_nothing_held(&cas, &digest).await?;
        }
    }
    Ok(())
}

/// A blob that was opened is read to its end, even when it is deleted and other
/// blobs come meanwhile.
pub async fn an_open_blob_outlives_its_deletion(cas: Arc<dyn Cas>) -> Check {
    for size in [1, 64 * 1024, LARGE] {
        let (digest, data) = sample("outlives", size);
        cas.put(&digest, data.clone()).await?;
        let untouched = cas.fetch(&digest, BlobRange::FULL).await?;
        let mut begun = cas.fetch(&digest, BlobRange::FULL).await?;
        let mut read = begun.next().await.transpose()?.unwrap_or_default().to_vec();
        cas.delete(&digest).await?;
        for at in 0..4 {
            let (next, next_data) = sample(&format!("outlives {at}"), size + 7);
            cas.put(&next, next_data).await?;
        }
        while let Some(step) = begun.next().await {
            read.extend_from_slice(&step?);
        }
        ensure!(
            read == data,
            "a begun read of {size} bytes went wrong after the deletion"
        );
        let read = untouched.bytes().await?;
        ensure!(
            read == data,
            "an opened blob of {size} bytes went wrong after the deletion"
        );
        ensure_error!(
            cas.fetch(&digest, BlobRange::FULL).await,
            ErrorKind::NotFound,
            "a new fetch after the deletion"
        );
    }
    Ok(())
}
