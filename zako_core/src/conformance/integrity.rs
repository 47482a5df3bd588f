//! Bytes in are bytes out, and only under their own digest.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;

use super::samples::{LARGE, SIZES, ensure_nothing_held, ensure_present, sample, spoiled};
use super::{Check, ensure, ensure_eq, ensure_error};
use crate::cas::{Cas, CasExt, ErrorKind, Stored};
use crate::{BlobRange, Digest};

/// What `put` stores, `fetch` gives back, at every size, in steps that add up.
pub async fn stored_bytes_come_back(cas: Arc<dyn Cas>) -> Check {
    for size in SIZES {
        let (digest, data) = sample("stored_bytes", size);
        cas.delete(&digest).await?;
        let stored = cas.put(&digest, data.clone()).await?;
        ensure_eq!(stored, Stored::New, "the first put of {size} bytes");
        ensure_present(&cas, &digest, &data).await?;

        let mut blob = cas.fetch(&digest, BlobRange::FULL).await?;
        ensure_eq!(*blob.digest(), digest, "the opened blob's digest");
        ensure_eq!(blob.range(), 0..digest.size(), "the opened blob's range");
        let mut rest = &data[..];
        while let Some(step) = blob.next().await {
            let step = step?;
            ensure!(
                rest.starts_with(&step),
                "a step of {size} bytes is wrong, {} before the end",
                rest.len()
            );
            rest = &rest[step.len()..];
        }
        ensure!(
            rest.is_empty(),
            "{} of {size} bytes did not come",
            rest.len()
        );
    }
    Ok(())
}

/// What a writer commits, `fetch` gives back, at every size.
pub async fn written_bytes_come_back(cas: Arc<dyn Cas>) -> Check {
    for size in SIZES {
        let (digest, data) = sample("written_bytes", size);
        cas.delete(&digest).await?;
        let mut writer = cas.writer(&digest, 0).await?;
        ensure_eq!(*writer.digest(), digest, "the writer's digest");
        for step in data.chunks(100_003) {
            writer.write(Bytes::copy_from_slice(step)).await?;
        }
        ensure_eq!(writer.held(), digest.size(), "what the writer holds");
        ensure_eq!(
            writer.commit().await?,
            Stored::New,
            "the commit of {size} bytes"
        );
        ensure_present(&cas, &digest, &data).await?;
    }
    Ok(())
}

/// The empty blob is absent until it is stored, by `put` or by a writer.
pub async fn the_empty_blob_is_a_blob(cas: Arc<dyn Cas>) -> Check {
    let digest = Digest::EMPTY;
    cas.delete(&digest).await?;
    ensure_nothing_held(&cas, &digest).await?;
    ensure_eq!(
        cas.put(&digest, Bytes::new()).await?,
        Stored::New,
        "its first put"
    );
    ensure_present(&cas, &digest, &[]).await?;
    ensure!(cas.delete(&digest).await?, "it was there, delete says not");
    ensure_nothing_held(&cas, &digest).await?;
    let writer = cas.writer(&digest, 0).await?;
    ensure_eq!(
        writer.commit().await?,
        Stored::New,
        "its commit without a byte"
    );
    ensure_present(&cas, &digest, &[]).await
}

/// `put` refuses bytes that are not the digest's, and stores nothing.
pub async fn wrong_bytes_are_refused(cas: Arc<dyn Cas>) -> Check {
    for size in [1, 64 * 1024, LARGE] {
        let (digest, data) = sample("wrong_bytes", size);
        cas.delete(&digest).await?;
        let mut longer = data.to_vec();
        longer.push(0);
        for wrong in [
            spoiled(&data),
            data.slice(..size - 1),
            longer.into(),
            Bytes::new(),
        ] {
            let length = wrong.len();
            ensure_error!(
                cas.put(&digest, wrong).await,
                ErrorKind::Mismatch,
                "put of {length} wrong bytes for a blob of {size}"
            );
            ensure_nothing_held(&cas, &digest).await?;
        }
        // The same hash with another size is another blob, which can't be.
        let other = Digest::new(*digest.hash(), digest.size() + 1);
        ensure_error!(
            cas.put(&other, data.clone()).await,
            ErrorKind::Mismatch,
            "put under a digest of another size"
        );
        ensure_nothing_held(&cas, &other).await?;
        cas.put(&digest, data.clone()).await?;
        ensure_present(&cas, &digest, &data).await?;
        ensure_nothing_held(&cas, &other).await?;
    }
    Ok(())
}

/// A writer refuses bytes that are not the digest's, and nothing is held then.
pub async fn wrong_bytes_of_a_writer_are_refused(cas: Arc<dyn Cas>) -> Check {
    for size in [1, 64 * 1024, LARGE] {
        let (digest, data) = sample("wrong_written", size);
        cas.delete(&digest).await?;
        let mut writer = cas.writer(&digest, 0).await?;
        writer.write(spoiled(&data)).await?;
        ensure_error!(
            writer.commit().await,
            ErrorKind::Mismatch,
            "commit of {size} wrong bytes"
        );
        ensure_nothing_held(&cas, &digest).await?;
        let mut writer = cas.writer(&digest, 0).await?;
        writer.write(data.clone()).await?;
        ensure_eq!(
            writer.commit().await?,
            Stored::New,
            "the right bytes after wrong ones"
        );
        ensure_present(&cas, &digest, &data).await?;
    }
    Ok(())
}

/// Where an opened blob has a file extent, the same bytes lie there.
pub async fn extents_show_the_same_bytes(cas: Arc<dyn Cas>) -> Check {
    for size in SIZES {
        let (digest, data) = sample("extents", size);
        cas.put(&digest, data.clone()).await?;
        for range in [0..size, size / 3..size / 2] {
            let wanted = BlobRange::from(range.start as u64..range.end as u64);
            let blob = cas.fetch(&digest, wanted).await?;
            let Some(extent) = blob.extent().cloned() else {
                continue;
            };
            let expected = data.slice(range);
            let mut read = vec![0; expected.len()];
            let outcome = extent.file.read_exact_at(&mut read, extent.offset);
            ensure!(outcome.is_ok(), "the extent can't be read: {outcome:?}");
            ensure!(
                read == expected,
                "the extent of {wanted} of {size} bytes has other bytes"
            );
            ensure!(blob.bytes().await? == expected, "the steps have other ones");
        }
    }
    let (digest, _) = sample("extents", LARGE);
    ensure!(
        !cas.contains(&digest).await?,
        "a blob is there that was never stored"
    );
    Ok(())
}
