//! What is configured and where each value comes from: a flag, a `ZAKO_*`
//! variable, `zako.toml`, or the default; in that order.

mod access;
mod admin;
mod catalog;
mod check;
mod choices;
mod client;
mod fault;
mod fields;
mod file;
mod layers;
mod limits;
mod port;
mod rdma;
mod server;
mod shown;
mod snapshot;
mod telemetry;
mod template;
mod tls;
mod verb;

pub(crate) use access::{AccessConfig, AccessKeys};
pub(crate) use admin::{AdminConfig, AdminKeys};
pub(crate) use choices::{
    ActionUpdatesChoice, ClientAuthChoice, DurabilityChoice, FilePath, MaintenanceChoice,
    VerifyChoice,
};
pub(crate) use client::{ClientConfig, ClientKeys, TransportChoice};
pub(crate) use file::ConfigFile;
pub(crate) use layers::{Layers, Ledger, Origin, Setting, is_known_variable};
pub(crate) use limits::{LimitsConfig, LimitsKeys};
pub(crate) use port::PortChoice;
pub(crate) use rdma::{DeviceChoice, RdmaChoice, TrustedNetworks};
pub(crate) use server::{ServerConfig, ServerKeys};
pub(crate) use snapshot::{Place, Snapshot};
pub(crate) use telemetry::{TelemetryConfig, TelemetryKeys};
pub(crate) use tls::{TlsConfig, TlsKeys};
pub(crate) use verb::{ConfigArgs, run};
