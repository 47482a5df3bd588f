//! Taking an Upload.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, Bytes};
use tonic::Status;
use tracing::Instrument;

use super::body::{Broken, RequestBody};
use super::connection::Shared;
use super::resource::resource;
use super::status::{bad_frame, bad_request, to_status};
use crate::cas::{BlobWriter, Cas, CasError, CasExt, ErrorKind, Stored};
use crate::negotiate::StreamPermit;
use crate::observe::trace::{self, Parts};
use crate::transport::grpc::{FrameError, Pieces, UploadDecoder, UploadEvent};
use crate::{BlobRange, Digest};

/// A blob up to this size (bytes) is collected and stored at once, so that the
/// store can commit it together with others.
const COLLECTED: u64 = 1024 * 1024;

/// The call's messages as they arrive.
struct Messages {
    body: RequestBody,
    decoder: UploadDecoder,
    data: Bytes,
}

/// Where the bytes of an upload come from.
pub(super) trait Source: Send {
    /// The next bytes; `None` after the last ones.
    fn chunk(&mut self) -> impl Future<Output = Result<Option<Bytes>, End>> + Send;

    /// Says that so many bytes of what came are held, until the source is dropped.
    fn hold(&mut self, bytes: u64) -> Result<(), Status>;

    /// Notes that the store has taken some: its time is not the sender's.
    fn progressed(&mut self) {}
}

/// Why an upload ends before its blob is whole, and what becomes of it.
pub(super) enum End {
    /// The sender or this server went away: what came is kept for a resumption.
    Park(Status),
    /// The sender is wrong: nothing of it is kept.
    Discard(Status),
}

/// Counts the bytes of an upload against those that its metadata declared.
struct Counter {
    digest: Digest,
    declared: u64,
    came: u64,
}

/// Takes one upload; the answer's `committed_size`.
pub(super) async fn receive(
    shared: Arc<Shared>,
    body: RequestBody,
    permit: StreamPermit,
) -> Result<u64, Status> {
    let mut messages = Messages {
        body,
        decoder: UploadDecoder::new(shared.decode_limits()),
        data: Bytes::new(),
    };
    let received = upload(&shared, &mut messages).await;
    drop(permit);
    received
}

async fn upload(shared: &Shared, messages: &mut Messages) -> Result<u64, Status> {
    let cas = &*shared.cas;
    let metadata = match messages.next().await.map_err(End::status)? {
        Some(UploadEvent::Metadata(metadata)) => metadata,
        Some(_) => return Err(bad_request("payload", "the first message is not metadata")),
        None => return Err(bad_request("payload", "the upload has no metadata")),
    };
    let (digest, range) = resource(Some(metadata))?;
    let start = start(&digest, range)?;
    check(cas, &digest, start).await?;
    messages.body.progressed();
    let first = match messages.chunk().await.map_err(End::status)? {
        Some(chunk) => chunk,
        // Nothing is missing of an upload that begins at its end.
        None if start == digest.size() => Bytes::new(),
        None => return cas.held(&digest).await.map_err(|error| to_status(&error)),
    };
    let blob = trace::step!(
        "store blob",
        zako.digest = %digest,
        zako.bytes = digest.size() as i64,
        zako.transport = "grpc",
    );
    let storing = store(shared, messages, &digest, start, first);
    storing.instrument(blob).await
}

/// Whether an upload of this blob can begin at `start`.
pub(super) async fn check(cas: &dyn Cas, digest: &Digest, start: u64) -> Result<(), Status> {
    let status = |error: CasError| to_status(&error);
    if cas.contains(digest).await.map_err(status)? {
        return Err(exists(digest));
    }
    if start > 0 {
        let held = cas.held(digest).await.map_err(status)?;
        if start > held {
            return Err(status(CasError::not_held(*digest, start, held)));
        }
    }
    Ok(())
}

/// Takes the bytes from `start` on, `first` before those of the source; the blob's size.
pub(super) async fn store(
    shared: &Shared,
    source: &mut impl Source,
    digest: &Digest,
    start: u64,
    first: Bytes,
) -> Result<u64, Status> {
    let cas = &*shared.cas;
    let counter = Counter {
        digest: *digest,
        declared: digest.size() - start,
        came: 0,
    };
    let stored = if start == 0 && digest.size() <= COLLECTED {
        collect(cas, source, first, counter).await?
    } else {
        let writer = cas.writer(digest, start).await;
        let writer = writer.map_err(|error| to_status(&error))?;
        write(shared, writer, source, first, counter).await?
    };
    match stored {
        Stored::New => Ok(digest.size()),
        // Another upload was faster.
        Stored::Existing => Err(exists(digest)),
    }
}

fn exists(digest: &Digest) -> Status {
    to_status(&CasError::already_exists(*digest).with_held(digest.size()))
}

/// The first byte that will be sent.
fn start(digest: &Digest, range: BlobRange) -> Result<u64, Status> {
    let past_end = |error: String| {
        to_status(&CasError::new(ErrorKind::InvalidRange, error).with_digest(*digest))
    };
    let bytes = range
        .resolve(digest.size())
        .map_err(|error| past_end(error.to_string()))?;
    if bytes.end != digest.size() {
        return Err(past_end(format!(
            "an upload goes to the end of the blob: the range {range} ends before {}",
            digest.size()
        )));
    }
    Ok(bytes.start)
}

/// Takes a small blob into memory, which grows as bytes come, and stores it.
async fn collect(
    cas: &dyn Cas,
    source: &mut impl Source,
    first: Bytes,
    mut counter: Counter,
) -> Result<Stored, Status> {
    let digest = counter.digest;
    let mut network = Parts::default();
    let mut held = Pieces::new();
    let mut next = Some(first);
    let end = loop {
        match next {
            Some(chunk) => {
                let room = source.hold(chunk.len() as u64).map_err(End::Park);
                if let Err(end) = counter.add(&chunk).and(room) {
                    break Err(end);
                }
                held.push(chunk);
                if !counter.is_whole() {
                    held.keep();
                }
            }
            None => break counter.finish(),
        }
        next = match receive_part(source, &mut network).await {
            Ok(next) => next,
            Err(end) => break Err(end),
        };
    };
    drop(network);
    match end {
        Ok(()) => cas
            .put(&digest, whole(held))
            .await
            .map_err(|error| to_status(&error)),
        Err(End::Park(status)) => {
            if let Err(error) = keep(cas, &digest, whole(held)).await {
                tracing::debug!(%digest, %error, "an interrupted upload could not be parked");
            }
            Err(status)
        }
        Err(End::Discard(status)) => Err(status),
    }
}

/// Parks the beginning of a blob.
async fn keep(cas: &dyn Cas, digest: &Digest, beginning: Bytes) -> Result<(), CasError> {
    if beginning.len() as u64 <= cas.held(digest).await? {
        return Ok(());
    }
    let mut writer = cas.writer(digest, 0).await?;
    let written = writer.write(beginning).await;
    writer.park().await?;
    written
}

/// Passes a large blob on to the store as it comes.
async fn write(
    shared: &Shared,
    mut writer: Box<dyn BlobWriter>,
    source: &mut impl Source,
    first: Bytes,
    mut counter: Counter,
) -> Result<Stored, Status> {
    let digest = counter.digest;
    let mut network = Parts::default();
    let mut next = Some(first);
    let end = loop {
        match next {
            Some(chunk) => {
                if let Err(end) = counter.add(&chunk) {
                    break Err(end);
                }
                let counts = !chunk.is_empty();
                if counts && let Err(error) = pass_on(shared, &mut *writer, chunk).await {
                    let status = to_status(&error);
                    break Err(match error.kind() {
                        ErrorKind::Mismatch => End::Discard(status),
                        _ => End::Park(status),
                    });
                }
                if counts {
                    source.progressed();
                }
            }
            None => break counter.finish(),
        }
        next = match receive_part(source, &mut network).await {
            Ok(next) => next,
            Err(end) => break Err(end),
        };
    };
    drop(network);
    let (cleared, status) = match end {
        Ok(()) => {
            return writer.commit().await.map_err(|error| to_status(&error));
        }
        Err(End::Park(status)) => (writer.park().await.map(|_| ()), status),
        Err(End::Discard(status)) => (writer.discard().await, status),
    };
    if let Err(error) = cleared {
        tracing::warn!(%digest, %error, "an interrupted upload could not be put aside");
    }
    Err(status)
}

/// The next bytes; waiting for them is the network's time.
async fn receive_part(source: &mut impl Source, network: &mut Parts) -> Result<Option<Bytes>, End> {
    let began = network.begin(trace::parts!("network receive"));
    let next = source.chunk().await?;
    network.end(began, next.as_ref().map_or(0, Bytes::len) as u64);
    Ok(next)
}

async fn pass_on(
    shared: &Shared,
    writer: &mut dyn BlobWriter,
    chunk: Bytes,
) -> Result<(), CasError> {
    let (length, began) = (chunk.len(), Instant::now());
    writer.write(chunk).await?;
    shared.gate.service_time().record(length, began.elapsed());
    Ok(())
}

/// One piece is not copied.
fn whole(mut pieces: Pieces) -> Bytes {
    let length = pieces.remaining();
    pieces.copy_to_bytes(length)
}

impl Counter {
    fn add(&mut self, chunk: &Bytes) -> Result<(), End> {
        self.came = self.came.saturating_add(chunk.len() as u64);
        if self.came > self.declared {
            return Err(self.mismatch("more came"));
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.came == self.declared
    }

    fn finish(&self) -> Result<(), End> {
        if self.came < self.declared {
            return Err(self.mismatch(&format!("only {} came", self.came)));
        }
        Ok(())
    }

    fn mismatch(&self, what: &str) -> End {
        let message = format!("{} bytes were declared, {what}", self.declared);
        let error = CasError::new(ErrorKind::Mismatch, message).with_digest(self.digest);
        End::Discard(to_status(&error))
    }
}

impl Messages {
    async fn next(&mut self) -> Result<Option<UploadEvent>, End> {
        loop {
            if let Some(event) = self.decoder.next(&mut self.data)? {
                return Ok(Some(event));
            }
            match self.body.next().await? {
                Some(data) => self.data = data,
                None => {
                    self.decoder.finish()?;
                    return Ok(None);
                }
            }
        }
    }
}

impl Source for Messages {
    async fn chunk(&mut self) -> Result<Option<Bytes>, End> {
        let refused = |description: &str| End::Discard(bad_request("payload", description));
        match self.next().await? {
            None => Ok(None),
            Some(UploadEvent::Chunk(chunk)) => {
                // Empty chunks keep no upload alive.
                if !chunk.is_empty() {
                    self.body.progressed();
                }
                Ok(Some(chunk))
            }
            Some(UploadEvent::Metadata(_)) => Err(refused("metadata came twice")),
            Some(UploadEvent::Unset) => Err(refused("a message has no payload")),
        }
    }

    fn hold(&mut self, bytes: u64) -> Result<(), Status> {
        self.body.hold(bytes)
    }

    fn progressed(&mut self) {
        self.body.progressed();
    }
}

impl End {
    pub(super) fn status(self) -> Status {
        match self {
            Self::Park(status) | Self::Discard(status) => status,
        }
    }
}

impl From<Broken> for End {
    fn from(broken: Broken) -> Self {
        Self::Park(broken.into())
    }
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> Self {
        Self::Discard(bad_frame(error))
    }
}
