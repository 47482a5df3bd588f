//! Which road bytes take is visible in a server's metrics.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod metrics_support;
#[path = "../../zako_core/tests/rdma_support/mod.rs"]
mod rdma_support;

use std::sync::Arc;

use metrics_support::Scrape;
use rdma_support::{ROOM, Running, any_port, noise, options, session};
use zako_core::cas::CasExt;
use zako_core::client::{Client, TransportChoice};
use zako_core::server::{RdmaOptions, Server, ServerOptions};
use zako_core::store::MemoryStore;
use zako_rdma::soft::{Faults, SoftNetwork};
use zako_telemetry::{Metrics, OtlpOptions};

/// A server with RDMA for peers from `trusted`, and the network to it.
async fn measured(trusted: &str) -> (Metrics, Running, SoftNetwork) {
    let metrics = Metrics::new(&OtlpOptions::default(), &|_| None).unwrap();
    let network = SoftNetwork::new(7, Faults::default());
    let mut rdma = RdmaOptions::new(network.fabric(), vec![trusted.parse().unwrap()]);
    rdma.session = session();
    let cas = Arc::new(MemoryStore::new(ROOM));
    let server = Server::new(cas, ServerOptions::default())
        .with_rdma(rdma)
        .with_observer(Arc::new(metrics.clone()));
    let server = server.bind(&any_port()).await.unwrap();
    metrics.watch_server(server.figures());
    (metrics, Running::of(server), network)
}

fn bytes(scrape: &Scrape, interface: &str, transport: &str, direction: &str) -> f64 {
    scrape.get(&format!(
        "zako_transferred_bytes_total{{direction=\"{direction}\",\
         interface=\"{interface}\",transport=\"{transport}\"}}"
    ))
}

#[tokio::test]
async fn the_transport_is_visible() {
    let (metrics, server, network) = measured("127.0.0.0/8").await;
    let client = Client::connect_over(&server.url, options(), network.fabric()).await;
    let client = client.unwrap();
    let (small, large) = (noise(1, 1000), noise(2, 1 << 20));
    for data in [&small, &large] {
        let (digest, _) = client.put_bytes(data.clone()).await.unwrap();
        assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
    }
    let down = r#"zako_requests_total{code="OK",interface="rdma",method="download"}"#;
    let scrape = Scrape::when(&metrics, down, 1.0).await;
    let up = r#"zako_requests_total{code="OK",interface="rdma",method="upload"}"#;
    assert_eq!(scrape.get(up), 1.0);
    for direction in ["received", "sent"] {
        assert_eq!(
            bytes(&scrape, "rdma", "rdma", direction),
            large.len() as f64
        );
        let grpc = bytes(&scrape, "zako", "grpc", direction);
        assert!((1000.0..65536.0).contains(&grpc), "{direction}: {grpc}");
    }
    assert_eq!(
        scrape.get(r#"zako_rdma_session_events_total{event="opened"}"#),
        1.0
    );
    assert_eq!(scrape.sum("zako_rdma_fallbacks_total"), 0.0);
    assert_eq!(scrape.get("zako_rdma_sessions"), 1.0);
    assert!(scrape.get("zako_rdma_pinned_bytes") > 0.0);
    drop(client);
    let scrape = Scrape::when(&metrics, "zako_rdma_sessions", 0.0).await;
    assert_eq!(scrape.get("zako_rdma_pinned_bytes"), 0.0);
}

#[tokio::test]
async fn who_is_refused_rdma_falls_back() {
    let (metrics, server, network) = measured("10.0.0.0/8").await;
    let mut options = options();
    options.transport = TransportChoice::Auto;
    let client = Client::connect_over(&server.url, options, network.fabric()).await;
    let client = client.unwrap();
    let large = noise(2, 1 << 20);
    let (digest, _) = client.put_bytes(large.clone()).await.unwrap();
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), large);
    let method = "/zako.v1.transport.Transport/Download";
    let down = format!(r#"zako_requests_total{{code="OK",interface="zako",method="{method}"}}"#);
    let scrape = Scrape::when(&metrics, &down, 1.0).await;
    assert!(scrape.get(r#"zako_rdma_fallbacks_total{reason="not_offered"}"#) >= 1.0);
    assert_eq!(bytes(&scrape, "rdma", "rdma", "sent"), 0.0);
    assert!(bytes(&scrape, "zako", "grpc", "sent") >= large.len() as f64);
}
