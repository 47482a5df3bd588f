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
    pub(super) fn based_on(&mut self, folder: &Path) {
        if let Some(jwt) = &mut self.jwt {
            jwt.jwks = folder.join(&jwt.jwks);
        }
    }
}
