//! The configuration of who may do what.

use clap::Args;
use serde::Deserialize;

use super::Layers;
use crate::failure::Failure;

/// The keys of who may do what: flags of `zako serve`, and the table `[access]` of `zako.toml`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct AccessKeys {}

/// What is configured of who may do what.
#[derive(Clone, Debug)]
pub(crate) struct AccessConfig {}

impl AccessConfig {
    /// The flags' names: a variable is named for its flag.
    pub(super) const KEYS: &[&str] = &[];

    /// # Errors
    /// A variable's value can't be read.
    pub(crate) fn resolve(_flags: AccessKeys, layers: &Layers<'_>) -> Result<Self, Failure> {
        let _file = layers.file().access().clone();
        Ok(Self {})
    }
}
