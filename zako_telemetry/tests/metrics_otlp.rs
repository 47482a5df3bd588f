//! Metrics reach a collector by OTLP, over gRPC: a real receiver on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod metrics_support;

use std::time::Duration;

use metrics_support::Measured;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use zako_core::cas::CasExt;
use zako_core::store::StoreOptions;
use zako_telemetry::{CATALOG, Kind, Metrics, OtlpOptions, Protocol, report_roads};

/// A collector that hands on what it is sent, and the headers it came with.
struct Collector(mpsc::UnboundedSender<(ExportMetricsServiceRequest, Option<String>)>);

type Received = mpsc::UnboundedReceiver<(ExportMetricsServiceRequest, Option<String>)>;

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let key = request.metadata().get("x-key");
        let key = key.map(|key| key.to_str().unwrap().to_owned());
        let _ = self.0.send((request.into_inner(), key));
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

/// A collector's address, and what it is sent.
async fn collector() -> (String, Received) {
    let (sender, received) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let collector = tonic::transport::Server::builder()
        .add_service(MetricsServiceServer::new(Collector(sender)))
        .serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(collector);
    (endpoint, received)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_tells_which_roads_its_blobs_took() {
    let (endpoint, mut received) = collector().await;
    let server = Measured::start(StoreOptions::default()).await;
    let client = server.client().await;
    client.put_bytes(vec![3; 3 << 20]).await.unwrap();
    let options = OtlpOptions {
        endpoint: Some(endpoint),
        protocol: Some(Protocol::Grpc),
        ..OtlpOptions::default()
    };
    let patience = Duration::from_secs(60);
    let sent = report_roads(&client.roads(), &options, &|_| None, patience).await;
    assert!(sent.unwrap());
    let (request, _) = received.recv().await.unwrap();
    let metrics = request.resource_metrics.iter();
    let metrics = metrics.flat_map(|one| &one.scope_metrics);
    let mut metrics = metrics.flat_map(|one| &one.metrics);
    let bytes = metrics.find(|one| one.name == "zako.client.transferred");
    let Some(Data::Sum(bytes)) = &bytes.unwrap().data else {
        panic!("{request:?}");
    };
    let counts = bytes.data_points.iter().map(|point| match point.value {
        Some(number_data_point::Value::AsInt(value)) => value,
        ref other => panic!("{other:?}"),
    });
    assert!(counts.sum::<i64>() >= 3 << 20);
    let nowhere = OtlpOptions::default();
    let asked = report_roads(&client.roads(), &nowhere, &|_| None, patience).await;
    assert!(!asked.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_is_sent_what_a_scrape_shows() {
    let (endpoint, mut received) = collector().await;
    let options = OtlpOptions {
        headers: "x-key=secret".parse().unwrap(),
        ..OtlpOptions::default()
    };
    let metrics = Metrics::new(&options, &|name| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(endpoint.clone()),
        "OTEL_EXPORTER_OTLP_PROTOCOL" => Some("grpc".to_owned()),
        // Longer than the test: what comes is the last export.
        "OTEL_METRIC_EXPORT_INTERVAL" => Some("3600000".to_owned()),
        _ => None,
    });
    let server = Measured::of(metrics.unwrap(), StoreOptions::default()).await;
    let client = server.client().await;
    for data in [vec![1; 1000], vec![2; 3 << 20]] {
        let (digest, _) = client.put_bytes(data).await.unwrap();
        client.fetch_bytes(&digest).await.unwrap();
    }
    drop(client);
    let gone = r#"zako_connections{interface="zako"}"#;
    server.scrape_when(gone, 0.0).await;
    server.stop().await;

    let sent = tokio::time::timeout(Duration::from_secs(60), received.recv()).await;
    let (request, key) = sent.unwrap().unwrap();
    assert_eq!(key.as_deref(), Some("secret"));
    let [resource] = &request.resource_metrics[..] else {
        panic!("{request:?}");
    };
    let attributes = &resource.resource.as_ref().unwrap().attributes;
    assert!(attributes.iter().any(|one| one.key == "service.name"));
    let metrics = resource.scope_metrics.iter().flat_map(|one| &one.metrics);
    let metrics: Vec<_> = metrics.collect();
    for spec in CATALOG {
        let found = metrics.iter().find(|metric| metric.name == spec.name);
        let metric = found.unwrap_or_else(|| panic!("no {} was sent", spec.name));
        assert_eq!(metric.unit, spec.unit, "{}", spec.name);
        let kind = match metric.data.as_ref().unwrap() {
            Data::Gauge(_) => Kind::Gauge,
            Data::Histogram(_) => Kind::Histogram,
            Data::Sum(sum) => {
                assert!(sum.is_monotonic, "{}", spec.name);
                Kind::Counter
            }
            other => panic!("{}: {other:?}", spec.name),
        };
        assert_eq!(kind, spec.kind, "{}", spec.name);
    }
}

#[tokio::test]
async fn nothing_is_sent_unasked_and_wrong_variables_are_said() {
    let options = OtlpOptions::default();
    assert!(Metrics::new(&options, &|_| None).is_ok());
    let wrong = Metrics::new(&options, &|name| match name {
        "OTEL_METRICS_EXPORTER" => Some("otlp".to_owned()),
        "OTEL_METRIC_EXPORT_INTERVAL" => Some("soon".to_owned()),
        _ => None,
    });
    let error = wrong.unwrap_err().to_string();
    assert!(error.contains("OTEL_METRIC_EXPORT_INTERVAL"), "{error}");
}
