//! The client is a store like any other, over RDMA too.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod rdma_support;

use std::sync::Arc;

use rdma_support::{Joined, options};
use zako_core::client::TransportChoice;
use zako_core::conformance;
use zako_rdma::soft::Faults;

#[tokio::test]
async fn over_rdma() {
    let joined = Joined::new(Faults::default()).await;
    let client = joined.client().await;
    let made = conformance::run_all(async || Arc::new(client.clone()) as _).await;
    made.unwrap_or_else(|violations| panic!("{violations}"));
    let roads = client.roads();
    assert_eq!(roads.fallbacks, 0, "{roads:?}");
    assert!(roads.rdma.received_bytes > 100 << 20, "{roads:?}");
}

#[tokio::test]
async fn over_rdma_and_nothing_else_from_one_byte_on() {
    let joined = Joined::new(Faults::default()).await;
    let mut options = options();
    options.transport = TransportChoice::Rdma;
    options.rdma_from_bytes = 0;
    let client = joined.client_with(options).await.unwrap();
    let made = conformance::run_all(async || Arc::new(client.clone()) as _).await;
    made.unwrap_or_else(|violations| panic!("{violations}"));
    let roads = client.roads();
    assert_eq!(roads.fallbacks, 0, "{roads:?}");
    assert_eq!(roads.grpc.received_bytes, 0, "{roads:?}");
}
