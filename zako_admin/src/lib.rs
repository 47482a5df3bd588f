//! The port by which operators watch a server: health, metrics and a status page.
//!
//! | path | what it is |
//! | --- | --- |
//! | `/` | the status page, for a person |
//! | `/status.json` | the same figures, for machines |
//! | `/metrics` | Prometheus text, given by a [`MetricsText`] |
//! | `/healthz` | 200 while the process works |
//! | `/readyz` | 200 while the server takes calls, else 503 with the reason |
//!
//! The port is there before the store is open and stays until all else has ended; what it
//! tells about comes and goes behind its [`AdminHandle`].

mod events;
mod metrics;
mod page;
mod port;
mod readiness;
mod recorder;
mod status;
mod timestamp;

pub use events::RecentEvents;
pub use metrics::MetricsText;
pub use port::{AdminHandle, AdminOptions, AdminServer};
pub use readiness::{Readiness, State};
pub use recorder::Recorder;
pub use status::Fact;
