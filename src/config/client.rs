//! The configuration of the verbs that talk to a server.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use serde::Deserialize;
use zako_core::client::ServerUrl;

use super::choices::FilePath;
use super::layers::from_text;
use super::{DeviceChoice, Layers, Setting};
use crate::failure::Failure;

/// The client's keys: flags, and the table `[client]` of `zako.toml`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct ClientKeys {
    /// The server: http://HOST:PORT, https://HOST:PORT (TLS) or unix:/PATH
    /// [env: ZAKO_SERVER] [default: http://127.0.0.1:7420]
    #[arg(long, value_name = "URL", help_heading = "Server")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) server: Option<ServerUrl>,

    /// How bytes travel: auto (RDMA where both ends have it, else gRPC), grpc, or rdma
    /// (fail where it can't be had) [env: ZAKO_TRANSPORT] [default: auto]
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) transport: Option<TransportChoice>,

    /// The authorities to trust instead of this machine's when a server shows its
    /// certificate (https://), in PEM [env: ZAKO_TLS_CA] [default: none]
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub(crate) tls_ca: Option<PathBuf>,

    /// The name that the server's certificate must have, where it isn't that of the URL
    /// [env: ZAKO_TLS_SERVER_NAME] [default: none]
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    pub(crate) tls_server_name: Option<String>,

    /// A certificate to show to servers that want to see one, in PEM
    /// [env: ZAKO_CLIENT_CERT] [default: none]
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub(crate) client_cert: Option<PathBuf>,

    /// That certificate's private key, in PEM [env: ZAKO_CLIENT_KEY] [default: none]
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub(crate) client_key: Option<PathBuf>,

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
    pub(crate) tls_ca: Setting<Option<FilePath>>,
    pub(crate) tls_server_name: Setting<Option<String>>,
    pub(crate) client_cert: Setting<Option<FilePath>>,
    pub(crate) client_key: Setting<Option<FilePath>>,
}

impl ClientKeys {
    /// Takes relative paths for neighbours of the file that has them.
    pub(super) fn beside(&mut self, folder: &Path) {
        for path in [
            &mut self.tls_ca,
            &mut self.client_cert,
            &mut self.client_key,
        ]
        .into_iter()
        .flatten()
        {
            *path = folder.join(&path);
        }
    }
}

impl ClientConfig {
    pub(super) const KEYS: &[&str] = &[
        "server",
        "transport",
        "rdma-device",
        "tls-ca",
        "tls-server-name",
        "client-cert",
        "client-key",
    ];

    /// # Errors
    /// A variable's value can't be read.
    pub(crate) fn resolve(flags: ClientKeys, layers: &Layers<'_>) -> Result<Self, Failure> {
        let file = layers.file().client().clone();
        let path = |key, flag: Option<PathBuf>, file: Option<PathBuf>| {
            layers.pick_optional(key, flag.map(FilePath), file.map(FilePath))
        };
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
            tls_ca: path("tls-ca", flags.tls_ca, file.tls_ca)?,
            tls_server_name: layers.pick_optional(
                "tls-server-name",
                flags.tls_server_name,
                file.tls_server_name,
            )?,
            client_cert: path("client-cert", flags.client_cert, file.client_cert)?,
            client_key: path("client-key", flags.client_key, file.client_key)?,
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
