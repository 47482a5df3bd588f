//! Sending blobs whose bytes can be had again.

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tracing::{Instrument, Span};

use super::rdma::Road;
use super::retry::Backoff;
use super::upload::Begun;
use super::{Client, span};
use crate::Digest;
use crate::cas::{Cas, CasError, ErrorKind, Result, Stored};

/// Where an attempt failed.
enum Failure {
    /// At the side of the bytes: their error is the caller's.
    Source(CasError),
    Sending(CasError),
}

/// How far an upload has come.
struct Progress {
    backoff: Backoff,
    tried: bool,
    /// The most that the server was seen to hold.
    furthest: u64,
    /// What the server must hold soon of an attempt that failed a moment ago.
    expected: Option<u64>,
    /// RDMA may be used.
    rdma: bool,
    /// It was, by the last attempt.
    by_rdma: bool,
    span: Span,
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
        let span = span::upload(digest);
        let sending = self.send(digest, steps_from, span.clone());
        sending.instrument(span).await
    }

    async fn send<F, S>(&self, digest: &Digest, steps_from: F, span: Span) -> Result<Stored>
    where
        F: Fn(u64) -> S,
        S: Stream<Item = Result<Bytes>> + Send,
    {
        let mut progress = Progress {
            backoff: self.backoff(),
            tried: false,
            furthest: 0,
            expected: None,
            rdma: true,
            by_rdma: false,
            span,
        };
        let strict = self.0.rdma.as_ref().is_some_and(Road::is_strict);
        loop {
            let failure = self.attempt(digest, &steps_from, &mut progress).await;
            match failure {
                Ok(stored) => return Ok(stored),
                Err(Failure::Source(error)) => return Err(error),
                Err(Failure::Sending(error)) if progress.by_rdma && !strict && leaves(&error) => {
                    tracing::debug!(%digest, %error, "an upload goes on by gRPC");
                    self.0.roads.fell_back(&error);
                    progress.rdma = false;
                }
                Err(Failure::Sending(error)) => {
                    // What was held was dropped meanwhile: the next attempt sees.
                    let error = match error.kind() {
                        ErrorKind::NotHeld => {
                            CasError::new(ErrorKind::Stale, error.message()).with_digest(*digest)
                        }
                        _ => error,
                    };
                    progress.backoff.pause(error).await?;
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
        progress: &mut Progress,
    ) -> Result<Stored, Failure>
    where
        F: Fn(u64) -> S,
        S: Stream<Item = Result<Bytes>> + Send,
    {
        progress.by_rdma = false;
        let small = digest.size() <= self.options().small_blob_bytes;
        let held = match progress.expected.take() {
            Some(expected) => self.parked(digest, expected).await,
            // To ask would take as long as to send it.
            None if !progress.tried && small && self.rdma_for(digest.size()).is_some() => Ok(0),
            None => self.held(digest).await,
        };
        progress.tried = true;
        let held = held.map_err(Failure::Sending)?;
        if held > progress.furthest {
            progress.furthest = held;
            progress.backoff.progressed();
        }
        let begun = if held < digest.size() {
            self.resume_upload(digest, held, progress.rdma).await
        } else {
            // It may be present, or all there and not committed.
            self.begin(digest, held).await
        };
        let Begun {
            mut writer,
            by_rdma,
        } = match begun {
            Ok(begun) => begun,
            Err(error) if error.is_already_exists() => return Ok(Stored::Existing),
            Err(error) => return Err(Failure::Sending(error)),
        };
        progress.by_rdma = by_rdma;
        span::took(&progress.span, by_rdma);
        // What it was given lately may not have been read.
        let window = self.0.rdma.as_ref().map_or(0, Road::window);
        let expected = |given: u64| by_rdma.then(|| given.saturating_sub(window).max(held + 1));
        let steps = steps_from(held);
        futures::pin_mut!(steps);
        while let Some(step) = steps.next().await {
            match step {
                Ok(data) => {
                    if let Err(error) = writer.write(data).await {
                        progress.expected = expected(writer.held());
                        return Err(Failure::Sending(error));
                    }
                }
                Err(error) => {
                    // The first error is the one to tell.
                    let _ = writer.park().await;
                    return Err(Failure::Source(error));
                }
            }
        }
        let given = writer.held();
        writer.commit().await.map_err(|error| {
            progress.expected = expected(given);
            Failure::Sending(error)
        })
    }
}

/// Whether what failed over RDMA is to be tried by gRPC: there it may come through, or be
/// told with the time to try again, which older servers don't tell over RDMA.
fn leaves(error: &CasError) -> bool {
    match error.kind() {
        ErrorKind::Unavailable => true,
        ErrorKind::NoSpace => error.retry_after().is_none(),
        _ => false,
    }
}
