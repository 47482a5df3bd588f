//! Opening one HTTP/2 connection.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use http::uri::{Authority, Scheme};
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
use super::credentials::{CallCredentials, check_plaintext};
use super::line::{Fate, Line};
use super::outgoing::Outgoing;
use super::url::{Place, ServerUrl};
use super::{ClientOptions, span, status};
use crate::cas::{CasError, ErrorKind, Result};
use crate::observe::trace;
use crate::tls::TlsConnector;
use crate::transport::stream::Stream;

/// One HTTP/2 connection, as a service for generated clients and for calls made
/// by hand. It never reconnects: a session lives and dies with its connection.
#[derive(Clone, Debug)]
pub(super) struct Http2 {
    sender: http2::SendRequest<Outgoing>,
    peer: Option<SocketAddr>,
    scheme: Scheme,
    authority: Authority,
    credentials: CallCredentials,
    fate: Fate,
    tls: Option<TlsConnector>,
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
    /// [`ErrorKind::Untrusted`] if the server isn't whom it should be, or this client
    /// not to the server.
    pub(super) async fn connect(
        url: &ServerUrl,
        options: &ClientOptions,
        tls: Option<&TlsConnector>,
    ) -> Result<Self> {
        match timeout(options.connect_timeout, Self::dial(url, options, tls)).await {
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

    /// Connects to another address of the same server.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect).
    pub(super) async fn elsewhere(
        &self,
        address: SocketAddr,
        options: &ClientOptions,
    ) -> Result<Self> {
        let url = ServerUrl::from(address).with_tls(self.tls.is_some());
        Self::connect(&url, options, self.tls.as_ref()).await
    }

    /// Whether the connection has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// The address at the other end, if it has one.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    async fn dial(
        url: &ServerUrl,
        options: &ClientOptions,
        tls: Option<&TlsConnector>,
    ) -> Result<Self> {
        let failed = |error: io::Error| unreachable(url, error);
        match url.place() {
            Place::Tcp { host, port, .. } => {
                let stream = TcpStream::connect((host.as_str(), *port))
                    .await
                    .map_err(failed)?;
                // Without it an upload waits for the peer's delayed acknowledgements.
                stream.set_nodelay(true).map_err(failed)?;
                let peer = stream.peer_addr().map_err(failed)?;
                if tls.is_none() {
                    check_plaintext(url, peer, options)?;
                }
                let stream = encrypted(url, tls, stream).await?;
                let mut http2 = Self::handshake(url, stream, Some(peer), options).await?;
                http2.tls = tls.cloned();
                Ok(http2)
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
        let credentials = CallCredentials::of(options)?;
        let (line, fate) = Line::new(stream);
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window)
            .max_frame_size(options.frame_bytes)
            .keep_alive_interval(options.keepalive)
            .keep_alive_timeout(options.keepalive)
            .max_send_buf_size(SEND_BUFFER)
            .handshake(TokioIo::new(line))
            .await
            .map_err(|error| status::broken(&error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                // Its calls tell the error to those who wait for them.
                tracing::debug!(%error, "a connection ended");
            }
        });
        let text = url.to_string();
        let authority = text.split_once("://").and_then(|(_, it)| it.parse().ok());
        Ok(Self {
            sender,
            peer,
            scheme: match url.is_tls() {
                true => Scheme::HTTPS,
                false => Scheme::HTTP,
            },
            authority: authority.unwrap_or_else(|| Authority::from_static("localhost")),
            credentials,
            fate,
            tls: None,
        })
    }

    /// Makes a call; the connection must be ready.
    pub(super) fn send(&mut self, mut request: Request<Outgoing>) -> BoxFuture<'static, Outcome> {
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(self.scheme.clone());
        uri.authority = Some(self.authority.clone());
        match Uri::from_parts(uri) {
            Ok(uri) => *request.uri_mut() = uri,
            Err(error) => return futures::future::err(error.into()).boxed(),
        }
        request
            .headers_mut()
            .insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        self.credentials.add_to(request.headers_mut());
        let fate = self.fate.clone();
        let trace = span::call(request.uri().path(), self.authority.as_str(), self.peer);
        span::inject(&trace, request.headers_mut());
        let sent = self.sender.send_request(request);
        let of = trace.clone();
        let answered = sent.map(move |outcome| match outcome {
            Ok(answer) => Ok(Answer::of(answer, of)),
            Err(error) => {
                trace::failed(&of, "UNAVAILABLE");
                Err(match fate.get() {
                    Some(why) => why.clone().into(),
                    None => error.into(),
                })
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
        // A call on a connection that has ended tells why; this would tell that it has.
        let _ = std::task::ready!(self.sender.poll_ready(cx));
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.send(request.map(Outgoing::Generated))
    }
}

/// What encrypts connections to `url`, if it says so.
///
/// # Errors
/// What the options say can't be used, or TLS isn't built in.
#[cfg(feature = "tls")]
pub(super) async fn connector(
    url: &ServerUrl,
    options: &ClientOptions,
) -> Result<Option<TlsConnector>> {
    let Place::Tcp {
        host, tls: true, ..
    } = url.place()
    else {
        return Ok(None);
    };
    let (host, options) = (host.clone(), options.tls.clone());
    // To read the machine's authorities takes some milliseconds.
    let made = tokio::task::spawn_blocking(move || TlsConnector::new(&host, &options)).await;
    let made = made.map_err(|error| CasError::new(ErrorKind::Internal, error.to_string()))?;
    made.map(Some).map_err(|error| {
        let text = format!("TLS can't be used for {url}: {error}");
        CasError::new(ErrorKind::InvalidArgument, text)
    })
}

#[cfg(not(feature = "tls"))]
#[allow(clippy::unused_async, reason = "as with TLS")]
pub(super) async fn connector(url: &ServerUrl, _: &ClientOptions) -> Result<Option<TlsConnector>> {
    match url.is_tls() {
        false => Ok(None),
        true => Err(CasError::new(
            ErrorKind::Unsupported,
            format!("{url}: TLS is not built in"),
        )),
    }
}

#[cfg(feature = "tls")]
async fn encrypted(
    url: &ServerUrl,
    tls: Option<&TlsConnector>,
    stream: TcpStream,
) -> Result<Stream> {
    let Some(tls) = tls else {
        return Ok(Stream::Tcp(stream));
    };
    tls.connect(stream).await.map_err(|error| {
        let (kind, text) = crate::tls::explain(&error);
        CasError::new(kind, format!("{url}: {text}"))
    })
}

#[cfg(not(feature = "tls"))]
#[allow(clippy::unused_async, reason = "as with TLS")]
async fn encrypted(_: &ServerUrl, _: Option<&TlsConnector>, stream: TcpStream) -> Result<Stream> {
    Ok(Stream::Tcp(stream))
}

fn unreachable(url: &ServerUrl, error: io::Error) -> CasError {
    let kind = match error.kind() {
        io::ErrorKind::InvalidInput => ErrorKind::InvalidArgument,
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Unavailable,
    };
    CasError::new(kind, format!("no server can be reached at {url}")).with_source(error)
}
