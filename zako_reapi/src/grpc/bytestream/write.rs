//! Storing a blob.

use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tonic::Status;
use zako_core::access::Role;
use zako_core::cas::{CasError, ErrorKind, Lease, Stored};
use zako_core::negotiate::Caller;
use zako_core::server::{CallBody, bad_request, to_status};
use zako_core::transport::grpc::{DecodeLimits, Pieces};

use super::super::resource_name::{BlobName, Encoding};
use super::super::rights;
use super::messages::Messages;
use super::size;
use super::source::{End, Source};
use super::unpack::Unpack;
use crate::cache::{Cache, Upload};
use crate::digest::RemoteDigest;

/// A blob up to this size (bytes) is collected and stored at once, so that the store
/// can commit it together with others.
const COLLECTED: u64 = 1024 * 1024;

/// A store that takes longer for a piece keeps the sender waiting.
const SLOW: Duration = Duration::from_millis(100);

/// How an upload ended that is not wrong.
enum Outcome {
    Whole,
    /// So many bytes are held for a resumption.
    Parked(u64),
}

/// Counts the bytes of an upload against its blob's size.
struct Counter {
    digest: RemoteDigest,
    /// From where on they were to come.
    start: u64,
    came: u64,
}

/// Takes one write; the answer's `committed_size`.
pub(super) async fn receive(
    cache: &Cache,
    caller: &Caller,
    body: CallBody,
    limits: DecodeLimits,
) -> Result<i64, Status> {
    let begun = Messages::begin(body, limits).await;
    let (name, mut messages) = begun.map_err(End::into_status)?;
    rights::check(caller, messages.instance(), Role::Write)?;
    let BlobName { digest, encoding } = name;
    if exists(cache, &digest).await? {
        return Ok(match encoding {
            Encoding::Identity => size(digest.size()),
            Encoding::Zstd => -1,
        });
    }
    let start = messages.offset();
    match encoding {
        Encoding::Identity => {
            let stored = store(cache, &mut messages, &digest, start).await?;
            Ok(size(match stored {
                Outcome::Whole => digest.size(),
                Outcome::Parked(held) => held,
            }))
        }
        Encoding::Zstd if start > 0 => Err(bad_request(
            "write_offset",
            "a compressed write begins at 0: what came before is not kept",
        )),
        Encoding::Zstd => {
            let mut unpack = Unpack::new(messages, digest.size());
            let stored = store(cache, &mut unpack, &digest, 0).await?;
            Ok(match stored {
                Outcome::Whole => size(unpack.sent()),
                Outcome::Parked(_) => 0,
            })
        }
    }
}

async fn exists(cache: &Cache, digest: &RemoteDigest) -> Result<bool, Status> {
    let missing = cache.missing(&[*digest], Lease::Default).await;
    Ok(missing.map_err(|error| to_status(&error))?.is_empty())
}

/// Takes the bytes from `start` on.
async fn store(
    cache: &Cache,
    source: &mut impl Source,
    digest: &RemoteDigest,
    start: u64,
) -> Result<Outcome, Status> {
    let counter = Counter {
        digest: *digest,
        start,
        came: 0,
    };
    if start == 0 && digest.size() <= COLLECTED {
        return collect(cache, source, counter).await;
    }
    match cache.upload(digest, start).await {
        Ok(upload) => write(upload, source, counter).await,
        // Another upload was faster.
        Err(error) if error.is_already_exists() => Ok(Outcome::Whole),
        Err(error) => Err(to_status(&error)),
    }
}

/// Takes a small blob into memory, which grows as bytes come, and stores it.
async fn collect(
    cache: &Cache,
    source: &mut impl Source,
    mut counter: Counter,
) -> Result<Outcome, Status> {
    let mut held = Pieces::new();
    let end = loop {
        match source.chunk().await {
            Ok(Some(chunk)) => {
                let room = source.hold(chunk.len() as u64).map_err(End::Park);
                match counter.add(&chunk).and(room) {
                    Ok(()) => held.push(chunk),
                    Err(end) => break Err(end),
                }
                if !counter.is_whole() {
                    held.keep();
                }
            }
            Ok(None) if source.finished() => break counter.finish(),
            Ok(None) if source.resumes() => {
                let parked = keep(cache, &counter.digest, whole(held)).await;
                let parked = parked.map_err(|error| to_status(&error))?;
                return Ok(Outcome::Parked(parked));
            }
            Ok(None) => return Ok(Outcome::Parked(0)),
            Err(end) => break Err(end),
        }
    };
    match end {
        Ok(()) => {
            let stored = cache.put(counter.digest, whole(held)).await;
            outcome(stored)
        }
        Err(End::Park(status)) if source.resumes() => {
            let digest = counter.digest;
            if let Err(error) = keep(cache, &digest, whole(held)).await {
                tracing::debug!(%digest, %error, "an interrupted upload could not be parked");
            }
            Err(status)
        }
        Err(End::Park(status) | End::Discard(status)) => Err(status),
    }
}

fn whole(mut pieces: Pieces) -> Bytes {
    let length = pieces.remaining();
    pieces.copy_to_bytes(length)
}

/// Parks the beginning of a blob; how much of it is held.
async fn keep(cache: &Cache, digest: &RemoteDigest, beginning: Bytes) -> Result<u64, CasError> {
    let held = cache.held(digest).await?;
    if beginning.len() as u64 <= held {
        return Ok(held);
    }
    let mut upload = cache.upload(digest, 0).await?;
    let written = upload.write(beginning).await;
    let held = upload.park().await?;
    written.map(|()| held)
}

/// Passes a large blob on to the store as it comes.
async fn write(
    mut upload: Upload,
    source: &mut impl Source,
    mut counter: Counter,
) -> Result<Outcome, Status> {
    let digest = counter.digest;
    let end = loop {
        match source.chunk().await {
            Ok(Some(chunk)) => {
                if let Err(end) = counter.add(&chunk) {
                    break Err(end);
                }
                let began = Instant::now();
                if let Err(error) = upload.write(chunk).await {
                    let status = to_status(&error);
                    break Err(match error.kind() {
                        ErrorKind::Mismatch => End::Discard(status),
                        _ => End::Park(status),
                    });
                }
                if began.elapsed() > SLOW {
                    source.waited();
                }
            }
            Ok(None) if source.finished() => break counter.finish(),
            Ok(None) => {
                let held = match source.resumes() {
                    true => upload.park().await,
                    false => upload.discard().await.map(|()| 0),
                };
                return Ok(Outcome::Parked(held.map_err(|error| to_status(&error))?));
            }
            Err(end) => break Err(end),
        }
    };
    let (cleared, status) = match end {
        Ok(()) => return outcome(upload.commit().await),
        Err(End::Park(status)) if source.resumes() => (upload.park().await.map(|_| ()), status),
        Err(End::Park(status) | End::Discard(status)) => (upload.discard().await, status),
    };
    if let Err(error) = cleared {
        tracing::warn!(%digest, %error, "an interrupted upload could not be put aside");
    }
    Err(status)
}

/// That another upload was faster is as good.
fn outcome(stored: Result<Stored, CasError>) -> Result<Outcome, Status> {
    match stored {
        Ok(_) => Ok(Outcome::Whole),
        Err(error) if error.is_already_exists() => Ok(Outcome::Whole),
        Err(error) => Err(to_status(&error)),
    }
}

impl Counter {
    fn add(&mut self, chunk: &Bytes) -> Result<(), End> {
        self.came = self.came.saturating_add(chunk.len() as u64);
        if self.start.saturating_add(self.came) > self.digest.size() {
            return Err(self.mismatch("more bytes came"));
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.start.saturating_add(self.came) == self.digest.size()
    }

    fn finish(&self) -> Result<(), End> {
        let end = self.start.saturating_add(self.came);
        if end < self.digest.size() {
            return Err(self.mismatch(&format!("the write was finished at {end}")));
        }
        Ok(())
    }

    fn mismatch(&self, what: &str) -> End {
        let digest = self.digest;
        End::wrong("data", format!("{what} of the blob {digest}"))
    }
}
