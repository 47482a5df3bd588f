//! Uploads whose digest is known only in the end.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;
use parking_lot::Mutex;

use super::concurrency::panicked;
use super::samples::{LARGE, SIZES, ensure_absent, ensure_present, sample, spoiled};
use super::{Check, ensure, ensure_eq, ensure_error};
use crate::Digest;
use crate::cas::{
    Cas, CasError, ErrorKind, Result, StagedSize, StagedWriter, Staging, Stored, UploadKey, Witness,
};

/// Sees what a store shows it, and refuses what isn't the blob, if told so.
#[derive(Clone, Default)]
struct Eye {
    seen: Arc<Mutex<Seen>>,
    wanted: Option<Digest>,
    refusal: Option<ErrorKind>,
}

#[derive(Default)]
struct Seen {
    hasher: zako_digest::hash::Hasher,
    checks: usize,
}

impl Eye {
    /// Refuses other bytes than these.
    fn wanting(digest: Digest) -> Self {
        Self {
            wanted: Some(digest),
            ..Self::default()
        }
    }

    /// Refuses whatever comes.
    fn refusing(kind: ErrorKind) -> Self {
        Self {
            refusal: Some(kind),
            ..Self::default()
        }
    }

    fn boxed(&self) -> Box<dyn Witness> {
        Box::new(self.clone())
    }

    /// Whether it saw these bytes, no others, and was then asked once.
    fn ensure_saw(&self, data: &[u8]) -> Check {
        let seen = self.seen.lock();
        ensure_eq!(
            seen.hasher.finish(),
            zako_digest::hash::bytes(data),
            "the bytes that the witness saw"
        );
        ensure_eq!(seen.checks, 1, "how often the witness was asked");
        Ok(())
    }
}

impl Witness for Eye {
    fn update(&mut self, data: &[u8]) {
        self.seen.lock().hasher.update(data);
    }

    fn check(&mut self) -> Result<()> {
        let mut seen = self.seen.lock();
        seen.checks += 1;
        if let Some(kind) = self.refusal {
            return Err(CasError::new(kind, "the witness refuses"));
        }
        let actual = seen.hasher.finish();
        match self.wanted {
            Some(wanted) if wanted != actual => Err(CasError::mismatch(wanted, actual)),
            _ => Ok(()),
        }
    }
}

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

/// A parked upload goes on at what `park` said, as often as one likes, and each time
/// the witness sees all from the beginning.
pub async fn a_parked_staging_resumes(cas: Arc<dyn Staging>) -> Check {
    for size in [1000, LARGE] {
        for bound in bounds(size) {
            let (digest, data) = sample("parked staging", size);
            let key = key(&format!("parked {bound:?}"));
            cas.delete(&digest).await?;
            let mut at = 0;
            for cut in [1, size / 3, size / 3, size / 2, size] {
                let mut writer = cas.stage(&key, bound, at, Eye::default().boxed()).await?;
                ensure_eq!(writer.held(), at, "what a resumed writer holds");
                let cut = cut.max(at as usize);
                writer.write(data.slice(at as usize..cut)).await?;
                let parked = writer.park().await?;
                ensure!(
                    parked == 0 || parked == cut as u64,
                    "park holds {parked} bytes of {cut} written"
                );
                ensure_eq!(cas.staged(&key).await?, parked, "staged after park");
                ensure_absent(&up(&cas), &digest).await?;
                at = parked;
            }
            finish(&cas, &key, bound, &digest, &data).await?;
        }
    }
    Ok(())
}

/// A dropped upload goes on at what `staged` says.
pub async fn a_dropped_staging_resumes(cas: Arc<dyn Staging>) -> Check {
    for size in [1000, LARGE] {
        for bound in bounds(size) {
            let (digest, data) = sample("dropped staging", size);
            let key = key(&format!("dropped {bound:?}"));
            cas.delete(&digest).await?;
            for cut in [size / 3, size / 2, size] {
                let held = cas.staged(&key).await?;
                let mut writer = cas.stage(&key, bound, held, Eye::default().boxed()).await?;
                if held < cut as u64 {
                    writer.write(data.slice(held as usize..cut)).await?;
                }
                drop(writer);
                let held = cas.staged(&key).await?;
                ensure!(
                    held <= cut as u64,
                    "staged says {held} after {cut} bytes were written"
                );
                ensure_absent(&up(&cas), &digest).await?;
            }
            finish(&cas, &key, bound, &digest, &data).await?;
        }
    }
    Ok(())
}

/// An upload may go on before what is staged; the bytes from there on are the new
/// writer's, also if fewer come. Beyond it can't, and is told how much there is.
pub async fn a_staging_resumes_up_to_what_is_staged(cas: Arc<dyn Staging>) -> Check {
    for size in [1000, LARGE] {
        for back in [1, size / 4, size / 2 - 1] {
            let (_, longer) = sample(&format!("staging before {back}"), size);
            let (key, bound) = (key("before"), StagedSize::AtMost(size as u64));
            let mut writer = cas.stage(&key, bound, 0, Eye::default().boxed()).await?;
            writer.write(spoiled(&longer)).await?;
            let held = writer.park().await?;
            for offset in [held + 1, size as u64 + 1, u64::MAX] {
                let again = cas.stage(&key, bound, offset, Eye::default().boxed()).await;
                let error = ensure_error!(again, ErrorKind::NotHeld, "{offset} with {held} staged");
                ensure_eq!(error.held(), Some(held), "the staged bytes that it tells");
            }
            let at = held.min((size / 2 - back) as u64);
            let data = longer.slice(..size / 2);
            let digest = zako_digest::hash::bytes(&data);
            cas.delete(&digest).await?;
            let eye = Eye::wanting(digest);
            let mut writer = cas.stage(&key, bound, at, eye.boxed()).await?;
            ensure_eq!(
                writer.held(),
                at,
                "what a writer holds that resumed earlier"
            );
            writer.write(data.slice(at as usize..)).await?;
            let stored = writer.commit().await?;
            ensure_eq!(stored, (digest, Stored::New), "after resuming at {at}");
            eye.ensure_saw(&data)?;
            ensure_present(&up(&cas), &digest, &data).await?;
            ensure_nothing_staged(&cas, &key).await?;
        }
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
                        return Err(super::Violation::new("a refused upload went well"));
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

/// When a resumed upload isn't what it should be, be it for the old bytes or the
/// new, nothing is left, and it can be begun again.
pub async fn a_wrong_staged_resumption_leaves_nothing(cas: Arc<dyn Staging>) -> Check {
    for size in [1000, LARGE] {
        for old_is_wrong in [false, true] {
            let (digest, data) = sample(&format!("wrong staging {old_is_wrong}"), size);
            let (key, bound) = (key("wrong"), StagedSize::Exactly(digest.size()));
            cas.delete(&digest).await?;
            let (mut old, mut new) = (data.slice(..size / 2), data.slice(size / 2..));
            match old_is_wrong {
                true => old = spoiled(&old),
                false => new = spoiled(&new),
            }
            let mut writer = cas.stage(&key, bound, 0, Eye::default().boxed()).await?;
            writer.write(old.clone()).await?;
            let held = writer.park().await?;
            let eye = Eye::wanting(digest);
            let mut writer = cas.stage(&key, bound, held, eye.boxed()).await?;
            if held == 0 {
                writer.write(old.clone()).await?;
            }
            writer.write(new.clone()).await?;
            let error = ensure_error!(
                writer.commit().await,
                ErrorKind::Mismatch | ErrorKind::Stale,
                "the commit of {size} wrong bytes"
            );
            ensure!(
                (error.kind() == ErrorKind::Stale) == (held > 0),
                "{error:?} with {held} bytes resumed"
            );
            let wrong = [old, new].concat();
            ensure_absent(&up(&cas), &zako_digest::hash::bytes(&wrong)).await?;
            ensure_nothing_staged(&cas, &key).await?;
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

/// Of many that store one blob at once, under one key, under others, and by name, one
/// stores it, and for the others it exists.
pub async fn stagings_of_one_blob_do_not_disturb_one_another(cas: Arc<dyn Staging>) -> Check {
    for size in [1000, 64 * 1024 + 1, LARGE] {
        let (digest, data) = sample("one staged blob", size);
        cas.delete(&digest).await?;
        let tasks = (0..9).map(|at| {
            let (cas, data) = (Arc::clone(&cas), data.clone());
            tokio::spawn(async move {
                let key = match at % 3 {
                    0 => return cas.put(&digest, data).await,
                    1 => key("the same"),
                    _ => key(&format!("another {at}")),
                };
                let eye = Eye::wanting(digest);
                let bound = bounds(data.len())[at % 2];
                let mut writer = cas.stage(&key, bound, 0, eye.boxed()).await?;
                write_steps(&mut writer, &data, data.len() / 5 + at).await?;
                let (stored_as, stored) = writer.commit().await?;
                match stored_as == digest {
                    true => Ok(stored),
                    false => Err(CasError::mismatch(digest, stored_as)),
                }
            })
        });
        let mut new = 0;
        for outcome in try_join_all(tasks).await.map_err(panicked)? {
            if outcome? == Stored::New {
                new += 1;
            }
        }
        ensure_eq!(new, 1, "how many of 9 stored the blob of {size} bytes");
        ensure_present(&up(&cas), &digest, &data).await?;
        ensure_nothing_staged(&cas, &key("the same")).await?;
    }
    Ok(())
}

fn up(cas: &Arc<dyn Staging>) -> Arc<dyn Cas> {
    Arc::clone(cas) as _
}

fn key(name: &str) -> UploadKey {
    UploadKey::of_name(name.as_bytes())
}

fn bounds(size: usize) -> [StagedSize; 2] {
    let size = size as u64;
    [
        StagedSize::Exactly(size),
        StagedSize::AtMost(size + LARGE as u64),
    ]
}

async fn write_steps(writer: &mut Box<dyn StagedWriter>, data: &Bytes, step: usize) -> Result<()> {
    for step in data.chunks(step) {
        writer.write(data.slice_ref(step)).await?;
    }
    Ok(())
}

async fn ensure_nothing_staged(cas: &Arc<dyn Staging>, key: &UploadKey) -> Check {
    ensure_eq!(cas.staged(key).await?, 0, "what is staged");
    Ok(())
}

/// Stores a blob from wherever its upload stands.
async fn finish(
    cas: &Arc<dyn Staging>,
    key: &UploadKey,
    bound: StagedSize,
    digest: &Digest,
    data: &Bytes,
) -> Check {
    let (at, eye) = (cas.staged(key).await?, Eye::wanting(*digest));
    let mut writer = cas.stage(key, bound, at, eye.boxed()).await?;
    write_steps(&mut writer, &data.slice(at as usize..), 50_000).await?;
    let stored = writer.commit().await?;
    ensure_eq!(stored, (*digest, Stored::New), "the blob stored at last");
    eye.ensure_saw(data)?;
    ensure_present(&up(cas), digest, data).await?;
    ensure_nothing_staged(cas, key).await
}
