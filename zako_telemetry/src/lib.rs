//! What a server tells of itself to those who run it: traces and metrics, by
//! OpenTelemetry.

mod metrics;

pub use metrics::{CATALOG, Kind, Metrics, MetricsError, Spec};
