//! What keeps telemetry from being set up.

use std::fmt;

use thiserror::Error;

/// What keeps telemetry from being set up.
#[non_exhaustive]
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// A standard variable has a value that can't be read.
    #[error("the variable {name}: {reason}")]
    Variable {
        /// Which.
        name: String,
        /// Why.
        reason: String,
    },
    /// What is no address of a collector.
    #[error("{0:?} is no address of a collector: write it as http://host:4317")]
    Endpoint(String),
    /// The exporter refuses what is configured.
    #[error("the exporter of OTLP: {0}")]
    Exporter(String),
    /// Threads can't be started.
    #[error("starting a thread for telemetry")]
    Thread(#[source] std::io::Error),
}

impl TelemetryError {
    /// A variable that can't be read.
    pub(crate) fn variable(name: &str, reason: impl fmt::Display) -> Self {
        Self::Variable {
            name: name.to_owned(),
            reason: reason.to_string(),
        }
    }
}
