//! Addresses to listen on, and accepting from them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::str::FromStr;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_util::task::TaskTracker;

use super::admission::{Admission, Caps};
use crate::cas::{CasError, Result};
use crate::negotiate::PeerAddr;
use crate::transport::stream::Stream;

/// How long to wait when the system has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where a server listens: `127.0.0.1:7420`, `[::1]:7420` or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddr {
    /// A TCP port; 0 takes a free one.
    Tcp(SocketAddr),
    /// A Unix socket at this path.
    Unix(PathBuf),
}

/// A text that is no address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address to listen on: write IP:PORT or unix:/PATH")]
pub struct ParseListenAddrError(String);

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    addr: ListenAddr,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl FromStr for ListenAddr {
    type Err = ParseListenAddrError;

    fn from_str(text: &str) -> Result<Self, ParseListenAddrError> {
        let error = || ParseListenAddrError(text.chars().take(200).collect());
        match text.strip_prefix("unix:") {
            Some("") => Err(error()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| error()),
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listener {
    pub(super) async fn bind(addr: &ListenAddr) -> Result<Self> {
        match addr {
            ListenAddr::Tcp(addr) => {
                let taken = async {
                    let socket = TcpListener::bind(addr).await?;
                    let addr = socket.local_addr()?;
                    io::Result::Ok((socket, addr))
                };
                let (socket, addr) = taken.await.map_err(|error| {
                    let message = format!("can't listen on {addr}");
                    CasError::new(crate::cas::ErrorKind::Io, message).with_source(error)
                })?;
                Ok(Self {
                    addr: ListenAddr::Tcp(addr),
                    socket: Socket::Tcp(socket),
                })
            }
            ListenAddr::Unix(path) => {
                let socket = bind_unix(path)
                    .await
                    .map_err(|error| CasError::io("can't listen on a socket", path, error))?;
                Ok(Self {
                    addr: addr.clone(),
                    socket: Socket::Unix(socket),
                })
            }
        }
    }

    pub(super) fn addr(&self) -> &ListenAddr {
        &self.addr
    }

    /// Serves the connections that come, as many at once as `caps` allow, until
    /// `shutdown` is ready.
    pub(super) async fn serve<F>(
        &self,
        caps: Caps,
        connections: &TaskTracker,
        shutdown: impl Future<Output = ()>,
        serve: impl Fn(Stream, PeerAddr) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut shutdown = pin!(shutdown);
        let admission = Admission::default();
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut shutdown => return,
                accepted = self.accept() => accepted,
            };
            match accepted {
                Ok((stream, addr)) => {
                    if let Some(place) = admission.admit(&addr, caps) {
                        let served = serve(stream, addr);
                        connections.spawn(async move {
                            let _place = place;
                            served.await;
                        });
                    }
                }
                Err(error) => {
                    // A peer that left early, or no descriptors: neither ends the server.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn accept(&self) -> io::Result<(Stream, PeerAddr)> {
        match &self.socket {
            Socket::Tcp(socket) => {
                let (stream, remote) = socket.accept().await?;
                // Without it, small frames wait for the peer's delayed ACKs.
                stream.set_nodelay(true)?;
                let local = stream.local_addr()?;
                Ok((Stream::Tcp(stream), PeerAddr::Tcp { local, remote }))
            }
            Socket::Unix(socket) => {
                let (stream, _) = socket.accept().await?;
                let user = stream.peer_cred().ok().map(|peer| peer.uid());
                Ok((Stream::Unix(stream), PeerAddr::Unix { user }))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let ListenAddr::Unix(path) = &self.addr {
            // A leftover is taken over by the next server all the same.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Takes over the socket file of a server that is gone, and only that.
async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            // A file that is no socket refuses connections too.
            if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
                return Err(error);
            }
            match UnixStream::connect(path).await {
                Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path)?;
                    UnixListener::bind(path)
                }
                _ => Err(error),
            }
        }
        bound => bound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for text in ["127.0.0.1:7420", "[::1]:0", "unix:/run/zako.sock", "unix:x"] {
            assert_eq!(text.parse::<ListenAddr>().unwrap().to_string(), text);
        }
        for bad in ["", "unix:", "localhost:1", "127.0.0.1", "127.0.0.1:99999"] {
            assert!(bad.parse::<ListenAddr>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_dead_servers_socket_is_taken_over_and_a_live_ones_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let addr = ListenAddr::Unix(path.clone());
        let live = Listener::bind(&addr).await.unwrap();
        assert!(Listener::bind(&addr).await.is_err());
        drop(live);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        Listener::bind(&addr).await.unwrap();
        std::fs::write(&path, "a file of someone's").unwrap();
        assert!(Listener::bind(&addr).await.is_err());
        assert!(path.exists());
    }
}
