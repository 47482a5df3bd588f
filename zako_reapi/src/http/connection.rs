//! One connection: HTTP/1 with bounds, and the requests on it.

use std::convert::Infallible;
use std::io::{IoSlice, Result as IoResult};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use zako_core::negotiate::Peer;
use zako_core::observe::{Connected, Interface};
use zako_core::server::{PortConnection, PortStream};

use super::{Shared, route, span};

/// What a connection does, and since when.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// It rests between two requests.
    Resting(Instant),
    /// The head of a request has begun to come.
    Head(Instant),
    /// A request is being answered: its body and its answer have times of their own.
    Busy,
}

/// The phase of a connection.
#[derive(Clone, Debug)]
struct Watch(Arc<Mutex<Phase>>);

/// A request is being answered, until this is dropped.
#[derive(Debug)]
pub(super) struct Busy(Watch);

/// A connection's bytes; tells when a head begins.
struct WatchedStream {
    stream: PortStream,
    watch: Watch,
}

/// Serves a connection to its end.
pub(super) async fn serve(shared: Arc<Shared>, connection: PortConnection) {
    let PortConnection {
        stream,
        peer,
        certificate,
        stop,
        ..
    } = connection;
    // Who connects has something to say.
    let watch = Watch::new(Phase::Head(Instant::now()));
    let _connected = Connected::new(shared.observer.clone(), Interface::Http);
    let caller = Peer::with_certificate(peer.clone(), certificate);
    let stream = WatchedStream {
        stream,
        watch: watch.clone(),
    };
    let options = &shared.options;
    let over = watch.over(options.header_timeout, options.keep_alive_timeout);
    let (came, first) = (Instant::now(), CancellationToken::new());
    let service = service_fn(|request| {
        first.cancel();
        let busy = watch.busy();
        let (shared, caller) = (Arc::clone(&shared), Arc::clone(&caller));
        let trace = span::request(&request, &caller);
        async move {
            let answering = route::answer(shared, request, caller, busy);
            let answer = answering.instrument(trace.clone()).await;
            span::ended(&trace, answer.status());
            Ok::<_, Infallible>(answer.map(|body| body.traced(trace)))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // This connection's own watch tells a head that is slow from a rest.
        .header_read_timeout(None)
        .max_header_size(options.max_header_bytes)
        .max_buf_size(options.max_header_bytes.max(BUFFER))
        .serve_connection(TokioIo::new(stream), service);
    let (mut connection, mut over) = (pin!(connection), pin!(over));
    let mut leaving = pin!(async {
        stop.cancelled().await;
        // Who has just come couldn't know that it came too late: its first request is
        // answered.
        let _ = tokio::time::timeout_at(came + PATIENCE, first.cancelled()).await;
    });
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(?peer, %error, "a connection broke");
                }
                return;
            }
            () = &mut over => {
                tracing::debug!(?peer, "a connection without a request was closed");
                return;
            }
            () = &mut leaving, if !stopping => {
                connection.as_mut().graceful_shutdown();
                stopping = true;
            }
        }
    }
}

/// How long a connection may be without a request before a server that stops closes it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is read from a connection, and written to it, at once.
const BUFFER: usize = 256 << 10;

impl Watch {
    fn new(phase: Phase) -> Self {
        Self(Arc::new(Mutex::new(phase)))
    }

    fn get(&self) -> Phase {
        *self.0.lock()
    }

    fn set(&self, phase: Phase) {
        *self.0.lock() = phase;
    }

    fn busy(&self) -> Busy {
        self.set(Phase::Busy);
        Busy(self.clone())
    }

    /// Bytes came.
    fn came(&self) {
        if matches!(self.get(), Phase::Resting(_)) {
            self.set(Phase::Head(Instant::now()));
        }
    }

    /// Ends when a head takes too long, or a rest does.
    async fn over(&self, head: Duration, rest: Duration) {
        loop {
            let now = Instant::now();
            let due = match self.get() {
                Phase::Head(since) => since + head,
                Phase::Resting(since) => since + rest,
                Phase::Busy => now + head,
            };
            if due <= now {
                return;
            }
            // A head that begins in the meantime has this long too.
            tokio::time::sleep_until(due.min(now + head)).await;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.set(Phase::Resting(Instant::now()));
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<IoResult<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.watch.came();
        }
        read
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<IoResult<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<IoResult<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
