//! Writers: steps, resumption, and what is refused.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::samples::{LARGE, ensure_absent, ensure_nothing_held, ensure_present, sample, spoiled};
use super::{Check, ensure, ensure_eq, ensure_error};
use crate::Digest;
use crate::cas::{Cas, CasExt, ErrorKind, Stored};

/// What is present isn't stored again: `put` says so, a writer isn't given.
pub async fn what_exists_is_not_stored_again(cas: Arc<dyn Cas>) -> Check {
    for size in [0, 1, 64 * 1024, LARGE] {
        let (digest, data) = sample("exists", size);
        cas.put(&digest, data.clone()).await?;
        ensure_eq!(
            cas.put(&digest, data.clone()).await?,
            Stored::Existing,
            "the second put of {size} bytes"
        );
        for offset in [0, digest.size()] {
            ensure_error!(
                cas.writer(&digest, offset).await,
                ErrorKind::AlreadyExists,
                "a writer at {offset} for a present blob"
            );
        }
        ensure_present(&cas, &digest, &data).await?;
    }
    Ok(())
}

/// A blob is the same in whatever steps it was written, empty ones included.
pub async fn any_steps_make_the_blob(cas: Arc<dyn Cas>) -> Check {
    for (size, step) in [(300, 1), (LARGE, 4096), (LARGE, 777_777), (LARGE, LARGE)] {
        let (digest, data) = sample(&format!("steps of {step}"), size);
        cas.delete(&digest).await?;
        let mut writer = cas.writer(&digest, 0).await?;
        ensure_eq!(writer.held(), 0, "what a new writer holds");
        writer.write(Bytes::new()).await?;
        let mut written = 0;
        while written < size {
            let end = (written + step).min(size);
            writer.write(data.slice(written..end)).await?;
            written = end;
            ensure_eq!(writer.held(), written as u64, "what the writer holds");
        }
        writer.write(Bytes::new()).await?;
        ensure_eq!(
            writer.commit().await?,
            Stored::New,
            "the commit in steps of {step}"
        );
        ensure_present(&cas, &digest, &data).await?;
    }
    Ok(())
}

/// A parked upload goes on at what `park` said, as often as one likes.
pub async fn a_parked_upload_resumes(cas: Arc<dyn Cas>) -> Check {
    for size in [1000, LARGE] {
        let (digest, data) = sample("parked", size);
        cas.delete(&digest).await?;
        let mut at = 0;
        for cut in [1, size / 3, size / 3, size / 2, size] {
            let mut writer = cas.writer(&digest, at).await?;
            ensure_eq!(writer.held(), at, "what a resumed writer holds");
            let cut = cut.max(at as usize);
            writer.write(data.slice(at as usize..cut)).await?;
            let parked = writer.park().await?;
            ensure!(
                parked == 0 || parked == cut as u64,
                "park holds {parked} bytes of {cut} written"
            );
            ensure_eq!(cas.held(&digest).await?, parked, "held after park");
            ensure_absent(&cas, &digest).await?;
            at = parked;
        }
        let mut writer = cas.writer(&digest, at).await?;
        writer.write(data.slice(at as usize..)).await?;
        ensure_eq!(
            writer.commit().await?,
            Stored::New,
            "the commit of a resumed upload"
        );
        ensure_present(&cas, &digest, &data).await?;
    }
    Ok(())
}

/// A dropped upload goes on at what `held` says.
pub async fn a_dropped_upload_resumes(cas: Arc<dyn Cas>) -> Check {
    for size in [1000, LARGE] {
        let (digest, data) = sample("dropped", size);
        cas.delete(&digest).await?;
        for cut in [size / 3, size / 2, size] {
            let held = cas.held(&digest).await?;
            let mut writer = cas.writer(&digest, held).await?;
            if held < cut as u64 {
                writer.write(data.slice(held as usize..cut)).await?;
            }
            drop(writer);
            let held = cas.held(&digest).await?;
            ensure!(
                held <= cut as u64,
                "held says {held} after {cut} bytes were written"
            );
            ensure_absent(&cas, &digest).await?;
        }
        finish_dropped(&cas, &digest, &data).await?;
    }
    Ok(())
}

/// An upload may go on before what is held; the bytes from there on are the new
/// writer's.
pub async fn an_upload_resumes_before_what_is_held(cas: Arc<dyn Cas>) -> Check {
    for size in [1000, LARGE] {
        for back in [1, size / 4, size / 2] {
            let (digest, data) = sample(&format!("before {back}"), size);
            cas.delete(&digest).await?;
            let mut writer = cas.writer(&digest, 0).await?;
            // What comes after the first half is wrong.
            writer.write(data.slice(..size / 2)).await?;
            writer.write(spoiled(&data[size / 2..size - 5])).await?;
            let held = writer.park().await?;
            let at = held.min((size / 2 - back) as u64);
            let mut writer = cas.writer(&digest, at).await?;
            ensure_eq!(
                writer.held(),
                at,
                "what a writer holds that resumed earlier"
            );
            writer.write(data.slice(at as usize..)).await?;
            ensure_eq!(
                writer.commit().await?,
                Stored::New,
                "the commit after resuming at {at} of {size}"
            );
            ensure_present(&cas, &digest, &data).await?;
        }
    }
    Ok(())
}

/// An upload can't go on beyond what is held, and is told how much that is.
pub async fn an_upload_does_not_resume_beyond_what_is_held(cas: Arc<dyn Cas>) -> Check {
    for size in [1000, LARGE] {
        let (digest, data) = sample("beyond", size);
        cas.delete(&digest).await?;
        for written in [0, size / 2] {
            let held = if written == 0 {
                0
            } else {
                let mut writer = cas.writer(&digest, 0).await?;
                writer.write(data.slice(..written)).await?;
                writer.park().await?
            };
            for offset in [held + 1, digest.size(), digest.size() + 1, u64::MAX] {
                let error = ensure_error!(
                    cas.writer(&digest, offset).await,
                    ErrorKind::NotHeld,
                    "a writer at {offset} with {held} held"
                );
                ensure_eq!(error.held(), Some(held), "the held bytes that it tells");
            }
        }
        finish(&cas, &digest, &data).await?;
    }
    Ok(())
}

/// A commit with too few bytes is refused, and nothing is held then.
pub async fn too_few_bytes_are_refused(cas: Arc<dyn Cas>) -> Check {
    for size in [1, 1000, LARGE] {
        let (digest, data) = sample("too few", size);
        cas.delete(&digest).await?;
        for written in [0, size / 2, size - 1] {
            let mut writer = cas.writer(&digest, 0).await?;
            writer.write(data.slice(..written)).await?;
            ensure_error!(
                writer.commit().await,
                ErrorKind::Mismatch,
                "commit with {written} of {size} bytes"
            );
            ensure_nothing_held(&cas, &digest).await?;
        }
        finish(&cas, &digest, &data).await?;
    }
    Ok(())
}

/// A write past the blob's size is refused; the upload can then be parked or
/// discarded, and done again.
pub async fn too_many_bytes_are_refused(cas: Arc<dyn Cas>) -> Check {
    for size in [0, 1, 1000, LARGE] {
        let (digest, data) = sample("too many", size);
        for park in [false, true] {
            cas.delete(&digest).await?;
            let mut writer = cas.writer(&digest, 0).await?;
            writer.write(data.clone()).await?;
            ensure_error!(
                writer.write(Bytes::from_static(b"x")).await,
                ErrorKind::Mismatch,
                "the byte after {size}"
            );
            if park {
                let held = writer.park().await?;
                ensure!(
                    held <= digest.size(),
                    "{held} bytes are held of a blob of {size}"
                );
            } else {
                writer.discard().await?;
                ensure_nothing_held(&cas, &digest).await?;
            }
            ensure_absent(&cas, &digest).await?;
            finish(&cas, &digest, &data).await?;
        }
        let (digest, data) = sample("too many at once", size);
        cas.delete(&digest).await?;
        let mut writer = cas.writer(&digest, 0).await?;
        let longer = [&data[..], b"and more"].concat();
        ensure_error!(
            writer.write(longer.into()).await,
            ErrorKind::Mismatch,
            "{} bytes at once for {size}",
            size + 8
        );
        writer.discard().await?;
        finish(&cas, &digest, &data).await?;
    }
    Ok(())
}

/// When a resumed upload doesn't make the blob, be it for the old bytes or the
/// new, nothing is held, and it can be begun again.
pub async fn a_wrong_resumption_leaves_nothing(cas: Arc<dyn Cas>) -> Check {
    for size in [1000, LARGE] {
        for old_is_wrong in [false, true] {
            let (digest, data) = sample(&format!("wrong resumption {old_is_wrong}"), size);
            cas.delete(&digest).await?;
            let (mut old, mut new) = (data.slice(..size / 2), data.slice(size / 2..));
            if old_is_wrong {
                old = spoiled(&old);
            } else {
                new = spoiled(&new);
            }
            let mut writer = cas.writer(&digest, 0).await?;
            writer.write(old.clone()).await?;
            let held = writer.park().await?;
            let mut writer = cas.writer(&digest, held).await?;
            if held == 0 {
                writer.write(old).await?;
            }
            writer.write(new).await?;
            ensure_error!(
                writer.commit().await,
                ErrorKind::Mismatch | ErrorKind::Stale,
                "the commit of {size} wrong bytes"
            );
            ensure_nothing_held(&cas, &digest).await?;
            finish(&cas, &digest, &data).await?;
        }
    }
    Ok(())
}

/// Nothing is held of a discarded upload, and it can be begun again.
pub async fn a_discarded_upload_leaves_nothing(cas: Arc<dyn Cas>) -> Check {
    for size in [1000, LARGE] {
        let (digest, data) = sample("discarded", size);
        cas.delete(&digest).await?;
        for written in [0, size / 2, size] {
            let mut writer = cas.writer(&digest, 0).await?;
            writer.write(data.slice(..written)).await?;
            writer.discard().await?;
            ensure_nothing_held(&cas, &digest).await?;
        }
        let mut writer = cas.writer(&digest, 0).await?;
        writer.write(data.slice(..size / 2)).await?;
        let held = writer.park().await?;
        let writer = cas.writer(&digest, held).await?;
        writer.discard().await?;
        ensure_nothing_held(&cas, &digest).await?;
        finish(&cas, &digest, &data).await?;
    }
    Ok(())
}

/// Stores a blob from wherever its upload stands.
async fn finish(cas: &Arc<dyn Cas>, digest: &Digest, data: &Bytes) -> Check {
    let steps = data.chunks(50_000).map(|step| Ok(data.slice_ref(step)));
    let stored = cas.store(digest, futures::stream::iter(steps)).await?;
    ensure_eq!(stored, Stored::New, "the blob stored at last");
    ensure_present(cas, digest, data).await
}

/// As `finish`, of an upload that was dropped: one from afar may have yet to end, and has
/// till then what was held before.
async fn finish_dropped(cas: &Arc<dyn Cas>, digest: &Digest, data: &Bytes) -> Check {
    for _ in 0..500 {
        let steps = data.chunks(50_000).map(|step| Ok(data.slice_ref(step)));
        match cas.store(digest, futures::stream::iter(steps)).await {
            Err(error) if error.kind() == ErrorKind::NotHeld => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            stored => {
                ensure_eq!(stored?, Stored::New, "the blob stored at last");
                return ensure_present(cas, digest, data).await;
            }
        }
    }
    finish(cas, digest, data).await
}
