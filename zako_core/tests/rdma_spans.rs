//! Spans of clients and servers tell which transport a transfer took.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod rdma_support;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use parking_lot::Mutex;
use rdma_support::{Joined, noise, quick};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use zako_core::cas::{Cas, CasExt};
use zako_core::client::{Client, TransportChoice};
use zako_rdma::soft::Faults;

/// Keeps all spans that there are.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<Span>>>);

#[derive(Clone, Debug)]
struct Span {
    target: &'static str,
    name: &'static str,
    fields: BTreeMap<&'static str, String>,
}

impl Visit for Span {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

impl Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span()
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let metadata = attributes.metadata();
        let mut span = Span {
            target: metadata.target(),
            name: metadata.name(),
            fields: BTreeMap::new(),
        };
        attributes.record(&mut span);
        let mut spans = self.0.lock();
        spans.push(span);
        Id::from_u64(spans.len() as u64)
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        let at = id.into_u64() as usize - 1;
        values.record(&mut self.0.lock()[at]);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Spans {
    /// The transports of the spans of this name under this target since the last question,
    /// of this digest if they have one.
    fn transports(&self, target: &str, name: &str, digest: &str) -> Vec<String> {
        let spans = self.0.lock();
        let wanted = spans.iter().filter(|span| {
            let digest = span.fields.get("digest").is_none_or(|it| it == digest);
            span.target.starts_with(target) && span.name == name && digest
        });
        wanted
            .filter_map(|span| span.fields.get("transport").cloned())
            .collect()
    }
}

#[tokio::test]
async fn each_transfer_has_its_transport_at_both_ends() {
    let spans = Spans::default();
    let _guard = tracing::subscriber::set_default(spans.clone());
    let joined = Joined::new(Faults::default()).await;
    let client = joined.client().await;
    let data = noise(1, 1 << 20);
    let (digest, _) = client.put_bytes(data.clone()).await.unwrap();
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
    let digest = digest.to_string();
    for (end, name) in [
        ("client", "upload"),
        ("client", "download"),
        ("server", "upload"),
        ("server", "download"),
    ] {
        let target = format!("zako_core::{end}");
        let transports = spans.transports(&target, name, &digest);
        assert_eq!(transports, ["rdma"], "{end}: {name}");
    }

    let written = noise(2, 1 << 20);
    let digest = zako_digest::hash::bytes(&written);
    let mut writer = client.writer(&digest, 0).await.unwrap();
    writer.write(written).await.unwrap();
    writer.commit().await.unwrap();
    let digest = digest.to_string();
    let transports = spans.transports("zako_core::client", "upload", &digest);
    assert_eq!(transports, ["rdma"]);

    let small = noise(3, 100);
    let small = vec![(zako_digest::hash::bytes(&small), small)];
    client.put_batch(small.clone()).await.remove(0).unwrap();
    client.fetch_batch(&[small[0].0]).await.remove(0).unwrap();
    for name in ["batch_upload", "batch_download"] {
        let transports = spans.transports("zako_core::client", name, "");
        assert!(!transports.is_empty(), "{name}");
        assert!(transports.iter().all(|one| one == "grpc"), "{name}");
    }

    let mut options = quick();
    options.transport = TransportChoice::Grpc;
    let plain = Client::connect(&joined.server.url, options).await.unwrap();
    let data = noise(4, 1 << 20);
    let (digest, _) = plain.put_bytes(data.clone()).await.unwrap();
    assert_eq!(plain.fetch_bytes(&digest).await.unwrap(), data);
    let digest = digest.to_string();
    for name in ["upload", "download"] {
        let transports = spans.transports("zako_core::client", name, &digest);
        assert_eq!(transports, ["grpc"], "{name}");
    }
    let calls = spans.0.lock().clone();
    for method in ["Download", "Upload", "BatchUpload", "BatchDownload"] {
        let suffix = format!("/{method}");
        let call = calls.iter().find(|span| {
            let method = span.fields.get("method");
            span.name == "call" && method.is_some_and(|it| it.ends_with(&suffix))
        });
        assert_eq!(call.unwrap().fields["transport"], "grpc", "{method}");
    }
}

#[tokio::test]
async fn a_transfer_that_changes_roads_tells_the_last_one() {
    let spans = Spans::default();
    let _guard = tracing::subscriber::set_default(spans.clone());
    let faults = Faults {
        cut_at: Some(4),
        ..Faults::default()
    };
    let joined = Joined::new(faults).await;
    let mut options = quick();
    options.transport = TransportChoice::Grpc;
    let plain = Client::connect(&joined.server.url, options).await.unwrap();
    let data = noise(5, 1 << 20);
    let (digest, _) = plain.put_bytes(data.clone()).await.unwrap();
    let mut options = rdma_support::options();
    options.rdma.endpoint.timeout = 8;
    let client = joined.client_with(options).await.unwrap();
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
    assert_eq!(client.roads().fallbacks, 1);
    let digest = digest.to_string();
    let transports = spans.transports("zako_core::client", "download", &digest);
    assert_eq!(transports, ["grpc"]);
}
