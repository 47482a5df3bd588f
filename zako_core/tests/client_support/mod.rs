//! A real server, and a proxy that breaks its connections.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use zako_core::cas::Cas;
use zako_core::client::{Client, ClientOptions, RetryPolicy, ServerUrl};
use zako_core::server::{BoundServer, ListenAddr, Server, ServerOptions};

/// A server that runs until it is stopped or dropped.
pub struct Running {
    pub url: ServerUrl,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    pub async fn start(cas: Arc<dyn Cas>, addr: &ListenAddr, options: ServerOptions) -> Self {
        Self::run(Server::new(cas, options), addr).await
    }

    pub async fn run(server: Server, addr: &ListenAddr) -> Self {
        Self::of(server.bind(addr).await.unwrap())
    }

    pub fn of(server: BoundServer) -> Self {
        let url = match server.local_addr() {
            ListenAddr::Tcp(addr) => ServerUrl::from(*addr),
            ListenAddr::Unix(path) => ServerUrl::unix(path),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let stopped = async { stopped.await.unwrap_or(()) };
            server.serve(stopped).await.unwrap();
        });
        Self {
            url,
            stop: Some(stop),
            task,
        }
    }

    pub async fn tcp(cas: Arc<dyn Cas>) -> Self {
        Self::start(cas, &any_port(), ServerOptions::default()).await
    }

    pub async fn unix(cas: Arc<dyn Cas>, path: &Path) -> Self {
        let addr = ListenAddr::Unix(path.to_owned());
        Self::start(cas, &addr, ServerOptions::default()).await
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.url, quick()).await.unwrap()
    }

    pub fn addr(&self) -> ListenAddr {
        match self.url.socket_path() {
            Some(path) => ListenAddr::Unix(path.to_owned()),
            None => self.url.to_string()["http://".len()..].parse().unwrap(),
        }
    }

    /// Ends it well.
    pub async fn stop(mut self) {
        let _ = self.stop.take().unwrap().send(());
        (&mut self.task).await.unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn any_port() -> ListenAddr {
    ListenAddr::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// Options that lose little time between attempts.
pub fn quick() -> ClientOptions {
    let mut options = ClientOptions::default();
    options.retry = RetryPolicy::new(12, Duration::from_millis(2), Duration::from_millis(200));
    options
}

pub fn noise(seed: u64, length: usize) -> bytes::Bytes {
    let mut data = vec![0; length];
    StdRng::seed_from_u64(seed).fill_bytes(&mut data);
    data.into()
}

/// Passes TCP connections on to a Unix socket, and cuts each after a random number
/// of bytes in either direction.
pub struct Proxy {
    pub url: ServerUrl,
    pub cuts: Arc<AtomicUsize>,
    /// The most bytes that a connection lives for.
    longest: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(to: &Path, seed: u64, longest: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = ServerUrl::from(listener.local_addr().unwrap());
        let cuts = Arc::new(AtomicUsize::new(0));
        let longest = Arc::new(AtomicU64::new(longest));
        let (to, counted, limit) = (to.to_owned(), cuts.clone(), longest.clone());
        let task = tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(seed);
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let longest = limit.load(Ordering::SeqCst);
                let lifetime = random.random_range(longest / 4..=longest);
                let far = UnixStream::connect(&to).await.unwrap();
                let counted = counted.clone();
                tokio::spawn(async move {
                    pass(near, far, lifetime).await;
                    counted.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self {
            url,
            cuts,
            longest,
            task,
        }
    }

    /// Lets connections live from now on.
    pub fn heal(&self) {
        self.longest.store(1 << 60, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut near: TcpStream, mut far: UnixStream, lifetime: u64) {
    near.set_nodelay(true).unwrap();
    let mut left = lifetime;
    let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    while left > 0 {
        let passed = tokio::select! {
            read = near.read(&mut up) => match read {
                Ok(read) if read > 0 => far.write_all(&up[..read]).await.map(|()| read),
                _ => return,
            },
            read = far.read(&mut down) => match read {
                Ok(read) if read > 0 => near.write_all(&down[..read]).await.map(|()| read),
                _ => return,
            },
        };
        let Ok(passed) = passed else { return };
        left = left.saturating_sub(passed as u64);
    }
}
