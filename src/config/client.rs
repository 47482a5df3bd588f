//! The configuration of the verbs that talk to a server.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use serde::Deserialize;
use zako_core::access::Secret;
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

    /// The file with the token that shows the server who this is. Or the variable
    /// ZAKO_TOKEN has the token itself [env: ZAKO_TOKEN_FILE] [default: none]
    /// [example: /etc/zako/token]
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) token_file: Option<TokenFile>,

    /// Whether the token may be sent over a network without TLS
    /// [env: ZAKO_ALLOW_PLAINTEXT_TOKEN] [default: false]
    #[arg(long, value_name = "BOOL", help_heading = "Server", num_args = 0..=1, default_missing_value = "true")]
    pub(crate) allow_plaintext_token: Option<bool>,

    /// The namespace to work in, where roles depend on it
    /// [env: ZAKO_NAMESPACE] [default: none] [example: main]
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) namespace: Option<Namespace>,
}

/// The file with a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenFile(pub(crate) PathBuf);

/// A token, which is not shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token(pub(crate) Secret);

/// The name of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Namespace(pub(crate) String);

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
    pub(crate) token: Setting<Option<Token>>,
    pub(crate) token_file: Setting<Option<TokenFile>>,
    pub(crate) allow_plaintext_token: Setting<bool>,
    pub(crate) namespace: Setting<Option<Namespace>>,
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
        if let Some(TokenFile(path)) = &mut self.token_file {
            *path = folder.join(&path);
        }
    }
}

impl ClientConfig {
    pub(super) const KEYS: &[&str] = &[
        "server",
        "transport",
        "rdma-device",
        "token",
        "token-file",
        "allow-plaintext-token",
        "namespace",
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
            // All processes of a machine see the flags of each other: a token is none.
            token: layers.pick_optional("token", None, None)?,
            token_file: layers.pick_optional("token-file", flags.token_file, file.token_file)?,
            allow_plaintext_token: layers.pick(
                "allow-plaintext-token",
                flags.allow_plaintext_token,
                file.allow_plaintext_token,
                false,
            )?,
            namespace: layers.pick_optional("namespace", flags.namespace, file.namespace)?,
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

impl FromStr for TokenFile {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.into()))
    }
}

impl fmt::Display for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

impl FromStr for Token {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(Secret::new(text)))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("set")
    }
}

impl FromStr for Namespace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_good = text.len() <= 256 && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        match is_good {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "{text:?} is no namespace: it has at most 256 visible ASCII characters"
            )),
        }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
