//! `zako.toml`.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::fault::Fault;
use super::{
    AccessKeys, AdminKeys, ClientKeys, LimitsKeys, ServerKeys, TelemetryKeys, TlsKeys, check,
};
use crate::failure::Failure;

/// What `zako.toml` says; empty if there is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConfigFile {
    path: Option<PathBuf>,
    /// The file that `--config` names.
    named: Option<PathBuf>,
    keys: Keys,
    /// What it says, as it says it.
    raw: toml::Table,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Keys {
    server: ServerKeys,
    client: ClientKeys,
    admin: AdminKeys,
    tls: TlsKeys,
    access: AccessKeys,
    limits: LimitsKeys,
    telemetry: TelemetryKeys,
}

impl ConfigFile {
    pub(crate) const NAME: &'static str = "zako.toml";

    /// Reads `--config`, else the file that `ZAKO_CONFIG` names, else
    /// `./zako.toml`, else `zako.toml` in the platform's configuration folder.
    ///
    /// # Errors
    /// A file that was named isn't there; the file can't be read, is no TOML, or
    /// has an unknown key or a bad value.
    pub(crate) fn load(flag: Option<&Path>) -> Result<Self, Failure> {
        let file = match Self::read(flag)? {
            Some((path, text)) => Self::parse(&path, &text)?,
            None => Self::default(),
        };
        Ok(Self {
            named: flag.map(Path::to_owned),
            ..file
        })
    }

    /// What it says now, or another file that is found before it now.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) fn again(&self) -> Result<Self, Failure> {
        Self::load(self.named.as_deref())
    }

    /// What it says of a key, as it says it.
    pub(super) fn raw(&self, table: &str, key: &str) -> Option<&toml::Value> {
        self.raw.get(table)?.get(key)
    }

    /// The file that [`load`](Self::load) would take, if there is one, and its text.
    ///
    /// # Errors
    /// A file that was named isn't there, or the file can't be read.
    pub(super) fn read(flag: Option<&Path>) -> Result<Option<(PathBuf, String)>, Failure> {
        let variable = std::env::var_os("ZAKO_CONFIG").filter(|path| !path.is_empty());
        if let Some(path) = flag.map(Path::to_owned).or(variable.map(PathBuf::from)) {
            return match std::fs::read_to_string(&path) {
                Ok(text) => Ok(Some((path, text))),
                Err(error) => Err(Failure::io("reading the configuration", &path, &error)),
            };
        }
        for path in Self::places() {
            match std::fs::read_to_string(&path) {
                Ok(text) => return Ok(Some((path, text))),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) => {}
                Err(error) => {
                    return Err(Failure::io("reading the configuration", &path, &error));
                }
            }
        }
        Ok(None)
    }

    /// Where the file is looked for when none is named.
    pub(crate) fn places() -> Vec<PathBuf> {
        let mut places = vec![PathBuf::from(Self::NAME)];
        if let Some(dirs) = directories::ProjectDirs::from("", "", "zako") {
            places.push(dirs.config_dir().join(Self::NAME));
        }
        places
    }

    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, Failure> {
        Self::parse_or_faults(path, text).map_err(|faults| {
            let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
            Failure::usage(faults.join("\n")).advise(
                "`zako config --default` prints all keys and what they are; `zako doctor` shows \
                 what is in force.",
            )
        })
    }

    /// # Errors
    /// Everything that is wrong.
    pub(super) fn parse_or_faults(path: &Path, text: &str) -> Result<Self, Vec<Fault>> {
        let mut keys: Keys = toml::from_str(text).map_err(|error| {
            let faults = check::faults(path, text);
            match faults.is_empty() {
                true => vec![check::fault(&path.display().to_string(), text, &error)],
                false => faults,
            }
        })?;
        // A relative path means the same from wherever the command is run.
        if let Some(folder) = path.parent() {
            if let Some(data) = &mut keys.server.data {
                *data = folder.join(&data);
            }
            keys.tls.beside(folder);
            keys.client.beside(folder);
            keys.access.beside(folder);
        }
        Ok(Self {
            path: Some(path.to_owned()),
            named: None,
            keys,
            // It was read once already.
            raw: text.parse().unwrap_or_default(),
        })
    }

    /// Where it was found.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    pub(super) fn server(&self) -> &ServerKeys {
        &self.keys.server
    }

    pub(super) fn client(&self) -> &ClientKeys {
        &self.keys.client
    }

    pub(super) fn admin(&self) -> &AdminKeys {
        &self.keys.admin
    }

    pub(super) fn tls(&self) -> &TlsKeys {
        &self.keys.tls
    }

    pub(super) fn access(&self) -> &AccessKeys {
        &self.keys.access
    }

    pub(super) fn limits(&self) -> &LimitsKeys {
        &self.keys.limits
    }

    pub(super) fn telemetry(&self) -> &TelemetryKeys {
        &self.keys.telemetry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let failure = ConfigFile::parse(Path::new("x/zako.toml"), text).unwrap_err();
        assert_eq!(failure.exit(), crate::failure::Exit::Usage);
        failure.to_string()
    }

    #[test]
    fn unknown_keys_are_pointed_at() {
        let text = refusal("[server]\nlisten = \"127.0.0.1:1\"\n  max_size = \"1G\"\n");
        assert!(text.contains("x/zako.toml"), "{text}");
        assert!(text.contains("line 3, column 3"), "{text}");
        assert!(text.contains("unknown field `max_size`"), "{text}");
        assert!(text.contains("`max-size`"), "{text}");

        let text = refusal("[serve]\n");
        assert!(text.contains("line 1, column 2"), "{text}");
    }

    #[test]
    fn bad_values_are_pointed_at() {
        let text = refusal("[server]\nmax-size = \"lots\"\n");
        assert!(text.contains("line 2, column 12"), "{text}");
        assert!(text.contains("\"lots\" is not a size"), "{text}");
        assert!(refusal("[server\n").contains("line 1"));
    }

    #[test]
    fn a_relative_data_folder_is_the_files_neighbour() {
        let file = ConfigFile::parse(Path::new("/etc/zako.toml"), "server.data = \"store\"");
        let file = file.unwrap();
        assert_eq!(file.server().data.as_deref(), Some(Path::new("/etc/store")));
    }
}
