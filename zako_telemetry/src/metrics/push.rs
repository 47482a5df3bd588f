//! Sending metrics by OTLP, again and again.
//!
//! A task of our own collects and sends, and not the SDK's thread: the exporters need a
//! runtime, and the figures of a store are asked for asynchronously.

use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry_otlp::{
    MetricExporter, Protocol as OtlpProtocol, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, ManualReader, Pipeline, Temporality};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::metadata::{MetadataKey, MetadataMap};

use super::gauges::Sources;
use crate::{Environment, ExportRuntime, Protocol, Target, TelemetryError, secure};

/// The task that sends.
#[derive(Debug)]
pub(super) struct Push {
    /// Dropped to have the last ones sent.
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
    /// What it runs on.
    _runtime: ExportRuntime,
}

/// What sends, and what it reads by.
pub(super) struct Once {
    exporter: MetricExporter,
    reader: Reader,
    runtime: ExportRuntime,
}

/// A reader that the provider and the task share.
#[derive(Clone, Debug)]
pub(super) struct Reader(Arc<ManualReader>);

/// How often metrics are sent if nobody says; the specification's.
const INTERVAL: Duration = Duration::from_secs(60);

const INTERVAL_VARIABLE: &str = "OTEL_METRIC_EXPORT_INTERVAL";

impl Push {
    /// Sends to `target` from now on.
    ///
    /// # Errors
    /// The exporter refuses what is configured; there are no more threads.
    pub(super) fn start(
        target: &Target,
        interval: Duration,
        sources: Arc<Sources>,
    ) -> Result<(Self, Reader), TelemetryError> {
        let (once, reader) = Once::new(target)?;
        let (stop, stopped) = oneshot::channel();
        let sending = send(once.exporter, once.reader, sources, interval, stopped);
        let push = Self {
            stop,
            ended: once.runtime.handle().spawn(sending),
            _runtime: once.runtime,
        };
        Ok((push, reader))
    }

    /// Sends once more and ends, in `patience`.
    pub(super) async fn end(self, patience: Duration) {
        drop(self.stop);
        if tokio::time::timeout(patience, self.ended).await.is_err() {
            tracing::warn!("the last metrics could not be sent in time");
        }
    }
}

impl Once {
    /// To `target`, and what the provider reads by.
    ///
    /// # Errors
    /// The exporter refuses what is configured; there are no more threads.
    pub(super) fn new(target: &Target) -> Result<(Self, Reader), TelemetryError> {
        let runtime = ExportRuntime::start()?;
        // Exporters take the runtime that they are made on.
        let exporter = {
            let _guard = runtime.handle().enter();
            exporter(target)?
        };
        let reader = ManualReader::builder().with_temporality(exporter.temporality());
        let reader = Reader(Arc::new(reader.build()));
        let once = Self {
            exporter,
            reader: reader.clone(),
            runtime,
        };
        Ok((once, reader))
    }

    /// Sends what has been measured.
    ///
    /// # Errors
    /// It was not taken, or not in time.
    pub(super) async fn send(self, patience: Duration) -> Result<(), TelemetryError> {
        let Self {
            exporter,
            reader,
            runtime,
        } = self;
        let sending = runtime.handle().spawn(async move {
            let mut metrics = ResourceMetrics::default();
            reader.collect(&mut metrics)?;
            exporter.export(&metrics).await
        });
        let broken = |what: &dyn std::fmt::Display| TelemetryError::Exporter(what.to_string());
        match tokio::time::timeout(patience, sending).await {
            Ok(Ok(sent)) => sent.map_err(|error| broken(&error)),
            Ok(Err(error)) => Err(broken(&error)),
            Err(late) => Err(broken(&late)),
        }
    }
}

/// How often metrics are sent, by the standard variable.
///
/// # Errors
/// The variable can't be read.
pub(super) fn interval(environment: Environment<'_>) -> Result<Duration, TelemetryError> {
    let Some(text) = environment(INTERVAL_VARIABLE).filter(|text| !text.trim().is_empty()) else {
        return Ok(INTERVAL);
    };
    match text.trim().parse() {
        Ok(milliseconds @ 1..) => Ok(Duration::from_millis(milliseconds)),
        _ => Err(TelemetryError::variable(
            INTERVAL_VARIABLE,
            format!("{text:?} is no number of ms"),
        )),
    }
}

async fn send(
    exporter: MetricExporter,
    reader: Reader,
    sources: Arc<Sources>,
    interval: Duration,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut is_failing = false;
    loop {
        let is_last = tokio::select! {
            _ = &mut stopped => true,
            () = tokio::time::sleep(interval) => false,
        };
        sources.refresh().await;
        let mut metrics = ResourceMetrics::default();
        let sent = match reader.collect(&mut metrics) {
            Ok(()) => exporter.export(&metrics).await,
            Err(error) => Err(error),
        };
        match sent {
            Ok(()) => is_failing = false,
            Err(error) if is_failing => tracing::debug!(%error, "metrics can't be sent"),
            Err(error) => {
                is_failing = true;
                tracing::warn!(%error, "metrics can't be sent");
            }
        }
        if is_last {
            return;
        }
    }
}

fn exporter(target: &Target) -> Result<MetricExporter, TelemetryError> {
    let builder = MetricExporter::builder();
    let built = match target.protocol {
        Protocol::Grpc => {
            let mut builder = builder
                .with_tonic()
                .with_endpoint(&target.endpoint)
                .with_timeout(target.timeout)
                .with_metadata(metadata(target));
            if let Some(channel) = secure::channel(target)? {
                builder = builder.with_channel(channel);
            }
            builder.build()
        }
        Protocol::HttpProtobuf => {
            let headers = target.headers.iter();
            let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let mut builder = builder
                .with_http()
                .with_protocol(OtlpProtocol::HttpBinary)
                .with_endpoint(&target.endpoint)
                .with_timeout(target.timeout)
                .with_headers(headers.collect());
            if let Some(client) = secure::http_client(target)? {
                builder = builder.with_http_client(client);
            }
            builder.build()
        }
    };
    built.map_err(|error| TelemetryError::Exporter(error.to_string()))
}

fn metadata(target: &Target) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    for (name, value) in target.headers.iter() {
        if let (Ok(name), Ok(value)) = (MetadataKey::from_bytes(name.as_bytes()), value.parse()) {
            metadata.insert::<MetadataKey<_>>(name, value);
        }
    }
    metadata
}

impl MetricReader for Reader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}
