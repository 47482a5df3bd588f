//! Every table and key of `zako.toml`: out of the types that read them and the flags that
//! they share with the command line, so that a new key is here by itself.

use clap::Args;
use serde::de::DeserializeOwned;

use super::{
    AccessKeys, AdminKeys, ClientKeys, LimitsKeys, ServerKeys, TelemetryKeys, TlsKeys, fields,
};

/// A table of `zako.toml`.
pub(super) trait Table: Args + DeserializeOwned {
    const NAME: &'static str;
    /// What it is for.
    const ABOUT: &'static str;
    /// Keys that have no flag, such as arrays of tables: what they are and an example of
    /// each, commented out with `#` (what they are: with `# `).
    const EXAMPLE: &'static str = "";
}

impl Table for ServerKeys {
    const NAME: &'static str = "server";
    const ABOUT: &'static str = "The server and its store.";
}

impl Table for ClientKeys {
    const NAME: &'static str = "client";
    const ABOUT: &'static str = "The verbs that talk to a server.";
}

impl Table for AdminKeys {
    const NAME: &'static str = "admin";
    const ABOUT: &'static str = "The server's admin port: health, metrics, a status page.";
}

impl Table for TlsKeys {
    const NAME: &'static str = "tls";
    const ABOUT: &'static str = "The server's TLS.";
}

impl Table for AccessKeys {
    const NAME: &'static str = "access";
    const ABOUT: &'static str = "Who may do what on the server.";
    const EXAMPLE: &'static str = super::access::EXAMPLE;
}

impl Table for LimitsKeys {
    const NAME: &'static str = "limits";
    const ABOUT: &'static str = "What the server lets anyone take.";
    const EXAMPLE: &'static str = super::limits::EXAMPLE;
}

impl Table for TelemetryKeys {
    const NAME: &'static str = "telemetry";
    const ABOUT: &'static str = "The server's traces, metrics and log.";
    const EXAMPLE: &'static str = "\
# Sent with every export, name=value,…: a secret, so it has no flag.
# Variable ZAKO_TELEMETRY_HEADERS.
#headers = \"x-api-key=SECRET\"

# What is logged, as --log says, which goes before this.
#log = \"info\"
";
}

/// A table and its keys.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) keys: Vec<Key>,
    pub(super) example: &'static str,
}

/// A key and what its flag says of it.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) flag: Option<Flag>,
}

/// A flag and its help.
#[derive(Debug)]
pub(super) struct Flag {
    /// Without the dashes.
    pub(super) name: String,
    pub(super) about: String,
    /// The default, as the help has it.
    pub(super) default: Option<String>,
    /// A value, as the help has it.
    pub(super) example: Option<String>,
    /// What a value is called.
    pub(super) value: Option<String>,
}

/// All tables, in the order in which they are shown.
pub(super) fn tables() -> Vec<Listed> {
    vec![
        listed::<ServerKeys>(),
        listed::<ClientKeys>(),
        listed::<AdminKeys>(),
        listed::<TlsKeys>(),
        listed::<AccessKeys>(),
        listed::<LimitsKeys>(),
        listed::<TelemetryKeys>(),
    ]
}

/// The table and the key of a flag.
pub(crate) fn place(flag: &str) -> Option<(&'static str, &'static str)> {
    tables().iter().find_map(|table| {
        let key = table.keys.iter().find(|key| {
            let own = key.flag.as_ref();
            own.is_some_and(|own| own.name == flag)
        })?;
        Some((table.name, key.name))
    })
}

fn listed<T: Table>() -> Listed {
    let command = T::augment_args(clap::Command::new(T::NAME));
    // Flags of a table begin with its name, where another's would be alike; `--TABLE` alone
    // tells where it listens.
    let keys = fields::of::<T>().iter().map(|&name| {
        let long = format!("{}-{name}", T::NAME);
        let arg = command.get_arguments().find(|arg| {
            let flag = arg.get_long().unwrap_or_default();
            let is_where = name == "listen" && flag == T::NAME;
            flag == name || flag == long || is_where
        });
        let flag = arg.map(flag);
        Key { name, flag }
    });
    Listed {
        name: T::NAME,
        about: T::ABOUT,
        keys: keys.collect(),
        example: T::EXAMPLE,
    }
}

fn flag(arg: &clap::Arg) -> Flag {
    let help = arg.get_long_help().or_else(|| arg.get_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    let (help, _) = without_tag(&help, "env");
    let (help, default) = without_tag(&help, "default");
    let (about, example) = without_tag(&help, "example");
    let value = arg.get_value_names().and_then(|names| names.first());
    Flag {
        name: arg.get_long().unwrap_or_default().to_owned(),
        about: about.trim().to_owned(),
        default,
        example,
        value: value.map(ToString::to_string),
    }
}

/// A help text without `[tag: TEXT]`, and TEXT.
fn without_tag(help: &str, tag: &str) -> (String, Option<String>) {
    let start = format!("[{tag}: ");
    let Some((before, rest)) = help.split_once(&start) else {
        return (help.to_owned(), None);
    };
    // The text may have brackets of its own.
    let mut depth = 1;
    let end = rest.find(|letter| {
        depth += i32::from(letter == '[') - i32::from(letter == ']');
        depth == 0
    });
    let (text, after) = rest.split_at(end.unwrap_or(rest.len()));
    let after = after.strip_prefix(']').unwrap_or(after);
    (
        format!("{}{after}", before.trim_end()),
        Some(text.to_owned()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_taken_out_of_the_help() {
        let help = "Where [env: ZAKO_X] [default: A[:B]] to go";
        let (help, variable) = without_tag(help, "env");
        assert_eq!(variable.as_deref(), Some("ZAKO_X"));
        let (help, default) = without_tag(&help, "default");
        assert_eq!(default.as_deref(), Some("A[:B]"));
        assert_eq!(help, "Where to go");
        assert_eq!(without_tag("x", "env"), ("x".to_owned(), None));
    }

    #[test]
    fn every_key_has_a_flag_or_an_example() {
        for table in tables() {
            assert_eq!(fields_without_place(&table), [""; 0], "[{}]", table.name);
        }
    }

    fn fields_without_place(table: &Listed) -> Vec<&'static str> {
        let has_example = |name: &str| {
            table.example.lines().any(|line| {
                line.starts_with(&format!("#{name} "))
                    || line == format!("#[[{}.{name}]]", table.name)
                    || line == format!("#[{}.{name}]", table.name)
            })
        };
        let keys = table.keys.iter();
        keys.filter(|key| key.flag.is_none() && !has_example(key.name))
            .map(|key| key.name)
            .collect()
    }

    #[test]
    fn flags_are_found_by_their_names() {
        assert_eq!(place("listen"), Some(("server", "listen")));
        assert_eq!(place("transport"), Some(("client", "transport")));
        assert_eq!(place("nothing"), None);
    }
}
