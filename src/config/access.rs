//! The configuration of who may do what.

use std::path::Path;

use clap::Args;
use serde::Deserialize;
use zako_access::{AccessRules, IdentityRule, JwtRule, Roles};

use super::{Layers, Origin, Setting};
use crate::failure::Failure;

/// The keys of who may do what: flags of `zako serve`, and the table `[access]` of `zako.toml`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct AccessKeys {
    /// What those may do who show no token and no certificate: none, read, write or admin.
    /// Without this and [[access.identity]] in zako.toml, everyone who can connect may do
    /// everything, but for what --maintenance says [env: ZAKO_ANONYMOUS] [default: none]
    #[arg(long, value_name = "ROLE", help_heading = "Access")]
    pub(crate) anonymous: Option<Roles>,

    /// Who is known, by what, and may do what.
    #[arg(skip)]
    pub(crate) identity: Vec<IdentityRule>,

    /// The JWTs that are taken.
    #[arg(skip)]
    pub(crate) jwt: Option<JwtRule>,
}

/// The keys without flags, for `zako config --default`.
pub(super) const EXAMPLE: &str = r##"
# Who is known, by what, and may do what. The roles are none, read, write and admin, each with
# those before it: one for all namespaces, or a table, of which the most specific entry counts.
# `zako access token` makes a token and these lines; hashes of tokens are no secret.
#[[access.identity]]
#name = "ci"
#token-sha256 = ["2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"]
# Client certificates: cn:, dns: or uri:, with at most one *.
#certificate = ["dns:*.build.example.org"]
# Users of this machine, who come over a Unix socket.
#user = [1000]
# Names of JWTs, if there is [access.jwt].
#subject = ["repo:example/app:*"]
#roles = { "*" = "read", "main" = "write", "team/*" = "write" }

# JWTs of an issuer, by the file with its public keys, which is read again when it changes.
#[access.jwt]
#jwks = "issuer-keys.json"
#issuer = "https://token.actions.githubusercontent.com"
#audience = "zako"
# The claim with the caller's name.
#name-claim = "sub"
# The claim with its roles: words such as write or write:main, or a table. With a slash before
# it, a JSON pointer.
#roles-claim = "zako"
# What each caller with a good one may.
#roles = "none"
# By how many seconds clocks may differ.
#leeway-seconds = 60
# How they may be signed.
#algorithms = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
"##;

/// What is configured of who may do what.
#[derive(Clone, Debug)]
pub(crate) struct AccessConfig {
    pub(crate) anonymous: Setting<Roles>,
    pub(crate) identities: Vec<IdentityRule>,
    pub(crate) jwt: Option<JwtRule>,
}

impl AccessConfig {
    /// The flags' names: a variable is named for its flag.
    pub(super) const KEYS: &[&str] = &["anonymous"];

    /// # Errors
    /// A variable's value can't be read.
    pub(crate) fn resolve(flags: AccessKeys, layers: &Layers<'_>) -> Result<Self, Failure> {
        let file = layers.file().access().clone();
        let anonymous = layers.pick(
            "anonymous",
            flags.anonymous,
            file.anonymous,
            Roles::default(),
        )?;
        Ok(Self {
            anonymous,
            identities: file.identity,
            jwt: file.jwt,
        })
    }

    /// What is configured; `None` if nothing is, and everyone may do everything.
    pub(crate) fn rules(&self) -> Option<AccessRules> {
        let is_default = self.anonymous.origin == Origin::Default;
        if is_default && self.identities.is_empty() && self.jwt.is_none() {
            return None;
        }
        let mut rules = AccessRules::default();
        rules.anonymous = self.anonymous.value.clone();
        rules.identities.clone_from(&self.identities);
        rules.jwt.clone_from(&self.jwt);
        Some(rules)
    }
}

impl AccessKeys {
    /// Makes the paths that are relative to the configuration's folder absolute.
    pub(super) fn beside(&mut self, folder: &Path) {
        if let Some(jwt) = &mut self.jwt {
            jwt.jwks = folder.join(&jwt.jwks);
        }
    }
}
