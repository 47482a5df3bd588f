//! What a server tells of itself to those who run it: traces and metrics, by
//! OpenTelemetry.

mod error;
mod metrics;
mod otlp;
mod resource;
mod runtime;

pub use error::TelemetryError;
pub use metrics::{CATALOG, Kind, Metrics, MetricsError, Spec};
pub use otlp::{Environment, Headers, OtlpOptions, Protocol, Signal, Target, process_environment};
pub use resource::resource;
pub use runtime::ExportRuntime;
