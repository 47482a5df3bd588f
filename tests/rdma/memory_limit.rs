//! Ends that may pin too little memory: they say so, and gRPC is used.

use zako_core::cas::Cas;
use zako_core::client::{Client, RdmaState, SessionOptions, TransportChoice};

use crate::Case;
use crate::child::Process;
use crate::content::{MIB, blob, client, fresh_client, get, held_off, options, run, status};
use crate::servers::Place;

pub(crate) const CASES: &[Case] = &[
    ("a server that may pin too little", a_limited_server),
    ("a server that finds out late", a_server_that_finds_out_late),
    ("a server that may pin for one client", one_client_only),
    ("a client that may pin too little", a_limited_client),
];

/// The usual limit.
const LIMIT: u64 = 8 << 20;

fn says_how_to_raise_it(text: &str) {
    for part in ["ulimit -l unlimited", "LimitMEMLOCK=infinity"] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

/// Moves a blob both ways by gRPC, with a client that would take RDMA.
async fn goes_by_grpc(client: &Client) {
    let (digest, data) = blob(MIB, 1);
    client.put(&digest, data.clone()).await.unwrap();
    get(client, &digest, &data).await;
    let roads = client.roads();
    assert_eq!((roads.rdma.transfers, roads.grpc.transfers), (0, 2));
}

fn a_limited_server() {
    let mut place = Place::new();
    place.may_pin = Some(LIMIT);
    let server = place.serve();
    println!("       the server: {}", server.said().trim_end());
    says_how_to_raise_it(&server.said());
    run(async {
        let client = fresh_client(&server.address, options(TransportChoice::Auto)).await;
        goes_by_grpc(&client).await;
        assert_eq!(client.roads().rdma_state, RdmaState::NotOffered);
    });
}

fn a_server_that_finds_out_late() {
    let mut place = Place::new();
    place.may_pin = Some(LIMIT);
    let server = place.serve_bare();
    run(async {
        let client = fresh_client(&server.address, options(TransportChoice::Auto)).await;
        goes_by_grpc(&client).await;
        assert!(client.roads().fallbacks >= 1);
        println!("       the client: {}", held_off(&client).await);
        assert_eq!(status(&server.address).await.rdma_pinned_bytes, 0);
    });
    println!("       the server: {}", server.said().trim_end());
    says_how_to_raise_it(&server.said());
}

fn one_client_only() {
    let mut place = Place::new();
    place.may_pin = Some(SessionOptions::default().pinned_bytes() * 3 / 2);
    let server = place.serve();
    run(async {
        let first = client(&server.address, TransportChoice::Rdma).await;
        let (digest, data) = blob(MIB, 2);
        first.put(&digest, data.clone()).await.unwrap();
        let second = fresh_client(&server.address, options(TransportChoice::Auto)).await;
        goes_by_grpc(&second).await;
        println!("       the second client: {}", held_off(&second).await);
        get(&first, &digest, &data).await;
        assert_eq!(first.roads().rdma.transfers, 2);
    });
}

fn a_limited_client() {
    let place = Place::new();
    let server = place.serve();
    let mut client = Process::start_limited(LIMIT, &["limited", &server.address]);
    let reason = client.hear();
    println!("       the client: {reason}");
    says_how_to_raise_it(&reason);
    client.end();
}
