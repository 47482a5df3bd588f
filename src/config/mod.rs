//! What is configured and where each value comes from: a flag, a `ZAKO_*`
//! variable, `zako.toml`, or the default; in that order.

mod client;
mod file;
mod layers;
mod rdma;
mod server;

pub(crate) use client::{ClientConfig, ClientKeys, TransportChoice};
pub(crate) use file::ConfigFile;
pub(crate) use layers::{Layers, Origin, Setting, is_known_variable};
pub(crate) use rdma::{DeviceChoice, RdmaChoice, TrustedNetworks};
pub(crate) use server::{
    DurabilityChoice, MaintenanceChoice, ServerConfig, ServerKeys, VerifyChoice,
};
