//! Ends that may pin too little memory: they say so, and gRPC is used.

use zako_core::cas::Cas;
use zako_core::client::TransportChoice;

use crate::Case;
use crate::child::Process;
use crate::content::{MIB, blob, client, get, held_off, run, status};
use crate::servers::Place;

pub(crate) const CASES: &[Case] = &[
    ("a server that may pin too little", a_limited_server),
    ("a client that may pin too little", a_limited_client),
];

/// The usual limit.
const LIMIT: u64 = 8 << 20;

fn says_how_to_raise_it(text: &str) {
    for part in ["8192 KiB", "ulimit -l unlimited", "LimitMEMLOCK=infinity"] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

fn a_limited_server() {
    let mut place = Place::new();
    place.may_pin = Some(LIMIT);
    let server = place.serve();
    run(async {
        let client = client(&server.address, TransportChoice::Auto).await;
        let (digest, data) = blob(MIB, 1);
        client.put(&digest, data.clone()).await.unwrap();
        get(&client, &digest, &data).await;
        let roads = client.roads();
        assert_eq!((roads.rdma.transfers, roads.grpc.transfers), (0, 2));
        assert_eq!(roads.fallbacks, 1);
        println!("       the client: {}", held_off(&client));
        assert_eq!(status(&server.address).await.rdma_pinned_bytes, 0);
    });
    println!("       the server: {}", server.said().trim_end());
    says_how_to_raise_it(&server.said());
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
