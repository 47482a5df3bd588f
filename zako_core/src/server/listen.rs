//! Addresses to listen on, and accepting from them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::str::FromStr;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_util::task::TaskTracker;

use super::admission::{Admission, Caps};
use crate::cas::{CasError, ErrorKind, Result};
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

/// A socket that listens already: taken by this process, or handed on by another one, such as
/// the server before this one or a service manager. What connects waits in its queue until it
/// is served, and goes on waiting while any process has it open.
#[derive(Debug)]
pub struct ListenSocket {
    addr: ListenAddr,
    socket: StdSocket,
}

#[derive(Debug)]
enum StdSocket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    addr: ListenAddr,
    socket: Socket,
    /// Its path goes with it.
    removes: bool,
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
                let (socket, addr) = taken
                    .await
                    .map_err(|error| unusable(&ListenAddr::Tcp(*addr), error))?;
                Ok(Self {
                    addr: ListenAddr::Tcp(addr),
                    socket: Socket::Tcp(socket),
                    removes: false,
                })
            }
            ListenAddr::Unix(path) => {
                let socket = bind_unix(path)
                    .await
                    .map_err(|error| CasError::io("can't listen on a socket", path, error))?;
                Ok(Self {
                    addr: addr.clone(),
                    socket: Socket::Unix(socket),
                    removes: true,
                })
            }
        }
    }

    /// Serves a socket that is there. The path of a Unix socket stays.
    pub(super) fn adopt(socket: ListenSocket) -> Result<Self> {
        let ListenSocket { addr, socket } = socket;
        let adopted = match socket {
            StdSocket::Tcp(socket) => TcpListener::from_std(socket).map(Socket::Tcp),
            StdSocket::Unix(socket) => UnixListener::from_std(socket).map(Socket::Unix),
        };
        let socket = adopted.map_err(|error| unusable(&addr, error))?;
        Ok(Self {
            addr,
            socket,
            removes: false,
        })
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

impl ListenSocket {
    /// Takes an address. The path of a Unix socket stays when this is dropped: the next
    /// server takes it over.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the address can't be taken.
    pub async fn bind(addr: &ListenAddr) -> Result<Self> {
        let mut listener = Listener::bind(addr).await?;
        listener.removes = false;
        let addr = listener.addr.clone();
        let clone = match &listener.socket {
            Socket::Tcp(socket) => socket
                .as_fd()
                .try_clone_to_owned()
                .map(|fd| StdSocket::Tcp(fd.into())),
            Socket::Unix(socket) => socket
                .as_fd()
                .try_clone_to_owned()
                .map(|fd| StdSocket::Unix(fd.into())),
        };
        let socket = clone.map_err(|error| unusable(&addr, error))?;
        Ok(Self { addr, socket })
    }

    /// Takes over a socket that listens.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if it is of no use.
    pub fn tcp(socket: std::net::TcpListener) -> Result<Self> {
        let named = socket.local_addr().and_then(|addr| {
            socket.set_nonblocking(true)?;
            Ok(addr)
        });
        let addr = named.map_err(|error| {
            CasError::new(ErrorKind::Io, "a socket is of no use").with_source(error)
        })?;
        Ok(Self {
            addr: ListenAddr::Tcp(addr),
            socket: StdSocket::Tcp(socket),
        })
    }

    /// Takes over a socket that listens. One without a path is named `unix:`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if it is of no use.
    pub fn unix(socket: std::os::unix::net::UnixListener) -> Result<Self> {
        let named = socket.local_addr().and_then(|addr| {
            socket.set_nonblocking(true)?;
            Ok(addr)
        });
        let addr = named.map_err(|error| {
            CasError::new(ErrorKind::Io, "a socket is of no use").with_source(error)
        })?;
        let path = addr.as_pathname().unwrap_or(Path::new(""));
        Ok(Self {
            addr: ListenAddr::Unix(path.to_owned()),
            socket: StdSocket::Unix(socket),
        })
    }

    /// The same socket once more.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if there are no more file descriptors.
    pub fn try_clone(&self) -> Result<Self> {
        let clone = match &self.socket {
            StdSocket::Tcp(socket) => socket.try_clone().map(StdSocket::Tcp),
            StdSocket::Unix(socket) => socket.try_clone().map(StdSocket::Unix),
        };
        Ok(Self {
            socket: clone.map_err(|error| unusable(&self.addr, error))?,
            addr: self.addr.clone(),
        })
    }

    /// The address that it has.
    pub fn addr(&self) -> &ListenAddr {
        &self.addr
    }
}

impl AsFd for ListenSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            StdSocket::Tcp(socket) => socket.as_fd(),
            StdSocket::Unix(socket) => socket.as_fd(),
        }
    }
}

fn unusable(addr: &ListenAddr, error: io::Error) -> CasError {
    CasError::new(ErrorKind::Io, format!("can't listen on {addr}")).with_source(error)
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let ListenAddr::Unix(path) = &self.addr
            && self.removes
        {
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

    #[tokio::test]
    async fn who_connects_between_two_servers_is_served_by_the_second() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let dir = tempfile::tempdir().unwrap();
        let path = ListenAddr::Unix(dir.path().join("socket"));
        for addr in ["127.0.0.1:0".parse().unwrap(), path] {
            let socket = ListenSocket::bind(&addr).await.unwrap();
            let first = Listener::adopt(socket.try_clone().unwrap()).unwrap();
            drop(first);
            let (addr, connections) = (socket.addr().clone(), TaskTracker::new());
            let asking = async {
                match &addr {
                    ListenAddr::Tcp(addr) => {
                        let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
                        stream.read_u8().await.unwrap()
                    }
                    ListenAddr::Unix(path) => {
                        let mut stream = UnixStream::connect(path).await.unwrap();
                        stream.read_u8().await.unwrap()
                    }
                }
            };
            let second = Listener::adopt(socket).unwrap();
            let serving = second.serve(
                Caps {
                    all: 1,
                    per_address: 1,
                },
                &connections,
                std::future::pending(),
                |mut stream, _| async move {
                    stream.write_u8(7).await.unwrap();
                },
            );
            tokio::select! {
                answer = asking => assert_eq!(answer, 7),
                () = serving => panic!("it serves for ever"),
            }
        }
    }
}
