//! Blobs whose digest is known only in the end: what is stored, and what is refused.

use std::sync::Arc;

use bytes::Bytes;

use super::samples::{LARGE, SIZES, ensure_absent, ensure_present, sample};
use super::witness::{Eye, bounds, ensure_nothing_staged, finish, key, up, write_steps};
use super::{Check, Violation, ensure, ensure_eq, ensure_error};
use crate::Digest;
use crate::cas::{ErrorKind, StagedSize, Staging, Stored};

/// What is put without a name gets the digest that it has, in order.
pub async fn unnamed_blobs_get_their_digests(cas: Arc<dyn Staging>) -> Check {
    let mut blobs: Vec<(Digest, Bytes)> = SIZES
        .iter()
        .map(|size| sample("unnamed", *size))
        .chain((0..300).map(|at| sample(&format!("unnamed {at}"), 300)))
        .collect();
    for (digest, _) in &blobs {
        cas.delete(digest).await?;
    }
    blobs.push(blobs[3].clone());
    for expected in [Stored::New, Stored::Existing] {
        let data = blobs.iter().map(|(_, data)| data.clone()).collect();
        let outcomes = cas.put_unnamed(data).await;
        ensure_eq!(outcomes.len(), blobs.len(), "the number of outcomes");
        for (at, (outcome, (digest, data))) in outcomes.into_iter().zip(&blobs).enumerate() {
            let (named, stored) = outcome?;
            ensure_eq!(named, *digest, "the digest of {} bytes", data.len());
            if at + 1 < blobs.len() {
                ensure_eq!(stored, expected, "how {} bytes were stored", data.len());
            } else {
                ensure_eq!(stored, Stored::Existing, "the second of two in one batch");
            }
            ensure_present(&up(&cas), digest, data).await?;
        }
    }
    ensure!(
        cas.put_unnamed(Vec::new()).await.is_empty(),
        "no blobs have an outcome"
    );
    Ok(())
}

/// Staged bytes become the blob that they are, in whatever steps they came, and the
/// witness sees them once.
pub async fn staged_bytes_become_their_blob(cas: Arc<dyn Staging>) -> Check {
    for size in SIZES {
        for (step, loose) in [
            (size.max(1), 0),
            (size / 3 + 1, 0),
            (70_001, 1),
            (4096, LARGE),
        ] {
            let (digest, data) = sample(&format!("staged {step} {loose}"), size);
            cas.delete(&digest).await?;
            for bound in [
                StagedSize::Exactly(digest.size()),
                StagedSize::AtMost(digest.size() + loose as u64),
            ] {
                let (key, eye) = (key("staged"), Eye::wanting(digest));
                let mut writer = cas.stage(&key, bound, 0, eye.boxed()).await?;
                ensure_eq!(writer.held(), 0, "what a new writer holds");
                writer.write(Bytes::new()).await?;
                write_steps(&mut writer, &data, step).await?;
                ensure_eq!(writer.held(), digest.size(), "what the writer holds");
                let stored = match bound {
                    StagedSize::Exactly(_) => Stored::New,
                    StagedSize::AtMost(_) => Stored::Existing,
                };
                ensure_eq!(writer.commit().await?, (digest, stored), "the commit");
                eye.ensure_saw(&data)?;
                ensure_present(&up(&cas), &digest, &data).await?;
                ensure_nothing_staged(&cas, &key).await?;
            }
        }
    }
    Ok(())
}

/// Of an upload without a bound that matters, what comes is stored.
pub async fn a_staged_size_may_be_unknown(cas: Arc<dyn Staging>) -> Check {
    for size in [0, 1000, LARGE] {
        let (digest, data) = sample("unknown size", size);
        cas.delete(&digest).await?;
        let bound = StagedSize::AtMost(u64::MAX);
        let eye = Eye::wanting(digest);
        let key = key("unknown size");
        let mut writer = cas.stage(&key, bound, 0, eye.boxed()).await?;
        write_steps(&mut writer, &data, 100_000).await?;
        ensure_eq!(writer.commit().await?, (digest, Stored::New), "the commit");
        eye.ensure_saw(&data)?;
        ensure_present(&up(&cas), &digest, &data).await?;
    }
    Ok(())
}

/// Fewer bytes than an exact size are refused at the commit, more than any size at
/// once, and nothing is left.
pub async fn staged_sizes_are_kept(cas: Arc<dyn Staging>) -> Check {
    for size in [2, 1000, LARGE] {
        let (digest, data) = sample("staged sizes", size);
        let key = key("sizes");
        cas.delete(&digest).await?;
        let short = data.slice(..size - 1);
        let (exactly, fewer) = (StagedSize::Exactly(digest.size()), digest.size() - 1);
        let eye = Eye::default();
        let mut writer = cas.stage(&key, exactly, 0, eye.boxed()).await?;
        writer.write(short.clone()).await?;
        ensure_error!(
            writer.commit().await,
            ErrorKind::Mismatch,
            "{} of {size} bytes",
            size - 1
        );
        ensure_nothing_staged(&cas, &key).await?;
        ensure_absent(&up(&cas), &zako_digest::hash::bytes(&short)).await?;
        for bound in [StagedSize::Exactly(fewer), StagedSize::AtMost(fewer)] {
            for step in [size, 700] {
                let mut writer = cas.stage(&key, bound, 0, eye.boxed()).await?;
                let written = write_steps(&mut writer, &data, step).await;
                ensure_error!(written, ErrorKind::Mismatch, "{size} bytes for {bound:?}");
                writer.discard().await?;
                ensure_nothing_staged(&cas, &key).await?;
                ensure_absent(&up(&cas), &digest).await?;
            }
        }
        finish(&cas, &key, exactly, &digest, &data).await?;
    }
    Ok(())
}

/// What the witness refuses isn't stored, nothing is left of it, and the error is the
/// witness's.
pub async fn the_witness_has_the_last_word(cas: Arc<dyn Staging>) -> Check {
    for size in [0, 1000, 300_000, LARGE] {
        for bound in bounds(size) {
            let (digest, data) = sample("refused", size);
            let key = key(&format!("refused {bound:?}"));
            // It would refuse what exists, too.
            for present in [false, true] {
                cas.delete(&digest).await?;
                if present {
                    cas.put(&digest, data.clone()).await?;
                }
                for kind in [ErrorKind::Mismatch, ErrorKind::PermissionDenied] {
                    let eye = Eye::refusing(kind);
                    let mut writer = cas.stage(&key, bound, 0, eye.boxed()).await?;
                    write_steps(&mut writer, &data, 100_000).await?;
                    let Err(error) = writer.commit().await else {
                        return Err(Violation::new("a refused upload went well"));
                    };
                    ensure_eq!(error.kind(), kind, "the refusal of {size} bytes");
                    ensure_eq!(error.message(), "the witness refuses", "its text");
                    eye.ensure_saw(&data)?;
                    ensure_nothing_staged(&cas, &key).await?;
                    if !present {
                        ensure_absent(&up(&cas), &digest).await?;
                    }
                }
            }
            cas.delete(&digest).await?;
            finish(&cas, &key, bound, &digest, &data).await?;
        }
    }
    Ok(())
}

/// Nothing is staged of a discarded upload, and it can be begun again.
pub async fn a_discarded_staging_leaves_nothing(cas: Arc<dyn Staging>) -> Check {
    for size in [1000, LARGE] {
        for bound in bounds(size) {
            let (digest, data) = sample("discarded staging", size);
            let key = key(&format!("discarded {bound:?}"));
            cas.delete(&digest).await?;
            for written in [0, size / 2, size] {
                let mut writer = cas.stage(&key, bound, 0, Eye::default().boxed()).await?;
                writer.write(data.slice(..written)).await?;
                writer.discard().await?;
                ensure_nothing_staged(&cas, &key).await?;
            }
            let mut writer = cas.stage(&key, bound, 0, Eye::default().boxed()).await?;
            writer.write(data.slice(..size / 2)).await?;
            let held = writer.park().await?;
            let writer = cas.stage(&key, bound, held, Eye::default().boxed()).await?;
            writer.discard().await?;
            ensure_nothing_staged(&cas, &key).await?;
            finish(&cas, &key, bound, &digest, &data).await?;
        }
    }
    Ok(())
}
