//! What was in force at a moment, to be compared with a later one.

use super::{ConfigFile, Ledger, Origin, catalog};

/// What was in force at a moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot(Vec<(Place, Value)>);

/// A table and a key.
pub(crate) type Place = (&'static str, &'static str);

/// Never shown: it may be a secret.
type Value = (Option<String>, Option<toml::Value>);

impl Snapshot {
    /// What `ledger` was told, and what the file says of keys that have no flag.
    pub(crate) fn new(file: &ConfigFile, ledger: &Ledger) -> Self {
        let mut values = Vec::new();
        for table in catalog::tables() {
            for key in table.keys {
                let flag = key.flag.as_ref().map(|flag| flag.name.as_str());
                let entry = flag.and_then(|flag| ledger.entry(flag));
                // Secrets are all alike in a ledger; a flag or a variable hides what a file says.
                let is_from_file = match &entry {
                    Some(entry) => matches!(entry.origin, Origin::File(_)),
                    None => true,
                };
                let raw = file.raw(table.name, key.name).cloned();
                let raw = raw.filter(|_| is_from_file);
                let value = entry.map(|entry| entry.value);
                values.push(((table.name, key.name), (value, raw)));
            }
        }
        Self(values)
    }

    /// The keys that another snapshot has other values of.
    pub(crate) fn differences(&self, other: &Self) -> Vec<Place> {
        let pairs = self.0.iter().zip(&other.0);
        pairs
            .filter(|((_, one), (_, other))| one != other)
            .map(|((place, _), _)| *place)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Layers, ServerConfig, ServerKeys};

    #[test]
    fn what_a_file_says_counts_where_it_is_in_force() {
        let snapshot = |text: &str, lease: Option<&str>| {
            let file = ConfigFile::parse(Path::new("z"), text).unwrap();
            let ledger = Ledger::default();
            let flags = ServerKeys {
                lease: lease.map(|lease| lease.parse().unwrap()),
                ..ServerKeys::default()
            };
            ServerConfig::resolve(flags, &Layers::of_file(&file).noting(&ledger)).unwrap();
            Snapshot::new(&file, &ledger)
        };
        let first = snapshot("[server]\nlease = \"1h\"\n", None);
        let second = snapshot("[server]\nlease = \"2h\"\nmax-size = \"80%\"\n", None);
        assert_eq!(first.differences(&first), []);
        let changed = first.differences(&second);
        assert!(changed.contains(&("server", "lease")), "{changed:?}");
        let first = snapshot("[server]\nlease = \"1h\"\n", Some("3h"));
        let second = snapshot("[server]\nlease = \"2h\"\n", Some("3h"));
        assert_eq!(first.differences(&second), []);
    }
}
