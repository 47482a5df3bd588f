//! What a server is run with.

use super::ServeArgs;
use crate::config::{
    AccessConfig, AdminConfig, Layers, LimitsConfig, ServerConfig, TelemetryConfig, TlsConfig,
};
use crate::failure::Failure;

/// All tables that a server minds.
#[derive(Debug)]
pub(super) struct Configured {
    pub(super) server: ServerConfig,
    pub(super) admin: AdminConfig,
    pub(super) tls: TlsConfig,
    pub(super) access: AccessConfig,
    pub(super) limits: LimitsConfig,
    pub(super) telemetry: TelemetryConfig,
}

impl Configured {
    /// # Errors
    /// A value can't be read, or makes no sense.
    pub(super) fn resolve(args: ServeArgs, layers: &Layers<'_>) -> Result<Self, Failure> {
        Ok(Self {
            server: ServerConfig::resolve(args.server, layers)?,
            admin: AdminConfig::resolve(args.admin, layers)?,
            tls: TlsConfig::resolve(args.tls, layers)?,
            access: AccessConfig::resolve(args.access, layers)?,
            limits: LimitsConfig::resolve(args.limits, layers)?,
            telemetry: TelemetryConfig::resolve(args.telemetry, layers)?,
        })
    }
}
