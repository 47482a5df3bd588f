//! What a client moved, told once, at the end of a command.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use zako_core::client::{RoadUse, Roads};

use super::catalog::{Kind, Spec};
use super::instrument::counter;
use super::push::Once;
use crate::{Environment, OtlpOptions, Signal, TelemetryError, resource};

const TRANSFERRED: Spec = Spec::new(
    Kind::Counter,
    "zako.client.transferred",
    "By",
    &["transport", "direction"],
    "Bytes of blobs that a client moved.",
);

const TRANSFERS: Spec = Spec::new(
    Kind::Counter,
    "zako.client.transfers",
    "{transfer}",
    &["transport"],
    "Blobs, and parts of blobs, that a client moved to their end.",
);

const FALLBACKS: Spec = Spec::new(
    Kind::Counter,
    "zako.client.rdma.fallbacks",
    "{fallback}",
    &[],
    "Transfers that RDMA failed on, and that went on by gRPC.",
);

/// Sends which roads a client's blobs took by OTLP, if the options or the variables ask for
/// it; whether they do. Takes `patience` at most.
///
/// # Errors
/// A variable can't be read; the collector doesn't take them.
pub async fn report_roads(
    roads: &Roads,
    otlp: &OtlpOptions,
    environment: Environment<'_>,
    patience: Duration,
) -> Result<bool, TelemetryError> {
    let Some(target) = otlp.target(Signal::Metrics, environment)? else {
        return Ok(false);
    };
    let (once, reader) = Once::new(&target)?;
    let provider = SdkMeterProvider::builder()
        .with_resource(resource(otlp.service_name.as_deref(), "zako"))
        .with_reader(reader)
        .build();
    let meter = provider.meter("zako");
    let (bytes, transfers) = (counter(&meter, TRANSFERRED), counter(&meter, TRANSFERS));
    let count = |transport: &'static str, moved: &RoadUse| {
        let transport = KeyValue::new("transport", transport);
        transfers.add(moved.transfers, std::slice::from_ref(&transport));
        let directions = [
            ("received", moved.received_bytes),
            ("sent", moved.sent_bytes),
        ];
        for (direction, count) in directions {
            let direction = KeyValue::new("direction", direction);
            bytes.add(count, &[transport.clone(), direction]);
        }
    };
    count("grpc", &roads.grpc);
    count("rdma", &roads.rdma);
    counter(&meter, FALLBACKS).add(roads.fallbacks, &[]);
    once.send(patience).await?;
    Ok(true)
}
