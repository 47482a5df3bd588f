//! What a server counts of itself.

use std::sync::Arc;

use zako_core::observe::Observer;
use zako_core::server::FiguresReader;
use zako_core::store::LocalStore;
use zako_telemetry::Metrics;

use crate::failure::{Exit, Failure};

/// Metrics that nothing is known of yet.
///
/// # Errors
/// They can't be set up.
pub(super) fn metrics() -> Result<Metrics, Failure> {
    Metrics::new().map_err(|error| Failure::new(Exit::Failed, error.to_string()))
}

/// Who is told of all that happens in the server and its store.
pub(super) fn observer(metrics: &Metrics) -> Arc<dyn Observer> {
    Arc::new(metrics.clone())
}

/// Has the gauges of the server and its store read.
pub(super) fn watch(metrics: &Metrics, server: FiguresReader, store: &LocalStore) {
    metrics.watch_server(server);
    metrics.watch_store(Arc::new(store.clone()));
}
