//! Opening one HTTP/2 connection.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, Uri, header};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::StdError;
use tower_service::Service;
use tracing::Instrument;

use super::answer::Answer;
use super::outgoing::Outgoing;
use super::url::{Place, ServerUrl};
use super::{ClientOptions, span, status};
use crate::cas::{CasError, ErrorKind, Result};
use crate::observe::trace;
use crate::transport::socket::Socket;
use crate::transport::stream::Stream;

/// One HTTP/2 connection, as a service for generated clients and for calls made
/// by hand. It never reconnects: a session lives and dies with its connection.
#[derive(Clone, Debug)]
pub(super) struct Http2 {
    sender: http2::SendRequest<Outgoing>,
    peer: Option<SocketAddr>,
    authority: http::uri::Authority,
}

/// How full a stream's buffer may be when it takes more, in bytes: empty. So
/// memory is bounded by a message or two a stream, and an interrupted upload can
/// tell when all that it was given is on its way.
const SEND_BUFFER: usize = 1;

const USER_AGENT: &str = concat!("zako/", env!("CARGO_PKG_VERSION"));

impl Http2 {
    /// Connects to `url`.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if nobody answers there, [`ErrorKind::Timeout`]
    /// if it takes too long, [`ErrorKind::InvalidArgument`] if the address can't be.
    pub(super) async fn connect(url: &ServerUrl, options: &ClientOptions) -> Result<Self> {
        match timeout(options.connect_timeout, Self::dial(url, options)).await {
            Ok(done) => done,
            Err(_) => Err(CasError::new(
                ErrorKind::Unavailable,
                format!(
                    "no connection to {url} within {:?}",
                    options.connect_timeout
                ),
            )),
        }
    }

    /// Whether the connection has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// The address at the other end, if it has one.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    async fn dial(url: &ServerUrl, options: &ClientOptions) -> Result<Self> {
        let failed = |error: io::Error| unreachable(url, error);
        match url.place() {
            Place::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port))
                    .await
                    .map_err(failed)?;
                // Without it an upload waits for the peer's delayed acknowledgements.
                stream.set_nodelay(true).map_err(failed)?;
                let peer = stream.peer_addr().map_err(failed)?;
                Self::handshake(url, Stream::Tcp(stream), Some(peer), options).await
            }
            #[cfg(unix)]
            Place::Unix(path) => {
                let stream = tokio::net::UnixStream::connect(path)
                    .await
                    .map_err(failed)?;
                Self::handshake(url, Stream::Unix(stream), None, options).await
            }
            #[cfg(not(unix))]
            Place::Unix(_) => Err(CasError::new(
                ErrorKind::Unsupported,
                format!("{url}: this system has no Unix sockets"),
            )),
        }
    }

    async fn handshake(
        url: &ServerUrl,
        stream: Stream,
        peer: Option<SocketAddr>,
        options: &ClientOptions,
    ) -> Result<Self> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window)
            .max_frame_size(options.frame_bytes)
            .keep_alive_interval(options.keepalive)
            .keep_alive_timeout(options.keepalive)
            .max_send_buf_size(SEND_BUFFER)
            .handshake(TokioIo::new(Socket::new(stream)))
            .await
            .map_err(|error| status::broken(&error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                // Its calls tell the error to those who wait for them.
                tracing::debug!(%error, "a connection ended");
            }
        });
        let authority = match url.place() {
            Place::Tcp { .. } => url.to_string()["http://".len()..].parse().ok(),
            Place::Unix(_) => None,
        };
        Ok(Self {
            sender,
            peer,
            authority: authority.unwrap_or_else(|| http::uri::Authority::from_static("localhost")),
        })
    }

    /// Makes a call; the connection must be ready.
    pub(super) fn send(&mut self, mut request: Request<Outgoing>) -> BoxFuture<'static, Outcome> {
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(http::uri::Scheme::HTTP);
        uri.authority = Some(self.authority.clone());
        match Uri::from_parts(uri) {
            Ok(uri) => *request.uri_mut() = uri,
            Err(error) => return futures::future::err(error.into()).boxed(),
        }
        request
            .headers_mut()
            .insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        let trace = span::call(request.uri().path(), self.authority.as_str(), self.peer);
        span::inject(&trace, request.headers_mut());
        let sent = self.sender.send_request(request);
        let of = trace.clone();
        let answered = sent.map(move |outcome| match outcome {
            Ok(answer) => Ok(Answer::of(answer, of)),
            Err(error) => {
                trace::failed(&of, "UNAVAILABLE");
                Err(error.into())
            }
        });
        match trace.is_disabled() {
            true => answered.boxed(),
            false => answered.instrument(trace).boxed(),
        }
    }
}

type Outcome = std::result::Result<Response<Answer>, StdError>;

impl Service<Request<Body>> for Http2 {
    type Response = Response<Answer>;
    type Error = StdError;
    type Future = BoxFuture<'static, Outcome>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), StdError>> {
        self.sender.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.send(request.map(Outgoing::Generated))
    }
}

fn unreachable(url: &ServerUrl, error: io::Error) -> CasError {
    let kind = match error.kind() {
        io::ErrorKind::InvalidInput => ErrorKind::InvalidArgument,
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Unavailable,
    };
    CasError::new(kind, format!("no server can be reached at {url}")).with_source(error)
}
