//! Services of other protocols on the server's connections.
//!
//! A [`Face`] has the bounds of the server's own services without doing anything for
//! them: its calls end when nothing comes or their answer stays unread, at their
//! deadlines, and with the server; what it reads is not copied out of what was
//! received, and blobs go from file to socket.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use futures::future::BoxFuture;
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tracing::Instrument;

use super::answer::Inner;
use super::batch::BatchBody;
use super::body::RequestBody;
use super::connection::Shared;
use super::download::DownloadBody;
use super::gated;
use super::idle_body::IdleBody;
use super::memory::Share;
use super::meter::Metered;
use super::sendfile::Road;
use super::status::bad_frame;
use super::stream_body;
use super::transport::{grpc_response, not_grpc, unary_response, uncompressed};
use crate::access::Allowance;
use crate::cas::Blob;
use crate::negotiate::{Caller, Peer};
use crate::observe::{Interface, Lookup, trace};
use crate::transport::grpc::frame::{self, PayloadField};
use crate::transport::grpc::{BatchWriter, DecodeLimits, Pieces};

/// Services beside those of `zako.v1`. Their calls need no token.
pub trait Face: fmt::Debug + Send + Sync + 'static {
    /// The full names of its services, like `google.bytestream.ByteStream`.
    fn services(&self) -> &'static [&'static str];

    /// The encoded file descriptor set of its services, for reflection.
    fn descriptors(&self) -> &'static [u8];

    /// What a call of this method looks for, if that is one thing: `blob`, `action`. An
    /// answer counts as a hit, NOT_FOUND as a miss.
    fn looks_for(&self, path: &str) -> Option<&'static str> {
        let _ = path;
        None
    }

    /// Answers a call of one of its services. Dropped when the caller goes away or its
    /// deadline passes.
    fn answer(self: Arc<Self>, call: Call) -> BoxFuture<'static, Reply>;
}

/// A call whose message is not read yet.
pub struct Call {
    head: Parts,
    body: Metered,
    deadline: Option<tokio::time::Instant>,
    road: Arc<Road>,
    shared: Arc<Shared>,
}

/// A call's answer.
pub struct Reply(pub(super) Response<Inner>);

/// The messages of a call as they arrive.
pub struct CallBody(RequestBody);

/// The way to answer a call whose messages are read past generated code.
#[derive(Clone)]
pub struct Answering {
    road: Arc<Road>,
    shared: Arc<Shared>,
}

pub use super::body::Broken;

impl Call {
    pub(super) fn new(
        request: Request<Metered>,
        deadline: Option<tokio::time::Instant>,
        road: Arc<Road>,
        shared: Arc<Shared>,
    ) -> Self {
        let (head, body) = request.into_parts();
        Self {
            head,
            body,
            deadline,
            road,
            shared,
        }
    }

    /// `/package.Service/Method`.
    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// What came with the call.
    pub fn metadata(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The connection that it came on.
    ///
    /// # Errors
    /// INTERNAL if the call came on no connection.
    pub fn peer(&self) -> Result<&Arc<Peer>, Status> {
        gated::peer(&self.head.extensions)
    }

    /// Who calls, and whether it may.
    pub fn caller(&self) -> Caller {
        gated::caller(&self.head.extensions)
    }

    /// The call for generated code.
    pub fn into_request(self) -> Request<Body> {
        let idle = self.shared.options.upload_idle_timeout;
        let longest = self.shared.options.max_request_bytes;
        let held = self.shared.memory.share();
        let body = IdleBody::new(self.body, idle, false, longest, held);
        Request::from_parts(self.head, Body::new(body))
    }

    /// The call to be read and answered past generated code.
    ///
    /// # Errors
    /// The answer to what is no gRPC call, or one whose messages are compressed.
    pub fn open(self) -> Result<(CallBody, Answering), Box<Reply>> {
        if let Some(refusal) = not_grpc(&self.head) {
            return Err(Box::new(Reply(refusal.map(Inner::Body))));
        }
        uncompressed(&self.head.headers).map_err(|status| Box::new(Reply::status(status)))?;
        let body = self
            .shared
            .request_body(Body::new(self.body), self.deadline);
        let answering = Answering {
            road: self.road,
            shared: self.shared,
        };
        Ok((CallBody(body), answering))
    }
}

impl CallBody {
    /// The next bytes of the stream of messages, as they came; `None` at its end.
    ///
    /// # Errors
    /// Why no more comes before the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        self.0.next().await
    }

    /// Says that something came which keeps the call alive.
    pub fn progressed(&mut self) {
        self.0.progressed();
    }

    /// Counts so many bytes as held by the call, until this is dropped.
    ///
    /// # Errors
    /// As [`Share::grow`].
    pub fn hold(&mut self, bytes: u64) -> Result<(), Status> {
        self.0.hold(bytes)
    }

    /// The one message of a unary call, of at most `limit` bytes, not decoded. It is counted
    /// as held by the call, until this is dropped.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if it is longer; UNAVAILABLE if calls hold too much; why nothing more
    /// comes.
    pub async fn pieces(&mut self, limit: usize) -> Result<Pieces, Status> {
        self.0.pieces(limit.saturating_add(frame::HEAD_LEN)).await
    }

    /// The one message of a unary call, of at most `limit` bytes. Its `bytes` fields
    /// share what was received.
    ///
    /// # Errors
    /// As [`pieces`](Self::pieces); INVALID_ARGUMENT if it is not that message.
    pub async fn message<M: Message + Default>(&mut self, limit: usize) -> Result<M, Status> {
        self.pieces(limit).await?.unary().map_err(bad_frame)
    }
}

impl Answering {
    /// What the server allows in a stream of messages.
    pub fn decode_limits(&self) -> DecodeLimits {
        self.shared.decode_limits()
    }

    /// What the call holds besides its messages, of the memory of all calls.
    pub fn share(&self) -> Share {
        self.shared.memory.share()
    }

    /// Tells that so many blobs were looked for, `misses` of them in vain.
    pub fn looked_up(&self, hits: u64, misses: u64) {
        let lookup = Lookup::new(Interface::RemoteExecution, "blob", hits, misses);
        self.shared.looked_up(&lookup);
    }

    /// Runs an upload to its end even when its caller goes away: the server waits for
    /// it when it shuts down.
    ///
    /// # Errors
    /// INTERNAL if it panicked.
    pub async fn upload<T: Send + 'static>(
        &self,
        upload: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Status> {
        let upload = Allowance::inherited(upload.instrument(trace::current()));
        let task = self.shared.uploads.spawn(upload);
        task.await
            .map_err(|_| Status::internal("the upload broke off"))
    }

    /// Answers with a blob: a stream of messages whose one field is a part of it.
    pub fn blob(self, blob: Blob, field: PayloadField) -> Reply {
        let body = DownloadBody::new(blob, self.road, None, field, self.shared);
        Reply(grpc_response(Inner::Download(Box::new(body))))
    }

    /// Answers with one message of many blobs.
    pub fn batch(self, batch: BatchWriter) -> Reply {
        let body = Body::new(BatchBody::of_blobs(batch, None));
        Reply(grpc_response(Inner::Body(body)))
    }

    /// Answers with a stream of messages whose one field is what `payloads` yields, cut
    /// where it is longer than a message.
    pub fn payloads(
        self,
        payloads: impl Stream<Item = Result<Bytes, Status>> + Send + 'static,
        field: PayloadField,
    ) -> Reply {
        let most = self.shared.options.download_message_bytes;
        let body = stream_body::framed(payloads, field, most);
        Reply(grpc_response(Inner::Body(body)))
    }
}

impl Reply {
    /// Answers with one message.
    pub fn message(message: &impl Message) -> Self {
        match frame::message(message) {
            Ok(message) => Self(unary_response(message)),
            Err(error) => Self::status(bad_frame(error)),
        }
    }

    /// Answers with one message that is encoded already.
    pub fn encoded(message: &[u8]) -> Self {
        match frame::encoded(message) {
            Ok(message) => Self(unary_response(message)),
            Err(error) => Self::status(bad_frame(error)),
        }
    }

    /// Answers with a stream of messages that are encoded already.
    pub fn messages(messages: impl Stream<Item = Result<Bytes, Status>> + Send + 'static) -> Self {
        Self(grpc_response(Inner::Body(stream_body::messages(messages))))
    }

    /// Answers with one message that has its head before it already.
    pub fn framed(message: Bytes) -> Self {
        Self(unary_response(message))
    }

    /// Answers with an error.
    pub fn status(status: Status) -> Self {
        Self(status.into_http().map(Inner::Body))
    }
}

impl From<Response<Body>> for Reply {
    /// The answer of generated code.
    fn from(response: Response<Body>) -> Self {
        Self(response.map(Inner::Body))
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reply").field(&self.0.status()).finish()
    }
}

impl fmt::Debug for CallBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallBody").finish_non_exhaustive()
    }
}

impl fmt::Debug for Answering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answering").finish_non_exhaustive()
    }
}
