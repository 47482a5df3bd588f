//! A port of its own for a protocol that isn't gRPC.

use std::fmt;
use std::io::{IoSlice, Result as IoResult};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::Caps;
use super::drain::DrainLimit;
use super::listen::{ListenAddr, ListenSocket, Listener};
use super::secure::Secured;
use super::stall::Stalling;
use crate::cas::Result;
use crate::negotiate::PeerAddr;
use crate::tls::{Application, TlsAcceptor};
use crate::transport::stream::Stream;

/// A port whose connections have the bounds of the server's own: their number, peers
/// that read nothing, and a shutdown that waits for them, but not for ever.
#[derive(Debug)]
pub struct Port {
    listener: Listener,
    drain: DrainLimit,
    options: PortOptions,
    tls: Option<TlsAcceptor>,
}

/// What a port allows.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct PortOptions {
    /// Connections at once; further ones are closed at once (4,096).
    pub max_connections: usize,
    /// Connections at once of one address, or of one network of 64 bits of IPv6; further
    /// ones are closed at once (1,024).
    pub max_connections_per_address: usize,
    /// How long the TLS handshake of a new connection may take (10 s).
    pub handshake_timeout: Duration,
    /// How long a peer may take nothing of what is written to it (60 s).
    pub write_idle_timeout: Duration,
    /// How long connections may go on after the shutdown began (30 s).
    pub drain_timeout: Duration,
}

/// A connection of a port.
pub struct PortConnection {
    /// Its bytes.
    pub stream: PortStream,
    /// Whose it is.
    pub peer: PeerAddr,
    /// The client's own certificate, in DER, if it showed one in the TLS handshake: it was
    /// checked.
    pub certificate: Option<Arc<[u8]>>,
    /// Cancelled when no more requests should be taken.
    pub stop: CancellationToken,
}

/// The bytes of a port's connection. Writing fails when the peer takes nothing for too
/// long.
pub struct PortStream(Stalling<Stream>);

impl Default for PortOptions {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_connections_per_address: 1024,
            handshake_timeout: Duration::from_secs(10),
            write_idle_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

impl Port {
    /// Takes the address. Connections queue up until [`serve`](Self::serve) runs.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::cas::ErrorKind::Io) if the address can't be taken.
    pub async fn bind(addr: &ListenAddr, options: PortOptions) -> Result<Self> {
        Ok(Self {
            listener: Listener::bind(addr).await?,
            drain: DrainLimit::new(options.drain_timeout),
            options,
            tls: None,
        })
    }

    /// Takes a socket that listens already. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::cas::ErrorKind::Io) if it is of no use.
    pub fn bind_to(socket: ListenSocket, options: PortOptions) -> Result<Self> {
        Ok(Self {
            listener: Listener::adopt(socket)?,
            drain: DrainLimit::new(options.drain_timeout),
            options,
            tls: None,
        })
    }

    /// How long the shutdown may take: [`PortOptions::drain_timeout`], unless it is changed.
    pub fn drain_limit(&self) -> DrainLimit {
        self.drain.clone()
    }

    /// Takes connections over TCP by TLS only; those over Unix sockets stay as they are.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, tls: TlsAcceptor) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The address that it has: with the real port where 0 was asked for.
    pub fn local_addr(&self) -> &ListenAddr {
        self.listener.addr()
    }

    /// Serves connections, each to its end by `serve`, until `shutdown` is ready. Then
    /// takes no more of them, tells those that run to stop, and cuts them if they go on
    /// for longer than [`PortOptions::drain_timeout`].
    ///
    /// Dropping the future cuts all connections.
    pub async fn serve<F>(
        self,
        shutdown: impl Future<Output = ()>,
        serve: impl Fn(PortConnection) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self {
            listener,
            drain,
            options,
            tls,
        } = self;
        let (serve, tls) = (Arc::new(serve), tls.map(Arc::new));
        let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
        let _cut = cut.clone().drop_guard();
        let connections = TaskTracker::new();
        let begin = |stream, peer| {
            let (serve, tls) = (Arc::clone(&serve), tls.clone());
            let (stop, cut) = (stop.clone(), cut.clone());
            let (stall, handshake) = (options.write_idle_timeout, options.handshake_timeout);
            let served = async move {
                let secured = Secured::begin(tls.as_deref(), Application::Http1, stream, &peer);
                let Ok(Some(secured)) = timeout(handshake, secured).await else {
                    return;
                };
                let connection = PortConnection {
                    stream: PortStream(Stalling::new(secured.stream, stall)),
                    peer,
                    certificate: secured.certificate,
                    stop,
                };
                serve(connection).await;
            };
            async move {
                let _ = cut.run_until_cancelled(served).await;
            }
        };
        let caps = Caps {
            all: options.max_connections,
            per_address: options.max_connections_per_address,
        };
        listener.serve(caps, &connections, shutdown, begin).await;
        // Closes the socket: a peer that connects now is refused, not left waiting.
        drop(listener);
        stop.cancel();
        connections.close();
        let drained = timeout(drain.get(), connections.wait());
        if drained.await.is_err() {
            cut.cancel();
            connections.wait().await;
        }
    }
}

impl AsyncRead for PortStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<IoResult<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for PortStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<IoResult<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<IoResult<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl fmt::Debug for PortConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortConnection")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PortStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortStream").finish_non_exhaustive()
    }
}
