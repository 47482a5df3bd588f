//! A server that offers RDMA over a fabric in memory, and clients on it.
//!
//! That fabric wants one thread: the tests run on runtimes of one.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

#[path = "../client_support/mod.rs"]
mod client_support;

use std::sync::Arc;
use std::time::Duration;

#[allow(unused_imports, reason = "as above")]
pub use client_support::{Running, any_port, noise, quick};
use zako_core::cas::{Cas, Result};
use zako_core::client::{Client, ClientOptions, RdmaState, SessionOptions, TransportChoice};
use zako_core::server::{RdmaOptions, Server, ServerOptions};
use zako_core::store::MemoryStore;
use zako_rdma::soft::{Faults, SoftNetwork};

pub const ROOM: u64 = 512 << 20;

/// A server with RDMA.
pub struct Joined {
    pub server: Running,
    pub network: SoftNetwork,
}

impl Joined {
    pub async fn new(faults: Faults) -> Self {
        Self::of(Arc::new(MemoryStore::new(ROOM)), faults).await
    }

    pub async fn of(cas: Arc<dyn Cas>, faults: Faults) -> Self {
        let network = SoftNetwork::new(7, faults);
        let mut rdma = RdmaOptions::new(network.fabric(), vec!["127.0.0.0/8".parse().unwrap()]);
        rdma.session = session();
        let server = Server::new(cas, ServerOptions::default()).with_rdma(rdma);
        Self {
            server: Running::run(server, &any_port()).await,
            network,
        }
    }

    pub async fn client(&self) -> Client {
        self.client_with(options()).await.unwrap()
    }

    pub async fn strict(&self) -> Client {
        let mut options = options();
        options.transport = TransportChoice::Rdma;
        self.client_with(options).await.unwrap()
    }

    pub async fn client_with(&self, options: ClientOptions) -> Result<Client> {
        Client::connect_over(&self.server.url, options, self.network.fabric()).await
    }

    /// What the server's sessions pin, asked for by gRPC.
    pub async fn pinned(&self) -> (u64, u64) {
        let mut options = quick();
        options.transport = TransportChoice::Grpc;
        let client = Client::connect(&self.server.url, options).await.unwrap();
        let status = client.status().await.unwrap();
        (status.rdma_sessions, status.rdma_pinned_bytes)
    }
}

/// For how long RDMA is held off: longer than any test takes, unless it lets time pass.
pub const HOLD_OFF: Duration = Duration::from_secs(20);

/// Options with a small session.
pub fn options() -> ClientOptions {
    let mut options = quick();
    options.rdma_hold_off = HOLD_OFF;
    options.rdma = session();
    options
}

pub fn session() -> SessionOptions {
    SessionOptions {
        slot_bytes: 64 << 10,
        // A READ moves one, which tests count on.
        run_slots: 1,
        exposed_slots: 8,
        pull_slots: 8,
        lent_slots: 8,
        transfers: 4,
        // Reached only where a check is never answered.
        check_timeout: Duration::from_secs(10),
        ..SessionOptions::default()
    }
}

pub fn is_held_off(client: &Client) -> bool {
    matches!(client.roads().rdma_state, RdmaState::HeldOff { .. })
}

/// Waits until it is so.
pub async fn until<F: AsyncFnMut() -> bool>(what: &str, mut is_so: F) {
    for _ in 0..3000 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came that {what}");
}

/// Lets so much time pass at once.
pub async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
