//! Sending a blob as a stream.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;
use zako_protobuf::range::BlobRange as ProtoRange;
use zako_protobuf::transport::{BlobResource, UploadRequest, UploadResponse, upload_request};

use super::outgoing::{Chunks, Outgoing, Step};
use super::rdma::Failure;
use super::session::{Load, Seat};
use super::{Client, call, on_the_way, span, within};
use crate::Digest;
use crate::cas::{BlobWriter, Cas, CasError, ErrorKind, Lease, Result, Stored};
use crate::transport::grpc::frame;

/// Messages between a writer and its connection.
const QUEUE: usize = 4;

/// A disk that is slower makes a commit fail, in bytes a second.
const SLOW_DISK: u64 = 10 << 20;

/// How long a server is given to put an interrupted upload aside; one whose store
/// keeps nothing of it can't be told from one that is slow.
const PARKING: Duration = Duration::from_secs(1);
/// The first pause between questions whether it has; each is twice the last.
const PARKING_STEP: Duration = Duration::from_millis(5);

/// An upload under way.
pub(super) struct Upload {
    client: Client,
    digest: Digest,
    held: u64,
    /// Gone once there is nothing more to send.
    steps: Option<mpsc::Sender<Step>>,
    /// Gone once it came.
    answer: Option<Answer>,
    seat: Option<Seat>,
    state: State,
}

/// An upload that was begun.
pub(super) struct Begun {
    pub(super) writer: Box<dyn BlobWriter>,
    pub(super) by_rdma: bool,
}

/// What the server says in the end: the bytes committed.
type Answer = BoxFuture<'static, Result<u64>>;

#[derive(Debug)]
enum State {
    Sending,
    /// The server has the blob already: what comes is not sent.
    Existing,
    Failed(CasError),
}

impl Client {
    /// How many bytes of a blob the server holds of an interrupted upload; its
    /// size if it is present.
    pub(super) async fn ask_held(&self, digest: &Digest) -> Result<u64> {
        match self.probe(digest).await {
            Err(error) if error.is_already_exists() => Ok(digest.size()),
            other => other,
        }
    }

    /// Begins an upload at `offset`, in a span of its own.
    pub(super) async fn begin_upload(
        &self,
        digest: &Digest,
        offset: u64,
    ) -> Result<Box<dyn BlobWriter>> {
        let span = span::upload(digest);
        let begun = self.begin(digest, offset).instrument(span.clone()).await?;
        span::took(&span, begun.by_rdma);
        Ok(span::writer(span, begun.writer))
    }

    /// Begins an upload at `offset`, whatever the server holds or has.
    pub(super) async fn begin(&self, digest: &Digest, offset: u64) -> Result<Begun> {
        let held = match digest.size() {
            // Metadata alone would store it.
            0 if self.missing(&[*digest], Lease::None).await?.is_empty() => {
                return Err(CasError::already_exists(*digest));
            }
            0 => 0,
            _ => match self.probe(digest).await {
                Err(error) if error.is_already_exists() => {
                    return Err(CasError::already_exists(*digest));
                }
                other => other?,
            },
        };
        if offset > held {
            return Err(CasError::not_held(*digest, offset, held));
        }
        self.resume_upload(digest, offset, true).await
    }

    /// Begins an upload at `offset`, of which the server is known to hold as much; over
    /// RDMA if it may be and there is enough to send. If the blob is there meanwhile, that
    /// is the error, or the writer finds out.
    pub(super) async fn resume_upload(
        &self,
        digest: &Digest,
        offset: u64,
        rdma: bool,
    ) -> Result<Begun> {
        let rest = digest.size().saturating_sub(offset);
        if let Some(road) = self.rdma_for(rest).filter(|_| rdma) {
            // As with a download's.
            match Box::pin(self.expose(road, digest, offset)).await {
                Ok(writer) => {
                    let by_rdma = true;
                    return Ok(Begun { writer, by_rdma });
                }
                Err(Failure::Road(error)) if !road.is_strict() => {
                    tracing::debug!(%digest, %error, "an upload goes by gRPC");
                    self.0.roads.fell_back(&error);
                }
                Err(Failure::Road(error) | Failure::Other(error)) => return Err(error),
            }
        }
        let mut upload = Upload::new(self, digest, offset);
        if digest.size() > 0 {
            self.send_from(&mut upload).await?;
        }
        Ok(Begun {
            writer: Box::new(upload),
            by_rdma: false,
        })
    }

    /// How many bytes the server holds of an upload that was interrupted a moment ago; it
    /// is given some time to put `expected` ones aside.
    pub(super) async fn parked(&self, digest: &Digest, expected: u64) -> Result<u64> {
        let late = Instant::now() + PARKING;
        let mut pause = PARKING_STEP;
        loop {
            let held = self.ask_held(digest).await?;
            if held >= expected || Instant::now() >= late {
                return Ok(held);
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    /// Metadata and no chunk.
    async fn probe(&self, digest: &Digest) -> Result<u64> {
        if digest.size() == 0 {
            return Ok(0);
        }
        let limit = self.options().call_timeout;
        let request = metadata(digest, 0);
        let mut backoff = self.backoff();
        let answer: UploadResponse = self
            .on_lane(&mut backoff, |lane| {
                let body = call::one_message(&request);
                within(limit, async move {
                    let (http2, token) = (lane.http2(), lane.token());
                    let reply = call::open(http2, call::UPLOAD, token, body?).await?;
                    reply.message(limit).await
                })
            })
            .await?;
        if answer.committed_size > digest.size() {
            return Err(CasError::new(
                ErrorKind::Internal,
                "the server claims to hold more bytes than the blob has",
            )
            .with_digest(*digest));
        }
        Ok(answer.committed_size)
    }

    /// Begins a call that sends what the writer gets.
    async fn send_from(&self, upload: &mut Upload) -> Result<()> {
        let load = Load::of(upload.digest.size().saturating_sub(upload.held));
        let lane = self.0.pool.lane(load).await?;
        let (steps, receiver) = mpsc::channel(QUEUE);
        let metadata = frame::message(&metadata(&upload.digest, upload.held))?;
        let body = Chunks::new(metadata, self.options().message_bytes, receiver);
        let idle = self.options().idle_timeout;
        upload.seat = Some(lane.seat());
        upload.steps = Some(steps);
        let answer = async move {
            let (http2, token) = (lane.http2(), lane.token());
            let reply = call::open(http2, call::UPLOAD, token, Outgoing::Chunks(body)).await?;
            let answer: UploadResponse = reply.message(idle).await?;
            Ok(answer.committed_size)
        };
        upload.answer = Some(answer.boxed());
        Ok(())
    }

    /// Makes the server drop what it holds of an interrupted upload: it does so
    /// when one that goes on from there ends too early.
    pub(super) async fn drop_held(&self, digest: &Digest) -> Result<()> {
        let held = match self.probe(digest).await {
            Err(error) if error.is_already_exists() => return Ok(()),
            other => other?,
        };
        if held == 0 {
            return Ok(());
        }
        let mut upload = Upload::new(self, digest, held.min(digest.size() - 1));
        self.send_from(&mut upload).await?;
        upload.send(Step::End).await?;
        match upload.wait().await {
            Err(error) if error.kind() != ErrorKind::Mismatch => Err(upload.judge(error)),
            _ => Ok(()),
        }
    }
}

/// What so many bytes may take on their way to a disk that is busy.
pub(super) fn disk_time(bytes: u64) -> Duration {
    Duration::from_secs(bytes / SLOW_DISK)
}

fn metadata(digest: &Digest, start: u64) -> UploadRequest {
    UploadRequest {
        payload: Some(upload_request::Payload::Metadata(BlobResource {
            digest: Some((*digest).into()),
            range: Some(ProtoRange {
                start,
                length: None,
            }),
        })),
    }
}

impl Upload {
    fn new(client: &Client, digest: &Digest, offset: u64) -> Self {
        Self {
            client: client.clone(),
            digest: *digest,
            held: offset,
            seat: None,
            steps: None,
            answer: None,
            state: State::Sending,
        }
    }

    fn error(&self, kind: ErrorKind, message: impl Into<String>) -> CasError {
        CasError::new(kind, message).with_digest(self.digest)
    }

    fn fail(&mut self, error: CasError) -> CasError {
        self.state = State::Failed(error.clone());
        error
    }

    /// Hands one step over, unless the server answers before.
    async fn send(&mut self, step: Step) -> Result<()> {
        let idle = self.client.options().idle_timeout;
        let (Some(steps), Some(answer)) = (&self.steps, &mut self.answer) else {
            return Ok(());
        };
        let early = tokio::select! {
            biased;
            answer = answer => {
                self.answer = None;
                Some(answer)
            }
            room = timeout(idle, steps.reserve()) => match room {
                Ok(Ok(room)) => {
                    room.send(step);
                    return Ok(());
                }
                // The connection dropped the body: its answer says why.
                Ok(Err(_)) => None,
                Err(_) => Some(Err(CasError::new(
                    ErrorKind::Timeout,
                    format!("the server took nothing for {idle:?}"),
                ))),
            },
        };
        let answer = match early {
            Some(answer) => answer,
            None => self.wait().await,
        };
        self.steps = None;
        match answer {
            Ok(size) if size == self.digest.size() => {
                self.state = State::Existing;
                Ok(())
            }
            Err(error) if error.is_already_exists() => {
                self.state = State::Existing;
                Ok(())
            }
            Ok(_) => Err(self.fail(self.error(
                ErrorKind::Internal,
                "the server ended an upload before it had all of it",
            ))),
            Err(error) => {
                let error = self.judge(error);
                Err(self.fail(error))
            }
        }
    }

    /// Waits for the answer.
    async fn wait(&mut self) -> Result<u64> {
        // The server may have to bring all of it to a disk that is busy.
        let disk = disk_time(self.held);
        // What the line has not taken yet is in the queue or in one of its messages.
        let queued = (QUEUE as u64 + 1) * self.client.options().message_bytes as u64;
        let idle = self.client.options().idle_timeout + disk + on_the_way(queued.min(self.held));
        let Some(answer) = self.answer.take() else {
            return Err(self.error(ErrorKind::Internal, "the upload has ended"));
        };
        match timeout(idle, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(self.error(
                ErrorKind::Timeout,
                format!("the server did not answer an upload within {idle:?}"),
            )),
        }
    }

    /// Draws the consequences of the call's error.
    fn judge(&self, error: CasError) -> CasError {
        if let Some(seat) = &self.seat {
            seat.judge(&error);
        }
        match error.kind() {
            // It goes on in a new session.
            ErrorKind::Unauthenticated => self.error(ErrorKind::Unavailable, error.message()),
            _ => error.with_digest(self.digest),
        }
    }

    /// Ends the call without a proper end, so that the server keeps what came:
    /// what is queued goes out, then the stream is reset.
    fn interrupt(&mut self) -> Option<Answer> {
        self.steps = None;
        self.answer.take()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let idle = self.client.options().idle_timeout;
        if let Some(answer) = self.interrupt()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // Dropped with its answer, the stream would be reset at once.
            runtime.spawn(timeout(idle, answer));
        }
    }
}

#[async_trait]
impl BlobWriter for Upload {
    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn held(&self) -> u64 {
        self.held
    }

    async fn write(&mut self, mut data: Bytes) -> Result<()> {
        if let State::Failed(error) = &self.state {
            return Err(error.clone());
        }
        if data.len() as u64 > self.digest.size() - self.held {
            let error = self.error(
                ErrorKind::Mismatch,
                "more bytes were given than the blob has",
            );
            return Err(self.fail(error));
        }
        let longest = self.client.options().message_bytes;
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(longest));
            let length = chunk.len() as u64;
            self.send(Step::Chunk(chunk)).await?;
            self.held += length;
            if matches!(self.state, State::Sending) {
                self.client.0.roads.grpc.sent(length as usize);
            }
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<Stored> {
        if self.digest.size() == 0 && matches!(self.state, State::Sending) {
            // Of the empty blob there is nothing to send in a stream.
            return self.client.put(&self.digest, Bytes::new()).await;
        }
        let given = self.held;
        let size = self.digest.size();
        let too_few = (given < size).then(|| {
            let text = format!("{given} of {size} bytes were given");
            self.error(ErrorKind::Mismatch, text)
        });
        if matches!(self.state, State::Sending) {
            // With too few bytes too: after a proper end the server drops them.
            self.send(Step::End).await?;
        }
        match (&self.state, too_few) {
            (State::Failed(error), _) => return Err(error.clone()),
            (_, Some(too_few)) => {
                let _ = self.wait().await;
                return Err(too_few);
            }
            (State::Existing, None) => return Ok(Stored::Existing),
            (State::Sending, None) => {}
        }
        match self.wait().await {
            Ok(committed) if committed == size => {
                self.client.0.roads.grpc.ended();
                Ok(Stored::New)
            }
            Ok(committed) => Err(self.error(
                ErrorKind::Internal,
                format!("the server committed {committed} of {size} bytes"),
            )),
            Err(error) if error.is_already_exists() => Ok(Stored::Existing),
            Err(error) => Err(self.judge(error)),
        }
    }

    async fn park(mut self: Box<Self>) -> Result<u64> {
        let idle = self.client.options().idle_timeout;
        let Some(answer) = self.interrupt() else {
            return self.client.ask_held(&self.digest).await;
        };
        let _ = timeout(idle, answer).await;
        // The server puts it aside after the call has ended here.
        self.client.parked(&self.digest, self.held).await
    }

    async fn discard(mut self: Box<Self>) -> Result<()> {
        if matches!(self.state, State::Existing) || self.digest.size() == 0 {
            return Ok(());
        }
        if self.steps.is_some() {
            // The server drops an upload that is too long, or ends too early.
            if self.held == self.digest.size() {
                let _ = self.send(Step::Chunk(Bytes::from_static(&[0]))).await;
            }
            let _ = self.send(Step::End).await;
            if self.answer.is_some()
                && let Err(error) = self.wait().await
                && error.kind() == ErrorKind::Mismatch
            {
                return Ok(());
            }
        }
        // What may be left of the call must not keep the only stream.
        drop(self.interrupt());
        self.client.drop_held(&self.digest).await
    }
}
