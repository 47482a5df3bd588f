//! The configuration of what callers may use of the server.

use clap::Args;
use serde::Deserialize;

use super::Layers;
use crate::failure::Failure;

/// The keys of what callers may use of the server: flags of `zako serve`, and the table `[limits]` of `zako.toml`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct LimitsKeys {}

/// What is configured of what callers may use of the server.
#[derive(Clone, Debug)]
pub(crate) struct LimitsConfig {}

impl LimitsConfig {
    /// The flags' names: a variable is named for its flag.
    pub(super) const KEYS: &[&str] = &[];

    /// # Errors
    /// A variable's value can't be read.
    pub(crate) fn resolve(_flags: LimitsKeys, layers: &Layers<'_>) -> Result<Self, Failure> {
        let _file = layers.file().limits().clone();
        Ok(Self {})
    }
}
