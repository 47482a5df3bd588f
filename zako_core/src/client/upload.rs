//! Sending a blob as a stream.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body::{Body, Frame};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Status;
use zako_protobuf::range::BlobRange as ProtoRange;
use zako_protobuf::transport::{BlobResource, UploadRequest, UploadResponse, upload_request};

use super::{Client, call, within};
use crate::Digest;
use crate::cas::{BlobWriter, Cas, CasError, ErrorKind, Lease, Result, Stored};
use crate::transport::grpc::frame::{self, Framer, PayloadField};

/// Messages between a writer and its connection.
const QUEUE: usize = 4;

/// An upload under way.
pub(super) struct Upload {
    client: Client,
    digest: Digest,
    held: u64,
    /// Gone once there is nothing more to send.
    steps: Option<mpsc::Sender<Step>>,
    answer: BoxFuture<'static, Result<u64>>,
    state: State,
}

#[derive(Debug)]
enum State {
    Sending,
    /// The server has the blob already: what comes is not sent.
    Existing,
    Failed(CasError),
}

/// What a writer gives to the body of its call.
#[derive(Debug)]
enum Step {
    Chunk(Bytes),
    /// Without it the end of the queue is an interruption.
    End,
}

/// The body of an upload's call: metadata, then chunks that are not copied.
struct Chunks {
    frames: VecDeque<Bytes>,
    framer: Framer,
    steps: mpsc::Receiver<Step>,
    ended: bool,
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

    /// Begins an upload at `offset`.
    pub(super) async fn begin_upload(
        &self,
        digest: &Digest,
        offset: u64,
    ) -> Result<Box<dyn BlobWriter>> {
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
        let (steps, answer) = self.send_from(digest, offset).await?;
        Ok(Box::new(Upload {
            client: self.clone(),
            digest: *digest,
            held: offset,
            steps: Some(steps),
            answer,
            state: State::Sending,
        }))
    }

    /// Metadata and no chunk.
    async fn probe(&self, digest: &Digest) -> Result<u64> {
        if digest.size() == 0 {
            return Ok(0);
        }
        let limit = self.options().call_timeout;
        let request = metadata(digest, 0);
        let answer: UploadResponse = self
            .on_lane(&mut self.backoff(), |lane| {
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

    async fn send_from(
        &self,
        digest: &Digest,
        offset: u64,
    ) -> Result<(mpsc::Sender<Step>, BoxFuture<'static, Result<u64>>)> {
        let lane = self.0.pool.lane().await?;
        let (steps, receiver) = mpsc::channel(QUEUE);
        let body = tonic::body::Body::new(Chunks {
            frames: VecDeque::from([frame::message(&metadata(digest, offset))?]),
            framer: Framer::new(PayloadField::Chunk, self.options().message_bytes),
            steps: receiver,
            ended: false,
        });
        let idle = self.options().idle_timeout;
        let seat = lane.seat();
        let answer = async move {
            let reply = call::open(lane.http2(), call::UPLOAD, lane.token(), body).await?;
            let answer: UploadResponse = reply.message(idle).await?;
            Ok(answer.committed_size)
        };
        let answer = answer.map(move |outcome| {
            outcome.map_err(|error| {
                seat.judge(&error);
                match error.kind() {
                    // With a new session it goes on.
                    ErrorKind::Unauthenticated => {
                        CasError::new(ErrorKind::Unavailable, error.message())
                    }
                    _ => error,
                }
            })
        });
        Ok((steps, answer.boxed()))
    }
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
    fn error(&self, kind: ErrorKind, message: impl Into<String>) -> CasError {
        CasError::new(kind, message).with_digest(self.digest)
    }

    fn fail(&mut self, error: CasError) -> CasError {
        self.steps = None;
        self.state = State::Failed(error.clone());
        error
    }

    /// Hands one step over, unless the server answers before.
    async fn send(&mut self, step: Step) -> Result<()> {
        let idle = self.client.options().idle_timeout;
        let Some(steps) = &self.steps else {
            return Ok(());
        };
        let early = tokio::select! {
            biased;
            answer = &mut self.answer => Some(answer),
            room = timeout(idle, steps.reserve()) => match room {
                Ok(Ok(room)) => {
                    room.send(step);
                    return Ok(());
                }
                // The connection dropped the body: its answer says why.
                Ok(Err(_)) => None,
                Err(_) => {
                    let text = format!("the server took nothing for {idle:?}");
                    return Err(self.fail(self.error(ErrorKind::Timeout, text)));
                }
            },
        };
        let answer = match early {
            Some(answer) => answer,
            None => self.wait().await,
        };
        self.steps = None;
        self.settle(answer)
    }

    /// Waits for the answer.
    async fn wait(&mut self) -> Result<u64> {
        let idle = self.client.options().idle_timeout;
        match timeout(idle, &mut self.answer).await {
            Ok(answer) => answer,
            Err(_) => Err(self.error(
                ErrorKind::Timeout,
                format!("the server did not answer an upload within {idle:?}"),
            )),
        }
    }

    /// What an answer means that came before all was sent.
    fn settle(&mut self, answer: Result<u64>) -> Result<()> {
        match answer {
            Err(error) if error.is_already_exists() => {
                self.state = State::Existing;
                Ok(())
            }
            Ok(size) if size == self.digest.size() => {
                self.state = State::Existing;
                Ok(())
            }
            Ok(_) => Err(self.fail(self.error(
                ErrorKind::Internal,
                "the server ended an upload before it had all of it",
            ))),
            Err(error) => Err(self.fail(error.with_digest(self.digest))),
        }
    }

    /// Ends the call without a proper end, so that the server keeps what came.
    async fn interrupt(&mut self) {
        if self.steps.take().is_some() && matches!(self.state, State::Sending) {
            // What is queued goes out, then the stream is reset.
            let _ = self.wait().await;
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
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<Stored> {
        if let State::Failed(error) = &self.state {
            return Err(error.clone());
        }
        if self.digest.size() == 0 {
            self.interrupt().await;
            return self.client.put(&self.digest, Bytes::new()).await;
        }
        let whole = self.held == self.digest.size();
        if matches!(self.state, State::Sending) {
            // Too few bytes with a proper end: the server drops them.
            self.send(Step::End).await?;
        }
        if matches!(self.state, State::Existing) {
            return Ok(Stored::Existing);
        }
        self.steps = None;
        let answer = self.wait().await;
        if !whole && answer.is_ok() {
            return Err(self.error(
                ErrorKind::Mismatch,
                format!("{} of {} bytes were given", self.held, self.digest.size()),
            ));
        }
        match answer {
            Ok(size) if size == self.digest.size() => Ok(Stored::New),
            Ok(size) => Err(self.error(
                ErrorKind::Internal,
                format!("the server committed {size} of {} bytes", self.digest.size()),
            )),
            Err(error) if error.is_already_exists() => Ok(Stored::Existing),
            Err(error) => Err(error.with_digest(self.digest)),
        }
    }

    async fn park(mut self: Box<Self>) -> Result<u64> {
        self.interrupt().await;
        self.client.ask_held(&self.digest).await
    }

    async fn discard(mut self: Box<Self>) -> Result<()> {
        if matches!(self.state, State::Sending) {
            // An early proper end is a refused upload, of which nothing is kept.
            self.send(Step::End).await?;
            self.steps = None;
            let _ = self.wait().await;
        }
        Ok(())
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            if let Some(frame) = this.frames.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(frame))));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            match ready!(this.steps.poll_recv(cx)) {
                Some(Step::Chunk(mut chunk)) => {
                    while let Some(frame) = this.framer.next_frame(&mut chunk) {
                        this.frames.extend([frame.prefix, frame.payload]);
                    }
                }
                Some(Step::End) => this.ended = true,
                None => {
                    this.ended = true;
                    let error = Status::cancelled("the upload was interrupted");
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.frames.is_empty()
    }
}
