//! A `zako.toml` with every key, commented out, with its default and what it is.

use std::fmt::Write;
use std::path::Path;

use super::catalog::{self, Flag, Key, Listed};
use super::layers::variable_name;
use super::shown::resolve_all;
use super::{ConfigFile, Layers, Ledger};

/// Lines of documentation are broken before this many letters.
const WIDTH: usize = 80;

/// What the help says where the default is not the same for everybody.
const EACH_USERS_OWN: &str = "the platform's data folder";

const HEAD: &str = "\
# The configuration of zako: every key, commented out, with its default.
#
# A flag wins over a variable, that over this file, that over the default. `zako config
# --check FILE` finds what is wrong in a file, `zako config --show` tells what is in force.
# SIGHUP (`systemctl reload zako`) makes a server read its file again.
#
# Sizes are written 4096, 64KiB, 10GB or 1.5TiB; times 100ms, 30s, 5m, 1h 30m or 7d.
";

/// The text.
pub(super) fn template() -> String {
    let file = ConfigFile::default();
    let ledger = Ledger::default();
    // Fails where this user has no data folder; what was asked is written down all the same.
    let _ = resolve_all(&Layers::of_file(&file).noting(&ledger));
    let mut text = HEAD.to_owned();
    for table in catalog::tables() {
        // Writing to a String doesn't fail.
        let _ = write!(text, "\n\n{}[{}]\n", commented(table.about), table.name);
        for key in &table.keys {
            if let Some(flag) = &key.flag {
                let literal = literal(&table, key, flag, &ledger);
                let variable = variable_name(&flag.name);
                let _ = write!(
                    text,
                    "\n{}# Flag --{}, variable {variable}.\n#{} = {literal}\n",
                    commented(&flag.about),
                    flag.name,
                    key.name,
                );
            }
        }
        if !table.example.is_empty() {
            let _ = write!(text, "\n{}\n", table.example.trim());
        }
    }
    text
}

/// The default as TOML has it, or an example where there is none.
fn literal(table: &Listed, key: &Key, flag: &Flag, ledger: &Ledger) -> String {
    let default = ledger.entry(&flag.name).and_then(|entry| entry.default);
    let texts = [
        flag.default
            .clone()
            .filter(|said| said != EACH_USERS_OWN && default.is_some()),
        default,
        flag.example.clone(),
        flag.value.clone(),
        Some("1".to_owned()),
    ];
    let candidates = texts.into_iter().flatten().flat_map(|text| {
        let quoted = quoted(&text);
        let listed = format!("[{quoted}]");
        [text, quoted, listed]
    });
    let is_meant = |candidate: &String| {
        let text = format!("[{}]\n{} = {candidate}\n", table.name, key.name);
        !candidate.contains('\n') && ConfigFile::parse(Path::new("/"), &text).is_ok()
    };
    candidates.into_iter().find(is_meant).unwrap_or_default()
}

/// A string of TOML: those of JSON are.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Text as lines of comment.
fn commented(text: &str) -> String {
    let mut lines = String::new();
    for paragraph in text.split("\n\n") {
        if !lines.is_empty() {
            lines.push_str("#\n");
        }
        let mut line = "#".to_owned();
        for word in paragraph.split_whitespace() {
            if line.len() > 1 && line.chars().count() + 1 + word.chars().count() > WIDTH {
                lines.push_str(&line);
                lines.push('\n');
                line = "#".to_owned();
            }
            line.push(' ');
            line.push_str(word);
        }
        lines.push_str(&line);
        lines.push('\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The template with its keys in force.
    fn uncommented() -> String {
        let is_key = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && *line != "#";
        let template = template();
        let lines = template.lines();
        lines
            .map(|line| if is_key(&line) { &line[1..] } else { line })
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn it_has_every_key_of_every_table() {
        let text = uncommented();
        let document: toml::Table = text
            .parse()
            .unwrap_or_else(|error| panic!("{error}\n{text}"));
        for table in catalog::tables() {
            let keys = document[table.name].as_table().unwrap();
            for key in &table.keys {
                assert!(keys.contains_key(key.name), "[{}] {}", table.name, key.name);
            }
        }
        ConfigFile::parse(Path::new("zako.toml"), &text).unwrap();
    }

    #[test]
    fn all_is_commented_out() {
        let document: toml::Table = template().parse().unwrap();
        for (name, table) in &document {
            assert_eq!(table.as_table().map(toml::Table::len), Some(0), "[{name}]");
        }
    }

    #[test]
    fn its_values_are_the_real_defaults() {
        let file = ConfigFile::parse(Path::new("/zako.toml"), &uncommented()).unwrap();
        let ledger = Ledger::default();
        resolve_all(&Layers::of_file(&file).noting(&ledger)).unwrap();
        assert!(!ledger.entries().is_empty());
        // What has no flag has an example in the place of its default.
        let entries = ledger.entries().into_iter();
        for entry in entries.filter(|entry| catalog::place(entry.flag).is_some()) {
            if let Some(default) = entry.default {
                assert_eq!(entry.value, default, "--{}", entry.flag);
            }
        }
    }

    /// The help's words on a default can't be made of the default itself.
    #[test]
    fn the_helps_defaults_are_the_real_ones() {
        let ledger = Ledger::default();
        let file = ConfigFile::default();
        resolve_all(&Layers::of_file(&file).noting(&ledger)).unwrap();
        for table in catalog::tables() {
            for key in table.keys {
                let Some(flag) = key.flag else { continue };
                let entry = ledger.entry(&flag.name);
                let entry = entry.unwrap_or_else(|| panic!("--{} is asked of no layer", flag.name));
                let said = flag.default.as_deref();
                match (said, entry.default) {
                    (Some(EACH_USERS_OWN), Some(_)) => {}
                    (Some("none") | None, None) => {}
                    (Some(said), Some(default)) => {
                        let same = format!("[{}]\n{} = {said:?}\n", table.name, key.name);
                        let bare = format!("[{}]\n{} = {said}\n", table.name, key.name);
                        let listed = format!("[{}]\n{} = [{said:?}]\n", table.name, key.name);
                        let parse = |text| ConfigFile::parse(Path::new("/zako.toml"), text).ok();
                        let file = parse(&bare)
                            .or_else(|| parse(&same))
                            .or_else(|| parse(&listed));
                        let file = file.unwrap_or_else(|| panic!("--{}: {said:?}", flag.name));
                        let ledger = Ledger::default();
                        resolve_all(&Layers::of_file(&file).noting(&ledger)).unwrap();
                        assert_eq!(
                            ledger.entry(&flag.name).unwrap().value,
                            default,
                            "--{}",
                            flag.name
                        );
                    }
                    (said, default) => panic!("--{}: {said:?}, but {default:?}", flag.name),
                }
            }
        }
    }

    #[test]
    fn lines_are_broken() {
        let text = commented(&"word ".repeat(40));
        assert!(
            text.lines()
                .all(|line| line.len() <= WIDTH && line.starts_with("# word"))
        );
        assert_eq!(text.matches("word").count(), 40);
        assert_eq!(commented("a\n\nb"), "# a\n#\n# b\n");
    }
}
