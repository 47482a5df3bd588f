//! The configuration of the verbs that talk to a server.

use std::fmt;
use std::str::FromStr;

use clap::Args;
use serde::Deserialize;
use zako_core::client::ServerUrl;

use super::layers::from_text;
use super::{DeviceChoice, Layers, Setting};
use crate::failure::Failure;

/// The client's keys: flags, and the table `[client]` of `zako.toml`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct ClientKeys {
    /// The server: http://HOST:PORT or unix:/PATH
    /// [env: ZAKO_SERVER] [default: http://127.0.0.1:7420]
    #[arg(long, value_name = "URL", help_heading = "Server")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) server: Option<ServerUrl>,

    /// How bytes travel: auto (RDMA where both ends have it, else gRPC), grpc, or rdma
    /// (fail where it can't be had) [env: ZAKO_TRANSPORT] [default: auto]
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) transport: Option<TransportChoice>,

    /// This machine's RDMA device: auto (the best one), or `DEVICE[:PORT[:GID_INDEX]]` as
    /// `zako rdma devices` lists them [env: ZAKO_RDMA_DEVICE] [default: auto]
    #[arg(long, value_name = "DEVICE", help_heading = "Server")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) rdma_device: Option<DeviceChoice>,
}

/// How bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransportChoice {
    Auto,
    Grpc,
    Rdma,
}

/// The client's configuration.
#[derive(Clone, Debug)]
pub(crate) struct ClientConfig {
    pub(crate) server: Setting<ServerUrl>,
    pub(crate) transport: Setting<TransportChoice>,
    pub(crate) rdma_device: Setting<DeviceChoice>,
}

impl ClientConfig {
    pub(super) const KEYS: &[&str] = &["server", "transport", "rdma-device"];

    /// # Errors
    /// A variable's value can't be read.
    pub(crate) fn resolve(flags: ClientKeys, layers: &Layers<'_>) -> Result<Self, Failure> {
        let file = layers.file().client().clone();
        Ok(Self {
            server: layers.pick("server", flags.server, file.server, ServerUrl::default())?,
            transport: layers.pick(
                "transport",
                flags.transport,
                file.transport,
                TransportChoice::Auto,
            )?,
            rdma_device: layers.pick(
                "rdma-device",
                flags.rdma_device,
                file.rdma_device,
                DeviceChoice::default(),
            )?,
        })
    }
}

impl FromStr for TransportChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "grpc" => Ok(Self::Grpc),
            "rdma" => Ok(Self::Rdma),
            _ => Err(format!(
                "{text:?} is not a transport: write auto, grpc or rdma"
            )),
        }
    }
}

impl fmt::Display for TransportChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Grpc => "grpc",
            Self::Rdma => "rdma",
        })
    }
}
