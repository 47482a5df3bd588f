//! What the tests of the wire share: a small store, messages built by hand from
//! the field numbers, and a client that speaks bare HTTP/2.
#![allow(
    clippy::field_reassign_with_default,
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "each test binary uses its own part"
)]

pub mod client;
pub mod map_cas;
pub mod message;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use zako_core::cas::Cas;
use zako_core::negotiate::ManualClock;
use zako_core::server::{ListenAddr, RdmaOptions, Server, ServerOptions};

pub use client::{Answer, Call, Client};
pub use map_cas::MapCas;

/// The gRPC codes by number, as they stand on the wire.
pub mod code {
    pub const OK: i32 = 0;
    pub const CANCELLED: i32 = 1;
    pub const INVALID_ARGUMENT: i32 = 3;
    pub const DEADLINE_EXCEEDED: i32 = 4;
    pub const NOT_FOUND: i32 = 5;
    pub const ALREADY_EXISTS: i32 = 6;
    pub const PERMISSION_DENIED: i32 = 7;
    pub const RESOURCE_EXHAUSTED: i32 = 8;
    pub const FAILED_PRECONDITION: i32 = 9;
    pub const ABORTED: i32 = 10;
    pub const OUT_OF_RANGE: i32 = 11;
    pub const UNIMPLEMENTED: i32 = 12;
    pub const INTERNAL: i32 = 13;
    pub const UNAVAILABLE: i32 = 14;
    pub const DATA_LOSS: i32 = 15;
    pub const UNAUTHENTICATED: i32 = 16;
}

pub const DOWNLOAD: &str = "/zako.v1.transport.Transport/Download";
pub const UPLOAD: &str = "/zako.v1.transport.Transport/Upload";
pub const NEGOTIATE: &str = "/zako.v1.cas.ContentAddressableStorage/NegotiateBlobs";
pub const DETAILS: &str = "/zako.v1.cas.ContentAddressableStorage/GetTransportDetails";

/// A running server.
pub struct Running {
    pub addr: SocketAddr,
    pub clock: Arc<ManualClock>,
    pub cas: Arc<MapCas>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<zako_core::cas::Result<()>>,
}

impl Running {
    pub async fn start(options: ServerOptions) -> Self {
        Self::over(Arc::new(MapCas::default()), options).await
    }

    pub async fn over(cas: Arc<MapCas>, options: ServerOptions) -> Self {
        let server = Server::new(cas.clone(), options);
        Self::serve(cas, server).await
    }

    pub async fn with_rdma(cas: Arc<MapCas>, options: ServerOptions, rdma: RdmaOptions) -> Self {
        let server = Server::new(cas.clone(), options).with_rdma(rdma);
        Self::serve(cas, server).await
    }

    async fn serve(cas: Arc<MapCas>, server: Server) -> Self {
        let clock = Arc::new(ManualClock::default());
        let server = server.with_clock(clock.clone());
        let any = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
        let bound = server.bind(&any).await.unwrap();
        let ListenAddr::Tcp(addr) = *bound.local_addr() else {
            panic!("bound to {}", bound.local_addr());
        };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(bound.serve(async {
            let _ = stopped.await;
        }));
        Self {
            addr,
            clock,
            cas,
            stop: Some(stop),
            task,
        }
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.addr).await
    }

    /// A client whose connection has a session.
    pub async fn session(&self) -> Client {
        let mut client = self.client().await;
        client.token = Some(client.negotiate().await);
        client
    }

    /// Begins the shutdown.
    pub fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits for the server's end.
    pub async fn ended(self) {
        self.task.await.unwrap().unwrap();
    }
}

/// Waits until `done` says so; fails after a time that no working server needs.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if done() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

/// Bytes that don't repeat with a page.
pub fn pattern(length: usize) -> bytes::Bytes {
    (0..length).map(|at| (at % 251) as u8).collect()
}
