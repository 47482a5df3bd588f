//! What is in force, and where each value comes from.

use std::fmt;

use serde::Serialize;

use super::layers::Entry;
use super::{
    AccessConfig, AccessKeys, AdminConfig, AdminKeys, ClientConfig, ClientKeys, Layers,
    LimitsConfig, LimitsKeys, ServerConfig, ServerKeys, TelemetryConfig, TelemetryKeys, TlsConfig,
    TlsKeys, catalog,
};
use crate::failure::Failure;

/// A value in force.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    table: &'static str,
    key: &'static str,
    value: String,
    from: String,
}

/// Asks for every setting that is there, with no flags.
///
/// # Errors
/// A variable's value can't be read, or makes no sense.
pub(super) fn resolve_all(layers: &Layers<'_>) -> Result<(), Failure> {
    let outcomes = [
        ServerConfig::resolve(ServerKeys::default(), layers).map(drop),
        ClientConfig::resolve(ClientKeys::default(), layers).map(drop),
        AdminConfig::resolve(AdminKeys::default(), layers).map(drop),
        TlsConfig::resolve(TlsKeys::default(), layers).map(drop),
        AccessConfig::resolve(AccessKeys::default(), layers).map(drop),
        LimitsConfig::resolve(LimitsKeys::default(), layers).map(drop),
        TelemetryConfig::resolve(TelemetryKeys::default(), layers).map(drop),
    ];
    outcomes.into_iter().collect()
}

impl Shown {
    pub(super) fn new(entry: Entry) -> Self {
        let (table, key) = catalog::place(entry.flag).unwrap_or(("", entry.flag));
        Self {
            table,
            key,
            value: entry.value,
            from: entry.origin.to_string(),
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{}.{}", self.table, self.key);
        write!(f, "{name:<32} {:<32} ({})", self.value, self.from)
    }
}
