//! One value out of flag, variable, file and default.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

use super::{
    AccessConfig, AdminConfig, ClientConfig, ConfigFile, LimitsConfig, ServerConfig,
    TelemetryConfig, TlsConfig,
};
use crate::failure::Failure;

/// A value and where it comes from.
#[derive(Clone, Debug)]
pub(crate) struct Setting<T> {
    pub(crate) key: &'static str,
    pub(crate) value: T,
    pub(crate) origin: Origin,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Flag,
    Variable(String),
    File(PathBuf),
    Default,
}

/// The layers under the flags.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layers<'a> {
    variables: fn(&str) -> Option<String>,
    file: &'a ConfigFile,
}

impl<'a> Layers<'a> {
    /// The environment of this process over `file`.
    pub(crate) fn new(file: &'a ConfigFile) -> Self {
        Self {
            variables: |name| Some(std::env::var_os(name)?.to_string_lossy().into_owned()),
            file,
        }
    }

    #[cfg(test)]
    pub(super) fn with_variables(
        file: &'a ConfigFile,
        variables: fn(&str) -> Option<String>,
    ) -> Self {
        Self { variables, file }
    }

    pub(crate) fn file(&self) -> &'a ConfigFile {
        self.file
    }

    /// The first of flag, variable, file and default that is there. An empty
    /// variable counts as unset.
    ///
    /// # Errors
    /// The variable has a value that can't be read.
    pub(crate) fn pick<T>(
        &self,
        key: &'static str,
        flag: Option<T>,
        file: Option<T>,
        default: T,
    ) -> Result<Setting<T>, Failure>
    where
        T: FromStr<Err: fmt::Display>,
    {
        let (value, origin) = if let Some(value) = flag {
            (value, Origin::Flag)
        } else if let Some((name, value)) = self.variable(key)? {
            (value, Origin::Variable(name))
        } else if let Some(value) = file {
            let path = self.file.path().unwrap_or(Path::new(ConfigFile::NAME));
            (value, Origin::File(path.to_owned()))
        } else {
            (default, Origin::Default)
        };
        Ok(Setting { key, value, origin })
    }

    fn variable<T>(&self, key: &str) -> Result<Option<(String, T)>, Failure>
    where
        T: FromStr<Err: fmt::Display>,
    {
        let name = variable_name(key);
        match (self.variables)(&name).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => match text.parse() {
                Ok(value) => Ok(Some((name, value))),
                Err(error) => Err(Failure::usage(format!("the variable {name}: {error}"))),
            },
        }
    }
}

/// `max-size` → `ZAKO_MAX_SIZE`.
fn variable_name(key: &str) -> String {
    format!("ZAKO_{}", key.to_uppercase().replace('-', "_"))
}

/// Whether a variable of this name is read.
pub(crate) fn is_known_variable(name: &str) -> bool {
    ["ZAKO_CONFIG", "ZAKO_LOG"].contains(&name)
        || [
            ServerConfig::KEYS,
            ClientConfig::KEYS,
            AdminConfig::KEYS,
            TlsConfig::KEYS,
            AccessConfig::KEYS,
            LimitsConfig::KEYS,
            TelemetryConfig::KEYS,
        ]
        .into_iter()
        .flatten()
        .any(|key| variable_name(key) == name)
}

/// Reads a key of `zako.toml` whose text form is that of its flag.
pub(super) fn from_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(de::Error::custom)
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Variable(name) => f.write_str(name),
            Self::File(path) => path.display().fmt(f),
            Self::Default => f.write_str("default"),
        }
    }
}
