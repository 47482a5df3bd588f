//! Metrics by OpenTelemetry: what happens is counted as it is told, what there is is
//! read when somebody asks.

mod calls;
mod catalog;
mod client;
mod gauges;
mod instrument;
mod process;
mod push;
mod rdma;
mod store;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::InstrumentationScope;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use parking_lot::Mutex;
use prometheus::{Registry, TextEncoder};
use zako_core::cas::Maintain;
use zako_core::observe::{
    CallEnd, Corruption, Eviction, GroupCommit, Interface, Lookup, Observer, RdmaEvent, Synced,
};
use zako_core::server::FiguresReader;

pub use catalog::{CATALOG, Kind, Spec};
pub use client::report_roads;

use self::calls::Calls;
use self::gauges::Sources;
use self::push::Push;
use self::rdma::RdmaEvents;
use self::store::Events;
use crate::{Environment, OtlpOptions, Signal, TelemetryError, resource};

/// The metrics of a server. It is told what happens as an
/// [`Observer`], and reads what there is from the server and the store that it is given.
///
/// Cheap to clone; all clones are the same metrics.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    calls: Calls,
    events: Events,
    rdma: RdmaEvents,
    sources: Arc<Sources>,
    registry: Registry,
    provider: SdkMeterProvider,
    push: Mutex<Option<Push>>,
}

/// The longest that the last export may take.
const LAST_EXPORT: Duration = Duration::from_secs(5);

impl Metrics {
    /// What [`prometheus`](Self::prometheus) gives, as a `Content-Type`.
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// Metrics that nothing is known of yet. They are sent by OTLP if the options or the
    /// variables ask for it, every minute or as `OTEL_METRIC_EXPORT_INTERVAL` says.
    ///
    /// # Errors
    /// A variable can't be read, an exporter can't be set up.
    pub fn new(otlp: &OtlpOptions, environment: Environment<'_>) -> Result<Self, TelemetryError> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .build()
            .map_err(|error| TelemetryError::Exporter(error.to_string()))?;
        let sources = Arc::new(Sources::new());
        let mut builder = SdkMeterProvider::builder()
            .with_resource(resource(otlp.service_name.as_deref(), "zako-server"))
            .with_reader(exporter);
        let mut push = None;
        if let Some(target) = otlp.target(Signal::Metrics, environment)? {
            let interval = push::interval(environment)?;
            let (task, reader) = Push::start(&target, interval, Arc::clone(&sources))?;
            builder = builder.with_reader(reader);
            push = Some(task);
        }
        let provider = builder.build();
        let scope = InstrumentationScope::builder("zako")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        let meter = provider.meter_with_scope(scope);
        gauges::register(&meter, &sources);
        Ok(Self(Arc::new(Inner {
            calls: Calls::new(&meter),
            events: Events::new(&meter),
            rdma: RdmaEvents::new(&meter),
            sources,
            registry,
            provider,
            push: Mutex::new(push),
        })))
    }

    /// Reads the figures of this server from now on.
    pub fn watch_server(&self, server: FiguresReader) {
        self.0.sources.set_server(server);
    }

    /// Asks this from now on when the certificate ends that the server shows at the moment.
    pub fn watch_certificate(&self, expires: impl Fn() -> SystemTime + Send + 'static) {
        self.0.sources.set_certificate(Box::new(expires));
    }

    /// Reads the usage of this store from now on. Keeps it until
    /// [`end`](Self::end).
    pub fn watch_store(&self, store: Arc<dyn Maintain>) {
        self.0.sources.set_store(store);
    }

    /// All metrics in the text format of Prometheus. Waits for no store that
    /// doesn't answer: its figures are left out, or those of before.
    pub async fn prometheus(&self) -> String {
        self.0.sources.refresh().await;
        let families = self.0.registry.gather();
        // Into a string it can't fail but for families without a name or a series,
        // which the exporter doesn't make.
        TextEncoder::new()
            .encode_to_string(&families)
            .unwrap_or_default()
    }

    /// Sends what is to be sent, and lets go of the server and the store.
    pub async fn end(&self) {
        let push = self.0.push.lock().take();
        if let Some(push) = push {
            push.end(LAST_EXPORT).await;
        }
        self.0.sources.clear();
        if let Err(error) = self.0.provider.shutdown() {
            tracing::debug!(%error, "metrics did not end well");
        }
    }
}

impl Observer for Metrics {
    fn call(&self, call: &CallEnd<'_>) {
        self.0.calls.ended(call);
    }

    fn lookup(&self, lookup: &Lookup) {
        self.0.calls.looked_up(lookup);
    }

    fn connected(&self, interface: Interface) {
        self.0.calls.connected(interface);
    }

    fn disconnected(&self, interface: Interface) {
        self.0.calls.disconnected(interface);
    }

    fn rdma(&self, event: RdmaEvent) {
        self.0.rdma.happened(event);
    }

    fn committed(&self, commit: &GroupCommit) {
        self.0.events.committed(commit);
    }

    fn synced(&self, what: Synced, took: Duration) {
        self.0.events.synced(what, took);
    }

    fn evicted(&self, eviction: &Eviction) {
        self.0.events.evicted(eviction);
    }

    fn corrupt(&self, corruption: &Corruption) {
        self.0.events.corrupt(corruption);
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
