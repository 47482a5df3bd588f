//! A read of the far store that writes into the near one on its way.

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::fill::{Place, other_bytes};
use super::near_failed;
use crate::Digest;
use crate::cas::{Blob, BlobWriter, Cas, ErrorKind, Result};

/// Gives each step on once the near store took it, so that it holds one step only.
struct Tee {
    far: Blob,
    at: u64,
    near: Option<Near>,
}

struct Near {
    writer: Box<dyn BlobWriter>,
    /// Bytes that an interrupted fill left, not to be written again.
    held: u64,
    place: Place,
}

/// The blob `far`, filling `near` while it is read. A read that is dropped leaves
/// its part for the next one's resumption.
pub(super) async fn filling(far: Blob, near: &dyn Cas, place: Place) -> Blob {
    let near = match near_writer(near, far.digest()).await {
        Ok((writer, held)) => Near {
            writer,
            held,
            place,
        },
        Err(error) => {
            near_failed("fill", &error);
            return far;
        }
    };
    let (digest, range) = (*far.digest(), far.range());
    let tee = Tee {
        far,
        at: 0,
        near: Some(near),
    };
    let steps = stream::try_unfold(tee, async |mut tee| {
        Ok(tee.next().await?.map(|data| (data, tee)))
    });
    Blob::from_stream(digest, range, steps)
}

async fn near_writer(near: &dyn Cas, digest: &Digest) -> Result<(Box<dyn BlobWriter>, u64)> {
    let held = near.held(digest).await?;
    Ok((near.writer(digest, held).await?, held))
}

impl Tee {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let Some(data) = self.far.next().await.transpose()? else {
            return Ok(None);
        };
        let from = self.at;
        self.at += data.len() as u64;
        let Some(near) = &mut self.near else {
            return Ok(Some(data));
        };
        // At most the step's length, which is a usize.
        let skipped = near.held.saturating_sub(from).min(data.len() as u64) as usize;
        if skipped < data.len()
            && let Err(error) = near.writer.write(data.slice(skipped..)).await
        {
            near_failed("fill", &error);
            self.near = None;
            return Ok(Some(data));
        }
        if self.at == self.far.len()
            && let Some(near) = self.near.take()
            && let Err(error) = near.place.commit(near.writer).await
        {
            if error.kind() == ErrorKind::Mismatch && near.held == 0 {
                return Err(other_bytes(*self.far.digest(), error));
            }
            near_failed("fill", &error);
        }
        Ok(Some(data))
    }
}
