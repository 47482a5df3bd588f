//! The configuration of TLS.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;

use super::choices::{ClientAuthChoice, FilePath};
use super::layers::from_text;
use super::{Layers, Setting};
use crate::failure::Failure;

/// The keys of TLS: flags of `zako serve`, and the table `[tls]` of `zako.toml`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct TlsKeys {
    /// The certificate that this server shows, in PEM, with those that lead to a
    /// well-known authority behind it: who connects over TCP has to use TLS. Read again on
    /// SIGHUP and when the file changes [env: ZAKO_TLS_CERT] [default: none]
    #[arg(long = "tls-cert", value_name = "FILE", help_heading = "TLS")]
    pub(crate) cert: Option<PathBuf>,

    /// The certificate's private key, in PEM [env: ZAKO_TLS_KEY] [default: none]
    #[arg(long = "tls-key", value_name = "FILE", help_heading = "TLS")]
    pub(crate) key: Option<PathBuf>,

    /// The authorities that clients' certificates are from, in PEM
    /// [env: ZAKO_TLS_CLIENT_CA] [default: none]
    #[arg(long = "tls-client-ca", value_name = "FILE", help_heading = "TLS")]
    pub(crate) client_ca: Option<PathBuf>,

    /// Whether clients need a certificate of --tls-client-ca: required, or optional
    /// [env: ZAKO_TLS_CLIENT_AUTH] [default: required]
    #[arg(long = "tls-client-auth", value_name = "HOW", help_heading = "TLS")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) client_auth: Option<ClientAuthChoice>,

    /// Whether other addresses than loopback may be listened on without TLS, in a network
    /// where everyone may see and change what moves
    /// [env: ZAKO_TLS_ALLOW_PLAINTEXT] [default: false]
    #[arg(
        long = "tls-allow-plaintext",
        alias = "allow-plaintext",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "TLS"
    )]
    pub(crate) allow_plaintext: Option<bool>,
}

/// What is configured of TLS.
#[derive(Clone, Debug)]
pub(crate) struct TlsConfig {
    pub(crate) cert: Setting<Option<FilePath>>,
    pub(crate) key: Setting<Option<FilePath>>,
    pub(crate) client_ca: Setting<Option<FilePath>>,
    pub(crate) client_auth: Setting<ClientAuthChoice>,
    pub(crate) allow_plaintext: Setting<bool>,
}

impl TlsKeys {
    /// Takes relative paths for neighbours of the file that has them.
    pub(super) fn beside(&mut self, folder: &Path) {
        for path in [&mut self.cert, &mut self.key, &mut self.client_ca]
            .into_iter()
            .flatten()
        {
            *path = folder.join(&path);
        }
    }
}

impl TlsConfig {
    /// The flags' names: a variable is named for its flag.
    pub(super) const KEYS: &[&str] = &[
        "tls-cert",
        "tls-key",
        "tls-client-ca",
        "tls-client-auth",
        "tls-allow-plaintext",
    ];

    /// # Errors
    /// A variable's value can't be read.
    pub(crate) fn resolve(flags: TlsKeys, layers: &Layers<'_>) -> Result<Self, Failure> {
        let file = layers.file().tls().clone();
        let path = |key, flag: Option<PathBuf>, file: Option<PathBuf>| {
            layers.pick_optional(key, flag.map(FilePath), file.map(FilePath))
        };
        Ok(Self {
            cert: path("tls-cert", flags.cert, file.cert)?,
            key: path("tls-key", flags.key, file.key)?,
            client_ca: path("tls-client-ca", flags.client_ca, file.client_ca)?,
            client_auth: layers.pick(
                "tls-client-auth",
                flags.client_auth,
                file.client_auth,
                ClientAuthChoice::Required,
            )?,
            allow_plaintext: layers.pick(
                "tls-allow-plaintext",
                flags.allow_plaintext,
                file.allow_plaintext,
                false,
            )?,
        })
    }
}
