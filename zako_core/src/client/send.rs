//! Sending blobs whose bytes can be had again.

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};

use super::Client;
use super::retry::Backoff;
use crate::Digest;
use crate::cas::{Cas, CasError, ErrorKind, Result, Stored};

/// Where an attempt failed.
enum Failure {
    /// At the side of the bytes: their error is the caller's.
    Source(CasError),
    Sending(CasError),
}

impl Client {
    /// Stores a blob whose bytes can be read again from any offset. When the
    /// connection breaks or the server restarts, it goes on from what the server
    /// holds by then.
    ///
    /// `steps_from(offset)` gives the bytes of the blob from `offset` on.
    ///
    /// # Errors
    /// As for [`Cas::put`]; the first error of the steps, after which what was sent
    /// is kept for a resumption.
    pub async fn store_from<F, S>(&self, digest: &Digest, steps_from: F) -> Result<Stored>
    where
        F: Fn(u64) -> S,
        S: Stream<Item = Result<Bytes>> + Send,
    {
        let mut backoff = self.backoff();
        let mut furthest = 0;
        loop {
            let failure = self
                .attempt(digest, &steps_from, &mut furthest, &mut backoff)
                .await;
            match failure {
                Ok(stored) => return Ok(stored),
                Err(Failure::Source(error)) => return Err(error),
                Err(Failure::Sending(error)) => {
                    // What was held was dropped meanwhile: the next attempt sees.
                    let error = match error.kind() {
                        ErrorKind::NotHeld => {
                            CasError::new(ErrorKind::Stale, error.message()).with_digest(*digest)
                        }
                        _ => error,
                    };
                    backoff.pause(error).await?;
                }
            }
        }
    }

    /// Stores a large blob that is in memory.
    pub(super) async fn put_large(&self, digest: &Digest, data: Bytes) -> Result<Stored> {
        self.store_from(digest, |offset| {
            // At most the blob's size, which is that of `data`.
            let rest = data.slice(offset as usize..);
            stream::iter([Ok(rest)])
        })
        .await
    }

    async fn attempt<F, S>(
        &self,
        digest: &Digest,
        steps_from: &F,
        furthest: &mut u64,
        backoff: &mut Backoff,
    ) -> Result<Stored, Failure>
    where
        F: Fn(u64) -> S,
        S: Stream<Item = Result<Bytes>> + Send,
    {
        let held = self.held(digest).await.map_err(Failure::Sending)?;
        if held > *furthest {
            *furthest = held;
            backoff.progressed();
        }
        let writer = if held < digest.size() {
            self.resume_upload(digest, held).await
        } else {
            // It may be present, or all there and not committed.
            self.writer(digest, held).await
        };
        let mut writer = match writer {
            Ok(writer) => writer,
            Err(error) if error.is_already_exists() => return Ok(Stored::Existing),
            Err(error) => return Err(Failure::Sending(error)),
        };
        let steps = steps_from(held);
        futures::pin_mut!(steps);
        while let Some(step) = steps.next().await {
            match step {
                Ok(data) => writer.write(data).await.map_err(Failure::Sending)?,
                Err(error) => {
                    // The first error is the one to tell.
                    let _ = writer.park().await;
                    return Err(Failure::Source(error));
                }
            }
        }
        writer.commit().await.map_err(Failure::Sending)
    }
}
