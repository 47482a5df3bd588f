//! How a client comes to its RDMA session, and what it does when it gets none.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod rdma_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rdma_support::{Joined, ROOM, Running, any_port, is_held_off, noise, options, session};
use zako_core::cas::CasExt;
use zako_core::client::{Client, ClientOptions, Fabric, RdmaState, RetryPolicy};
use zako_core::negotiate::ManualClock;
use zako_core::server::{RdmaOptions, Server, ServerOptions};
use zako_core::store::MemoryStore;
use zako_rdma::fabric::{Endpoint, EndpointOptions, FabricError, FailureKind, Limits};
use zako_rdma::soft::{Faults, SoftFabric, SoftNetwork};

/// A card that gives no endpoints.
#[derive(Debug)]
struct Broken {
    fabric: Arc<SoftFabric>,
    /// How long it takes to say so.
    after: Duration,
}

impl Fabric for Broken {
    fn name(&self) -> &str {
        "broken0"
    }

    fn limits(&self) -> Limits {
        self.fabric.limits()
    }

    fn endpoint(&self, _: &EndpointOptions) -> zako_rdma::fabric::Result<Box<dyn Endpoint>> {
        std::thread::sleep(self.after);
        Err(FabricError::new(FailureKind::Device, "the card is on fire"))
    }
}

fn network() -> SoftNetwork {
    SoftNetwork::new(1, Faults::default())
}

fn broken(after: Duration) -> Arc<Broken> {
    let fabric = network().fabric();
    Arc::new(Broken { fabric, after })
}

async fn server(change: impl FnOnce(&mut RdmaOptions), fabric: Arc<dyn Fabric>) -> Running {
    let mut rdma = RdmaOptions::new(fabric, vec!["127.0.0.1".parse().unwrap()]);
    rdma.session = session();
    change(&mut rdma);
    let store = Arc::new(MemoryStore::new(ROOM));
    let server = Server::new(store, ServerOptions::default()).with_rdma(rdma);
    Running::run(server, &any_port()).await
}

/// Moves a blob there and back, which goes well whatever the road.
async fn goes_well(client: &Client, seed: u64) {
    let data = noise(seed, 200_000);
    let (digest, _) = client.put_bytes(data.clone()).await.unwrap();
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
}

fn reason(client: &Client) -> String {
    match client.roads().rdma_state {
        RdmaState::HeldOff { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn those_who_begin_at_once_set_one_session_up() {
    let joined = Joined::new(Faults::default()).await;
    let client = joined.client().await;
    let most = Arc::new(AtomicUsize::new(0));
    let watch = tokio::spawn({
        let (most, network) = (most.clone(), joined.network.clone());
        async move {
            loop {
                most.fetch_max(network.endpoints(), Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }
    });
    let tasks = (0..20).map(|seed| {
        let client = client.clone();
        tokio::spawn(async move { goes_well(&client, seed).await })
    });
    let tasks: Vec<_> = tasks.collect();
    for task in tasks {
        task.await.unwrap();
    }
    watch.abort();
    assert_eq!(most.load(Ordering::Relaxed), 2);
    assert_eq!(joined.network.endpoints(), 2);
}

#[tokio::test]
async fn a_token_that_expired_is_negotiated_anew() {
    let clock = Arc::new(ManualClock::default());
    let network = network();
    let mut rdma = RdmaOptions::new(network.fabric(), vec!["127.0.0.1".parse().unwrap()]);
    rdma.session = session();
    let server_options = ServerOptions::default();
    let idle = server_options.session_idle;
    let store = Arc::new(MemoryStore::new(ROOM));
    let server = Server::new(store, server_options).with_clock(clock.clone());
    let server = Running::run(server.with_rdma(rdma), &any_port()).await;
    let mut options = options();
    options.retry = RetryPolicy::NEVER;
    let client = Client::connect_over(&server.url, options, network.fabric());
    let client = client.await.unwrap();
    clock.advance(idle * 2);
    // Small enough that no other call finds out before.
    let data = noise(1, 100_000);
    client.put_bytes(data).await.unwrap();
    let roads = client.roads();
    assert_eq!((roads.rdma.sent_bytes, roads.fallbacks), (100_000, 0));
}

#[tokio::test]
async fn a_card_that_fails_at_either_end_is_said_and_gone_round() {
    let at_server = server(|_| (), broken(Duration::ZERO)).await;
    let client = Client::connect_over(&at_server.url, options(), network().fabric());
    let client = client.await.unwrap();
    goes_well(&client, 1).await;
    assert!(reason(&client).contains("on fire"), "{}", reason(&client));
    assert_eq!(client.roads().fallbacks, 1);

    let at_client = server(|_| (), network().fabric()).await;
    let client = Client::connect_over(&at_client.url, options(), broken(Duration::ZERO));
    let client = client.await.unwrap();
    goes_well(&client, 1).await;
    assert!(reason(&client).contains("on fire"), "{}", reason(&client));
    assert_eq!(client.status().await.unwrap().rdma_sessions, 0);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_not_waited_for() {
    let server = server(|_| (), broken(Duration::from_secs(2))).await;
    let mut options = options();
    options.rdma.handshake_timeout = Duration::from_millis(200);
    let client = Client::connect_over(&server.url, options, network().fabric());
    let client = client.await.unwrap();
    goes_well(&client, 1).await;
    assert!(is_held_off(&client), "{:?}", client.roads());
    assert_eq!(client.roads().rdma.sent_bytes, 0);
}

#[tokio::test]
async fn who_is_not_trusted_gets_grpc() {
    let network = network();
    let elsewhere = |rdma: &mut RdmaOptions| rdma.trusted = vec!["10.0.0.0/8".parse().unwrap()];
    let server = server(elsewhere, network.fabric()).await;
    let client = Client::connect_over(&server.url, options(), network.fabric());
    let client = client.await.unwrap();
    goes_well(&client, 1).await;
    assert_eq!(client.roads().rdma_state, RdmaState::NotOffered);
}

#[tokio::test]
async fn a_server_without_room_for_another_session_keeps_the_one_there_is() {
    let network = network();
    let server = server(|rdma| rdma.limits.sessions = 1, network.fabric()).await;
    let connect = |options: ClientOptions| {
        let (url, fabric) = (server.url.clone(), network.fabric());
        async move { Client::connect_over(&url, options, fabric).await.unwrap() }
    };
    let mut options = options();
    options.rdma_from_bytes = 10 << 20;
    let client = connect(options.clone()).await;
    let late = connect(options.clone()).await;
    let largest = noise(1, 10 << 20);
    let (digest, _) = client.put_bytes(largest.clone()).await.unwrap();
    assert_eq!(client.roads().rdma_state, RdmaState::Open);

    // Who asked before it was taken finds out now, who asks later is told.
    late.fetch_bytes(&digest).await.unwrap();
    assert_eq!(late.roads().fallbacks, 1);
    let later = connect(options).await;
    assert_eq!(later.roads().rdma_state, RdmaState::NotOffered);

    // Each of these takes a connection of its own.
    let heavy = noise(2, 9 << 20);
    let (other, _) = client.put_bytes(heavy.clone()).await.unwrap();
    let before = client.status().await.unwrap().sessions;
    let fetched = futures::join!(client.fetch_bytes(&other), client.fetch_bytes(&other));
    assert_eq!(
        (fetched.0.unwrap(), fetched.1.unwrap()),
        (heavy.clone(), heavy)
    );
    assert!(client.status().await.unwrap().sessions > before);
    let before = client.roads().rdma.received_bytes;
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), largest);
    assert_eq!(client.roads().rdma.received_bytes - before, 10 << 20);
}
