//! Staged uploads that are interrupted, that run at once, and that are dropped.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;

use super::concurrency::{ensure_whole_or_absent, panicked, poll_then_drop};
use super::samples::{LARGE, ensure_absent, ensure_present, sample, spoiled};
use super::witness::{Eye, bounds, ensure_nothing_staged, finish, key, up, write_steps};
use super::{Check, ensure, ensure_eq, ensure_error};
use crate::Digest;
use crate::cas::{CasError, ErrorKind, Result, StagedSize, Staging, Stored, UploadKey};

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

/// What is staged under one key is another upload than what is under another, also of
/// the same size.
pub async fn keys_tell_stagings_apart(cas: Arc<dyn Staging>) -> Check {
    let bound = StagedSize::Exactly(LARGE as u64);
    let mut parked = Vec::new();
    for at in 0..3 {
        let (key, (digest, data)) = (
            key(&format!("apart {at}")),
            sample(&format!("apart {at}"), LARGE),
        );
        cas.delete(&digest).await?;
        let mut writer = cas.stage(&key, bound, 0, Eye::default().boxed()).await?;
        let cut = LARGE - 1000 * at;
        writer.write(data.slice(..cut)).await?;
        parked.push((key, digest, data, writer.park().await?));
    }
    for (key, digest, data, held) in parked {
        ensure_eq!(cas.staged(&key).await?, held, "staged of one of three");
        finish(&cas, &key, bound, &digest, &data).await?;
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

/// A future that is dropped midway leaves no wrong bytes, and what comes after works.
pub async fn dropped_stagings_leave_the_store_whole(cas: Arc<dyn Staging>) -> Check {
    for size in [1000, LARGE] {
        for bound in bounds(size) {
            for polls in [0, 1, 2, 3, 5, 9, 20] {
                let (digest, data) = sample(&format!("dropped staging {polls}"), size);
                let key = key(&format!("dropped {bound:?} {polls}"));
                cas.delete(&digest).await?;
                let eye = Eye::wanting(digest);
                let stored = store(&cas, &key, bound, &eye, &data);
                poll_then_drop(stored, polls).await;
                poll_then_drop(cas.put_unnamed(vec![data.clone()]), polls).await;
                ensure_whole_or_absent(&up(&cas), &digest, &data).await?;
                let held = cas.staged(&key).await?;
                ensure!(held <= size as u64, "{held} of {size} bytes are staged");
                let eye = Eye::wanting(digest);
                let stored = store(&cas, &key, bound, &eye, &data).await?;
                ensure_eq!(stored.0, digest, "the digest of what is stored at last");
                eye.ensure_saw(&data)?;
                ensure_present(&up(&cas), &digest, &data).await?;
            }
        }
    }
    Ok(())
}

/// Stores from the beginning.
async fn store(
    cas: &Arc<dyn Staging>,
    key: &UploadKey,
    bound: StagedSize,
    eye: &Eye,
    data: &Bytes,
) -> Result<(Digest, Stored)> {
    let mut writer = cas.stage(key, bound, 0, eye.boxed()).await?;
    write_steps(&mut writer, data, data.len() / 7 + 1).await?;
    writer.commit().await
}
