//! One value out of flag, variable, file and default.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    ledger: Option<&'a Ledger>,
}

/// Everything that was asked of layers.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Vec<Entry>>);

/// A value that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The flag's name.
    pub(crate) flag: &'static str,
    pub(crate) value: String,
    /// `None` if there is no value by default.
    pub(crate) default: Option<String>,
    pub(crate) origin: Origin,
}

impl<'a> Layers<'a> {
    /// The environment of this process over `file`.
    pub(crate) fn new(file: &'a ConfigFile) -> Self {
        Self {
            variables: |name| Some(std::env::var_os(name)?.to_string_lossy().into_owned()),
            file,
            ledger: None,
        }
    }

    /// The file alone.
    pub(super) fn of_file(file: &'a ConfigFile) -> Self {
        Self {
            variables: |_| None,
            file,
            ledger: None,
        }
    }

    /// Writes down in `ledger` what is asked.
    #[must_use]
    pub(crate) fn noting(self, ledger: &'a Ledger) -> Self {
        Self {
            ledger: Some(ledger),
            ..self
        }
    }

    #[cfg(test)]
    pub(super) fn with_variables(
        file: &'a ConfigFile,
        variables: fn(&str) -> Option<String>,
    ) -> Self {
        Self {
            variables,
            ..Self::of_file(file)
        }
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
        T: fmt::Display + FromStr<Err: fmt::Display>,
    {
        let shown = default.to_string();
        let (value, origin) = match self.choose(key, flag, file)? {
            Some(chosen) => chosen,
            None => (default, Origin::Default),
        };
        self.note(key, value.to_string(), Some(shown), &origin);
        Ok(Setting { key, value, origin })
    }

    /// As [`pick`](Self::pick), for what there is none of by default.
    ///
    /// # Errors
    /// The variable has a value that can't be read.
    pub(crate) fn pick_optional<T>(
        &self,
        key: &'static str,
        flag: Option<T>,
        file: Option<T>,
    ) -> Result<Setting<Option<T>>, Failure>
    where
        T: fmt::Display + FromStr<Err: fmt::Display>,
    {
        let (value, origin) = match self.choose(key, flag, file)? {
            Some((value, origin)) => (Some(value), origin),
            None => (None, Origin::Default),
        };
        let shown = value.as_ref().map_or("none".to_owned(), T::to_string);
        self.note(key, shown, None, &origin);
        Ok(Setting { key, value, origin })
    }

    fn choose<T>(
        &self,
        key: &str,
        flag: Option<T>,
        file: Option<T>,
    ) -> Result<Option<(T, Origin)>, Failure>
    where
        T: FromStr<Err: fmt::Display>,
    {
        if let Some(value) = flag {
            return Ok(Some((value, Origin::Flag)));
        }
        if let Some((name, value)) = self.variable(key)? {
            return Ok(Some((value, Origin::Variable(name))));
        }
        let path = self.file.path().unwrap_or(Path::new(ConfigFile::NAME));
        Ok(file.map(|value| (value, Origin::File(path.to_owned()))))
    }

    fn note(&self, flag: &'static str, value: String, default: Option<String>, origin: &Origin) {
        let Some(ledger) = self.ledger else {
            return;
        };
        let origin = origin.clone();
        ledger.lock().push(Entry {
            flag,
            value,
            default,
            origin,
        });
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

impl Ledger {
    /// What was asked, in its order.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.lock().clone()
    }

    pub(crate) fn entry(&self, flag: &str) -> Option<Entry> {
        self.lock().iter().find(|entry| entry.flag == flag).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        // A list is whole whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `max-size` → `ZAKO_MAX_SIZE`.
pub(super) fn variable_name(key: &str) -> String {
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
