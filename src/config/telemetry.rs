//! The configuration of traces and metrics.

use clap::Args;
use serde::Deserialize;

use super::Layers;
use crate::failure::Failure;

/// The keys of traces and metrics: flags of `zako serve`, and the table `[telemetry]` of `zako.toml`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct TelemetryKeys {}

/// What is configured of traces and metrics.
#[derive(Clone, Debug)]
pub(crate) struct TelemetryConfig {}

impl TelemetryConfig {
    /// The flags' names: a variable is named for its flag.
    pub(super) const KEYS: &[&str] = &[];

    /// # Errors
    /// A variable's value can't be read.
    pub(crate) fn resolve(_flags: TelemetryKeys, layers: &Layers<'_>) -> Result<Self, Failure> {
        let _file = layers.file().telemetry().clone();
        Ok(Self {})
    }
}
