//! What a server counts of itself.

use std::sync::Arc;

use zako_admin::Recorder;
use zako_core::observe::{Observer, Observers};
use zako_core::server::FiguresReader;
use zako_core::store::LocalStore;
use zako_telemetry::{Metrics, process_environment};

use super::tls::Tls;
use crate::config::TelemetryConfig;
use crate::failure::{Exit, Failure};

/// Metrics that nothing is known of yet.
///
/// # Errors
/// They can't be set up.
pub(super) fn metrics(config: &TelemetryConfig) -> Result<Metrics, Failure> {
    let is_told = |name: &str| process_environment(name).is_some_and(|text| !text.is_empty());
    let metrics = Metrics::new(&config.otlp(is_told), &process_environment);
    metrics.map_err(|error| Failure::new(Exit::Failed, error.to_string()))
}

/// Who is told of all that happens in the server and its store.
pub(super) fn observer(metrics: &Metrics, recorder: Option<Arc<Recorder>>) -> Arc<dyn Observer> {
    match recorder {
        Some(recorder) => Arc::new(Observers::new(vec![Arc::new(metrics.clone()), recorder])),
        None => Arc::new(metrics.clone()),
    }
}

/// Has the end of the certificate shown, of whichever is in force.
pub(super) fn watch_certificate(metrics: &Metrics, tls: &Tls) {
    let acceptor = tls.acceptor();
    metrics.watch_certificate(move || acceptor.validity().until);
}

/// Has the gauges of the server and its store read.
pub(super) fn watch(metrics: &Metrics, server: FiguresReader, store: &LocalStore) {
    metrics.watch_server(server);
    metrics.watch_store(Arc::new(store.clone()));
}
