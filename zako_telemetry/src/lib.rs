//! What a server tells of itself to those who run it: traces and metrics, by
//! OpenTelemetry.

mod error;
mod metrics;
mod otlp;
mod resource;
mod runtime;
mod secure;
mod trace;

pub use error::TelemetryError;
pub use metrics::{CATALOG, Kind, Metrics, Spec, report_roads};
pub use otlp::{Environment, Headers, OtlpOptions, Protocol, Signal, Target, process_environment};
pub use resource::resource;
pub use runtime::ExportRuntime;
pub use trace::{Ratio, Sampler, TraceGate, TraceOptions, Traces};
