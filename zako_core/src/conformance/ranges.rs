//! Parts of blobs.

use std::sync::Arc;

use super::samples::{LARGE, sample};
use super::{Check, ensure, ensure_eq, ensure_error};
use crate::BlobRange;
use crate::cas::{Cas, ErrorKind};

/// Every range that a blob has is read exactly, from the first byte to the last.
pub async fn ranges_at_all_edges(cas: Arc<dyn Cas>) -> Check {
    for size in [0, 1, 1000, 64 * 1024 + 1, LARGE] {
        let (digest, data) = sample("ranges", size);
        cas.put(&digest, data.clone()).await?;
        let size = size as u64;
        let edges = [
            0,
            1,
            size / 2,
            64 * 1024 - 1,
            64 * 1024,
            1 << 20,
            size.saturating_sub(1),
            size,
        ];
        for start in edges.into_iter().filter(|start| *start <= size) {
            let mut ranges = vec![BlobRange::from_start(start)];
            ranges.extend(
                edges
                    .into_iter()
                    .filter(|end| start <= *end && *end <= size)
                    .map(|end| BlobRange::new(start, end - start)),
            );
            for range in ranges {
                let blob = cas.fetch(&digest, range).await?;
                let end = range.length().map_or(size, |length| start + length);
                ensure_eq!(
                    blob.range(),
                    start..end,
                    "the opened range for {range} of {size}"
                );
                let read = blob.bytes().await?;
                ensure!(
                    read == data[start as usize..end as usize],
                    "{range} of {size} bytes has other bytes"
                );
            }
        }
    }
    Ok(())
}

/// A range that reaches past the end is refused, not cut; of an absent blob
/// nothing is read at all.
pub async fn ranges_that_a_blob_lacks_are_refused(cas: Arc<dyn Cas>) -> Check {
    for size in [0, 1, 64 * 1024, LARGE] {
        let (digest, data) = sample("no_ranges", size);
        cas.delete(&digest).await?;
        for range in [
            BlobRange::FULL,
            BlobRange::new(0, 0),
            BlobRange::from_start(digest.size()),
        ] {
            ensure_error!(
                cas.fetch(&digest, range).await,
                ErrorKind::NotFound,
                "{range} of an absent blob"
            );
        }
        cas.put(&digest, data).await?;
        let size = digest.size();
        for range in [
            BlobRange::from_start(size + 1),
            BlobRange::new(size + 1, 0),
            BlobRange::new(size, 1),
            BlobRange::new(0, size + 1),
            BlobRange::new(size / 2, size - size / 2 + 1),
            BlobRange::new(u64::MAX, 1),
            BlobRange::new(u64::MAX, 0),
            BlobRange::new(1, u64::MAX),
            BlobRange::new(0, u64::MAX),
        ] {
            ensure_error!(
                cas.fetch(&digest, range).await,
                ErrorKind::InvalidRange,
                "{range:?} of {size} bytes"
            );
        }
    }
    Ok(())
}
