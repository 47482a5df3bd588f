//! Reads from the near store that go on with the far one.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::near_failed;
use crate::BlobRange;
use crate::cas::{Blob, Cas, Result};

/// The same blob; when its steps fail, the far store's follow from there.
pub(super) fn recovering(near: Blob, far: Arc<dyn Cas>) -> Blob {
    let (digest, range) = (*near.digest(), near.range());
    let extent = near.extent().cloned();
    let steps = Steps {
        at: range.start,
        blob: near,
        far: Some(far),
    };
    let steps = stream::try_unfold(steps, async |mut steps| {
        Ok(steps.next().await?.map(|data| (data, steps)))
    });
    let blob = Blob::from_stream(digest, range, steps);
    match extent {
        Some(extent) => blob.with_extent(extent),
        None => blob,
    }
}

struct Steps {
    blob: Blob,
    /// Where the next step begins.
    at: u64,
    /// Taken once it is needed.
    far: Option<Arc<dyn Cas>>,
}

impl Steps {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.blob.next().await.transpose() {
                Ok(data) => {
                    self.at += data.as_ref().map_or(0, Bytes::len) as u64;
                    return Ok(data);
                }
                Err(error) => {
                    let Some(far) = self.far.take() else {
                        return Err(error);
                    };
                    near_failed("read", &error);
                    let rest = BlobRange::from(self.at..self.blob.range().end);
                    self.blob = far.fetch(self.blob.digest(), rest).await?;
                }
            }
        }
    }
}
