//! Reading a blob as a stream.

use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream;
use tracing::{Instrument, Span};
use zako_digest::hash::Hasher;
use zako_protobuf::range::BlobRange as ProtoRange;
use zako_protobuf::transport::{BlobResource, DownloadRequest};

use super::batch::wrong_bytes;
use super::call::{self, Reply};
use super::rdma::{Failure, Pulling, Road};
use super::retry::Backoff;
use super::roads::Counter;
use super::session::{Lane, Load};
use super::{Client, span, within};
use crate::cas::{Blob, CasError, ErrorKind, Result};
use crate::transport::grpc::{DecodeLimits, DownloadDecoder};
use crate::{BlobRange, Digest};

/// A download under way: takes up again where a road broke off.
struct Download {
    client: Client,
    digest: Digest,
    range: Range<u64>,
    /// The offset in the blob of the next byte to come.
    next: u64,
    /// Sees all bytes of a blob that is read whole.
    hasher: Option<Hasher>,
    /// The last step, until the stream has ended well.
    last: Option<Bytes>,
    source: Option<Source>,
    /// RDMA failed on it: the rest comes by gRPC.
    fell_back: bool,
    /// Bytes came over RDMA.
    pulled: bool,
    backoff: Backoff,
    over: bool,
    /// Tells the transport.
    span: Span,
}

/// Where bytes come from.
enum Source {
    Grpc(Box<Call>),
    Rdma(Pulling),
}

/// One call.
struct Call {
    lane: Lane,
    reply: Reply,
    decoder: DownloadDecoder,
    /// What came and isn't decoded yet.
    raw: Bytes,
}

impl Client {
    /// Opens a part of a blob. Small ones are read to the end here.
    pub(super) async fn download(&self, digest: &Digest, range: BlobRange) -> Result<Blob> {
        let range = range.resolve(digest.size()).map_err(|error| {
            CasError::new(ErrorKind::InvalidRange, error.to_string()).with_digest(*digest)
        })?;
        let whole = range.end - range.start == digest.size();
        let mut download = Download {
            client: self.clone(),
            digest: *digest,
            next: range.start,
            range: range.clone(),
            hasher: (whole && self.options().verify).then(Hasher::new),
            last: None,
            source: None,
            fell_back: false,
            pulled: false,
            backoff: self.backoff(),
            over: false,
            span: span::download(digest),
        };
        let span = download.span.clone();
        let opening = download.open().instrument(span.clone());
        download.source = Some(opening.await?);
        if range.end - range.start > self.options().small_blob_bytes {
            let steps = stream::try_unfold(download, |mut download| {
                let span = download.span.clone();
                let step = async move { Ok(download.step().await?.map(|step| (step, download))) };
                step.instrument(span)
            });
            return Ok(Blob::from_stream(*digest, range, steps));
        }
        let data = download.collect().instrument(span).await?;
        Ok(Blob::from_bytes(*digest, range, data))
    }

    /// A blob whole, in memory.
    pub(super) async fn download_whole(&self, digest: &Digest) -> Result<Bytes> {
        let bytes = self.download(digest, BlobRange::FULL).await?.bytes().await;
        match bytes {
            // This time by gRPC.
            Err(error) if error.kind() == ErrorKind::Corrupt && error.is_transient() => {
                self.download(digest, BlobRange::FULL).await?.bytes().await
            }
            bytes => bytes,
        }
    }
}

impl Download {
    /// All bytes; anew by gRPC if RDMA brought wrong ones.
    async fn collect(mut self) -> Result<Bytes> {
        let range = self.range.clone();
        loop {
            let error = match self.rest().await {
                Err(error) if error.kind() == ErrorKind::Corrupt && error.is_transient() => error,
                outcome => return outcome,
            };
            tracing::debug!(digest = %self.digest, %error, "a download begins anew by gRPC");
            self.next = range.start;
            self.hasher = self.hasher.as_ref().map(|_| Hasher::new());
            (self.fell_back, self.pulled, self.over) = (true, false, false);
        }
    }

    async fn rest(&mut self) -> Result<Bytes> {
        let data = self.step().await?.unwrap_or_default();
        if data.len() as u64 == self.range.end - self.range.start {
            return Ok(data);
        }
        // Copied: a tiny step would keep the whole frame that it came in.
        let mut whole = BytesMut::from(&data[..]);
        while let Some(step) = self.step().await? {
            whole.extend_from_slice(&step);
        }
        Ok(whole.freeze())
    }

    /// The next bytes, `None` at the end.
    async fn step(&mut self) -> Result<Option<Bytes>> {
        while !self.over {
            let outcome = match &mut self.source {
                Some(source) => source.next(&self.client).await,
                None => {
                    self.source = Some(self.open().await?);
                    continue;
                }
            };
            match outcome {
                Ok(Some(data)) => {
                    if let Some(step) = self.take(data)? {
                        return Ok(Some(step));
                    }
                }
                Ok(None) => self.end()?,
                // All came; only the server's word for it is missing.
                Err(Failure::Road(error) | Failure::Other(error))
                    if error.kind() == ErrorKind::Unavailable && self.is_complete() =>
                {
                    self.end()?;
                }
                Err(failure) => {
                    self.source = None;
                    self.failed(failure).await?;
                }
            }
        }
        Ok(self.last.take())
    }

    fn is_complete(&self) -> bool {
        self.next == self.range.end
    }

    /// Checks bytes that came; keeps back those that end the blob.
    fn take(&mut self, data: Bytes) -> Result<Option<Bytes>> {
        if data.len() as u64 > self.range.end - self.next {
            return Err(CasError::new(
                ErrorKind::Corrupt,
                "the server sent more bytes than were asked for",
            )
            .with_digest(self.digest));
        }
        self.next += data.len() as u64;
        self.counter().received(data.len());
        self.backoff.progressed();
        if let Some(hasher) = &mut self.hasher {
            // One HTTP/2 frame at most: some 100 µs.
            hasher.update(&data);
        }
        if !self.is_complete() {
            return Ok(Some(data));
        }
        self.last = Some(data);
        Ok(None)
    }

    /// Checks the whole.
    fn end(&mut self) -> Result<()> {
        self.over = true;
        if !self.is_complete() {
            return Err(CasError::new(
                ErrorKind::Corrupt,
                format!(
                    "the server sent {} of {} bytes",
                    self.next - self.range.start,
                    self.range.end - self.range.start
                ),
            )
            .with_digest(self.digest));
        }
        let hasher = self.hasher.as_ref();
        let right = hasher.is_none_or(|hasher| hasher.finish() == self.digest);
        self.counter().ended();
        tracing::trace!(range = ?self.range, "a download ended");
        if let (Some(Source::Rdma(pulling)), Some(road)) = (self.source.take(), &self.client.0.rdma)
        {
            pulling.end(road, right);
        }
        if right {
            return Ok(());
        }
        self.last = None;
        let error = wrong_bytes(self.digest);
        let strict = self.client.0.rdma.as_ref().is_some_and(Road::is_strict);
        if !self.pulled || strict {
            return Err(error);
        }
        // RDMA is held off, so another try takes the other road. What the caller has of
        // the blob can't be taken back here.
        self.client.0.roads.fell_back(&error);
        Err(error.with_retry_after(Duration::ZERO))
    }

    fn counter(&self) -> &Counter {
        let roads = &self.client.0.roads;
        match &self.source {
            Some(Source::Rdma(_)) => &roads.rdma,
            _ => &roads.grpc,
        }
    }

    /// Returns when there is another way, or it is time for another attempt.
    async fn failed(&mut self, failure: Failure) -> Result<()> {
        let strict = self.client.0.rdma.as_ref().is_some_and(Road::is_strict);
        match failure {
            Failure::Road(error) if !strict => {
                let at = self.next;
                tracing::debug!(digest = %self.digest, at, %error, "a download goes on by gRPC");
                self.client.0.roads.fell_back(&error);
                self.fell_back = true;
                Ok(())
            }
            Failure::Road(error) | Failure::Other(error) => self.backoff.pause(error).await,
        }
    }

    /// Asks for what is not here yet, over RDMA if there is enough of it.
    async fn open(&mut self) -> Result<Source> {
        let client = self.client.clone();
        while !self.fell_back
            && let Some(road) = client.rdma_for(self.range.end - self.next)
        {
            let range = self.next..self.range.end;
            // Small blobs, which don't come this way, would be moved with all of its state.
            match Box::pin(client.pull(road, &self.digest, range)).await {
                Ok(pulling) => {
                    self.pulled = true;
                    span::took(&self.span, true);
                    return Ok(Source::Rdma(pulling));
                }
                Err(failure) => self.failed(failure).await?,
            }
        }
        span::took(&self.span, false);
        Ok(Source::Grpc(Box::new(self.call().await?)))
    }

    /// Calls for what is not here yet.
    async fn call(&mut self) -> Result<Call> {
        let request = DownloadRequest {
            metadata: Some(BlobResource {
                digest: Some(self.digest.into()),
                range: Some(ProtoRange {
                    start: self.next,
                    length: Some(self.range.end - self.next),
                }),
            }),
        };
        let limit = self.client.options().call_timeout;
        let load = Load::of(self.range.end - self.next);
        let client = self.client.clone();
        client
            .on_lane_for(load, &mut self.backoff, |lane| {
                let body = call::one_message(&request);
                within(limit, async move {
                    let (http2, token) = (lane.http2(), lane.token());
                    Ok(Call {
                        reply: call::open(http2, call::DOWNLOAD, token, body?).await?,
                        lane,
                        decoder: DownloadDecoder::new(DecodeLimits::default()),
                        raw: Bytes::new(),
                    })
                })
            })
            .await
    }
}

impl Source {
    /// The next piece of the blob, `None` at the proper end.
    async fn next(&mut self, client: &Client) -> Result<Option<Bytes>, Failure> {
        let idle = client.options().idle_timeout;
        match (self, &client.0.rdma) {
            (Self::Rdma(pulling), Some(road)) => pulling.next(road, idle).await,
            // Nobody pulls without a road.
            (Self::Rdma(_), None) => Ok(None),
            (Self::Grpc(call), _) => call.next(idle).await.map_err(|error| {
                call.lane.seat().judge(&error);
                Failure::Other(error)
            }),
        }
    }
}

impl Call {
    /// The next piece of the blob, `None` at the proper end.
    async fn next(&mut self, idle: Duration) -> Result<Option<Bytes>> {
        loop {
            if let Some(piece) = self.decoder.next(&mut self.raw)? {
                return Ok(Some(piece));
            }
            match self.reply.next(idle).await? {
                Some(raw) => self.raw = raw,
                None => {
                    self.decoder.finish()?;
                    return Ok(None);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of what a call returns, which is moved several times.
    fn size_of_state<T, F>(_: impl Fn(T) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_small_blobs_state_has_no_room_for_what_is_rare() {
        type Asked = (&'static Client, &'static Digest);
        let size = size_of_state(|(client, digest): Asked| client.download_whole(digest));
        assert!(size < 12 << 10, "{size} bytes");
        type Given = (&'static Client, &'static [(Digest, Bytes)]);
        let size = size_of_state(|(client, blobs): Given| client.put_small(blobs));
        assert!(size < 4 << 10, "{size} bytes");
    }
}
