//! The configuration of the admin port.

use clap::Args;
use serde::Deserialize;

use super::Layers;
use crate::failure::Failure;

/// The keys of the admin port: flags of `zako serve`, and the table `[admin]` of `zako.toml`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct AdminKeys {}

/// What is configured of the admin port.
#[derive(Clone, Debug)]
pub(crate) struct AdminConfig {}

impl AdminConfig {
    /// The flags' names: a variable is named for its flag.
    pub(super) const KEYS: &[&str] = &[];

    /// # Errors
    /// A variable's value can't be read.
    pub(crate) fn resolve(_flags: AdminKeys, layers: &Layers<'_>) -> Result<Self, Failure> {
        let _file = layers.file().admin().clone();
        Ok(Self {})
    }
}
