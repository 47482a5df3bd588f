//! The configuration of TLS.

use clap::Args;
use serde::Deserialize;

use super::Layers;
use crate::failure::Failure;

/// The keys of TLS: flags of `zako serve`, and the table `[tls]` of `zako.toml`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct TlsKeys {}

/// What is configured of TLS.
#[derive(Clone, Debug)]
pub(crate) struct TlsConfig {}

impl TlsConfig {
    /// The flags' names: a variable is named for its flag.
    pub(super) const KEYS: &[&str] = &[];

    /// # Errors
    /// A variable's value can't be read.
    pub(crate) fn resolve(_flags: TlsKeys, layers: &Layers<'_>) -> Result<Self, Failure> {
        let _file = layers.file().tls().clone();
        Ok(Self {})
    }
}
