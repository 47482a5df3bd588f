//! Metrics by OpenTelemetry: what happens is counted as it is told, what there is is
//! read when somebody asks.

mod calls;
mod catalog;
mod gauges;
mod instrument;
mod process;
mod store;

use std::fmt;
use std::sync::Arc;

use opentelemetry::InstrumentationScope;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder};
use zako_core::cas::Maintain;
use zako_core::observe::{CallEnd, Corruption, Eviction, GroupCommit, Interface, Lookup, Observer};
use zako_core::server::FiguresReader;

pub use catalog::{CATALOG, Kind, Spec};

use self::calls::Calls;
use self::gauges::Sources;
use self::store::Events;

/// The metrics of a server. It is told what happens as an
/// [`Observer`], and reads what there is from the server and the store that it is given.
///
/// Cheap to clone; all clones are the same metrics.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    calls: Calls,
    events: Events,
    sources: Arc<Sources>,
    registry: Registry,
    provider: SdkMeterProvider,
}

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
#[error("metrics can't be set up")]
pub struct MetricsError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl Metrics {
    /// What [`prometheus`](Self::prometheus) gives, as a `Content-Type`.
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// Metrics that nothing is known of yet.
    ///
    /// # Errors
    /// [`MetricsError`] if the exporter can't be set up.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .build()
            .map_err(|error| MetricsError(error.into()))?;
        let resource = Resource::builder().with_service_name("zako").build();
        let provider = SdkMeterProvider::builder()
            .with_resource(resource)
            .with_reader(exporter)
            .build();
        let scope = InstrumentationScope::builder("zako")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        let meter = provider.meter_with_scope(scope);
        let sources = Arc::new(Sources::default());
        gauges::register(&meter, &sources);
        Ok(Self(Arc::new(Inner {
            calls: Calls::new(&meter),
            events: Events::new(&meter),
            sources,
            registry,
            provider,
        })))
    }

    /// Reads the figures of this server from now on.
    pub fn watch_server(&self, server: FiguresReader) {
        self.0.sources.set_server(server);
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

    /// Lets go of the server and the store, and measures no more.
    pub fn end(&self) {
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

    fn committed(&self, commit: &GroupCommit) {
        self.0.events.committed(commit);
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
