//! Traces: spans of `tracing` that are exported by OTLP.
//!
//! Whether a trace is recorded is decided before its first span is made
//! ([`Sampler`]); what isn't recorded makes no spans at all.

mod export;
mod filter;
mod gate;
mod propagate;
mod sampler;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::{SpanId, TraceId, TracerProvider};
use opentelemetry_otlp::{
    Protocol as OtlpProtocol, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, IdGenerator, RandomIdGenerator, Sampler as SdkSampler, SdkTracerProvider,
};
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;
use zako_core::observe::trace as hook;

pub use gate::TraceGate;
pub use sampler::{Ratio, Sampler};

use self::export::{Account, Counting, Remote};
use self::filter::OfTraces;
use self::propagate::Carrier;
use crate::{
    Environment, ExportRuntime, OtlpOptions, Protocol, Signal, Target, TelemetryError, resource,
    secure,
};

/// How traces are made.
#[derive(Clone, Debug)]
pub struct TraceOptions {
    /// Where they go.
    pub otlp: OtlpOptions,
    /// Of the traces that begin here; `OTEL_TRACES_SAMPLER` decides if it isn't there.
    pub ratio: Option<Ratio>,
    /// What this process is called if nobody says otherwise.
    pub default_name: &'static str,
    /// Losses are said as they happen, by a process that lives long; else in the end.
    pub talks: bool,
}

/// Traces of this process. [`shutdown`](Self::shutdown) sends the last ones.
pub struct Traces {
    provider: SdkTracerProvider,
    carrier: parking_lot::Mutex<Option<Carrier>>,
    account: Arc<Account>,
    /// Without its secrets.
    place: String,
    _runtime: ExportRuntime,
}

/// Numbers of traces that are recorded.
#[derive(Debug)]
struct Numbers {
    sampler: Sampler,
    random: RandomIdGenerator,
}

/// What the specification gives the queue of spans, and a batch of them.
const QUEUE: u64 = 2048;
const BATCH: u64 = 512;

impl Traces {
    /// Sets traces up, if somebody asks for them. None are made before
    /// [`install`](Self::install).
    ///
    /// # Errors
    /// What is configured or in the variables can't be used.
    pub fn start(
        options: &TraceOptions,
        environment: Environment<'_>,
    ) -> Result<Option<Self>, TelemetryError> {
        let Some(target) = options.otlp.target(Signal::Traces, environment)? else {
            return Ok(None);
        };
        let sampler = match (options.ratio, Sampler::of_variables(environment)?) {
            (Some(ratio), _) => Sampler::parent_based(ratio),
            (None, Some(sampler)) => sampler,
            (None, None) => Sampler::parent_based(Ratio::ALL),
        };
        let runtime = ExportRuntime::start()?;
        let account = Arc::new(Account::default());
        let handle = runtime.handle().clone();
        let exporter = {
            // Its connection lives on that runtime.
            let _entered = handle.enter();
            exporter(&target)?
        };
        let read = |name, default| {
            let text = environment(name);
            text.and_then(|text| text.trim().parse().ok())
                .unwrap_or(default)
        };
        let bound =
            read("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE) + read("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH);
        let remote = Remote::new(
            exporter,
            handle,
            target.timeout,
            Arc::clone(&account),
            bound,
            options.talks,
        );
        let processor = Counting {
            queue: BatchSpanProcessor::builder(remote).build(),
            account: Arc::clone(&account),
        };
        let service = options.otlp.service_name.as_deref();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            // It was decided before.
            .with_sampler(SdkSampler::AlwaysOn)
            .with_id_generator(Numbers {
                sampler,
                random: RandomIdGenerator::default(),
            })
            .with_resource(resource(service, options.default_name))
            .build();
        let carrier = Carrier {
            sampler,
            travels: travels(environment),
            format: TraceContextPropagator::new(),
        };
        Ok(Some(Self {
            provider,
            carrier: parking_lot::Mutex::new(Some(carrier)),
            account,
            place: place(&target.endpoint),
            _runtime: runtime,
        }))
    }

    /// The layer that exports the spans of traces, with its filter. Above it belongs a
    /// [`TraceGate`].
    pub fn layer<S>(&self) -> Box<dyn Layer<S> + Send + Sync>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        let tracer = self.provider.tracer("zako");
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(OfTraces)
            .boxed()
    }

    /// From here on spans are made: the subscriber with the layer is in place.
    pub fn install(&self) {
        if let Some(carrier) = self.carrier.lock().take() {
            hook::install(Box::new(carrier));
        }
        tracing::debug!(collector = %self.place, "traces are exported");
    }

    /// Sends what is left, for so long at most. Says what was lost.
    pub fn shutdown(&self, bound: Duration) {
        let outcome = self.provider.shutdown_with_timeout(bound);
        let dropped = self.account.lost();
        if dropped == 0 {
            return;
        }
        let reason = self.account.last_error();
        let reason = reason.or_else(|| outcome.err().map(|error| error.to_string()));
        let reason = reason.unwrap_or_else(|| "the queue was full".to_owned());
        tracing::warn!(dropped, collector = %self.place, %reason, "spans were lost");
    }
}

fn exporter(target: &Target) -> Result<SpanExporter, TelemetryError> {
    let built = match target.protocol {
        Protocol::Grpc => {
            let mut metadata = tonic::metadata::MetadataMap::new();
            for (name, value) in target.headers.iter() {
                let name = tonic::metadata::MetadataKey::from_bytes(name.as_bytes());
                let value = value.parse();
                if let (Ok(name), Ok(value)) = (name, value) {
                    metadata.insert::<tonic::metadata::MetadataKey<_>>(name, value);
                }
            }
            let mut builder = SpanExporter::builder()
                .with_tonic()
                .with_endpoint(&target.endpoint)
                .with_timeout(target.timeout)
                .with_metadata(metadata);
            if let Some(channel) = secure::channel(target)? {
                builder = builder.with_channel(channel);
            }
            builder.build()
        }
        Protocol::HttpProtobuf => {
            let headers = target.headers.iter();
            let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let mut builder = SpanExporter::builder()
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

/// Whether `OTEL_PROPAGATORS` has the one that is known here; it is the default.
fn travels(environment: Environment<'_>) -> bool {
    let told = environment("OTEL_PROPAGATORS").filter(|text| !text.trim().is_empty());
    told.is_none_or(|text| text.split(',').any(|one| one.trim() == "tracecontext"))
}

/// An address without what may be a password in it.
fn place(endpoint: &str) -> String {
    match endpoint.split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.split('/').next().unwrap_or_default();
            let host = host.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}")
        }
        None => String::new(),
    }
}

impl IdGenerator for Numbers {
    fn new_trace_id(&self) -> TraceId {
        self.sampler.new_trace_id()
    }

    fn new_span_id(&self) -> SpanId {
        self.random.new_span_id()
    }
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(place("http://u:s3cret@c:4318/v1"), "http://c:4318");
        assert_eq!(place("http://c:4317"), "http://c:4317");
    }

    #[test]
    fn propagators() {
        let of = |text: &'static str| travels(&|_| Some(text.to_owned()));
        assert!(of("") && of("tracecontext,baggage"));
        assert!(!of("none") && !of("b3"));
    }
}
