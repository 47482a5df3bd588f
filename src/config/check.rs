//! Everything that is wrong in the text of a `zako.toml`, not only what comes first.

use std::path::Path;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::catalog::{self, Listed};
use super::fault::Fault;
use super::file::Keys;

/// How alike a key must be to be what was meant.
const ALIKE: f64 = 0.75;

/// What is wrong in the text of the file at `path`, from its beginning to its end.
pub(super) fn faults(path: &Path, text: &str) -> Vec<Fault> {
    let file = path.display().to_string();
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return errors
            .iter()
            .map(|error| fault(&file, text, error))
            .collect();
    }
    let tables = catalog::tables();
    let mut faults = Vec::new();
    for (name, value) in document.get_ref() {
        let table = tables
            .iter()
            .find(|table| table.name == name.get_ref().as_ref());
        match (table, value.get_ref()) {
            (None, _) => {
                let known: Vec<_> = tables.iter().map(|table| table.name).collect();
                faults.push(unknown(&file, text, "table", name, &known));
            }
            (Some(table), DeValue::Table(keys)) => {
                check_table(&file, text, table, keys, &mut faults);
            }
            (Some(table), _) => {
                let error = format!("`{}` is a table: write [{}]", table.name, table.name);
                faults.push(Fault::new(&file, text, value.span(), error));
            }
        }
    }
    faults.sort_by_key(Fault::place);
    faults
}

/// Where `table.key` stands in the text, or else the table, or the text's beginning.
pub(super) fn span_of(text: &str, table: &str, key: &str) -> std::ops::Range<usize> {
    let (document, _) = DeTable::parse_recoverable(text);
    let Some((name, value)) = document.get_ref().get_key_value(table) else {
        return 0..0;
    };
    let keys = match value.get_ref() {
        DeValue::Table(keys) => keys,
        _ => return name.span(),
    };
    keys.get(key).map_or_else(|| name.span(), Spanned::span)
}

/// Each key by itself, so that one fault hides no other.
fn check_table(
    file: &str,
    text: &str,
    table: &Listed,
    keys: &DeTable<'_>,
    faults: &mut Vec<Fault>,
) {
    let known: Vec<_> = table.keys.iter().map(|key| key.name).collect();
    for (key, value) in keys {
        if !known.contains(&key.get_ref().as_ref()) {
            faults.push(unknown(file, text, "key", key, &known));
            continue;
        }
        let one = DeTable::from_iter([(key.clone(), value.clone())]);
        let one = Spanned::new(value.span(), DeValue::Table(one));
        let name = Spanned::new(0..0, table.name.into());
        let document = DeTable::from_iter([(name, one)]);
        let document = Deserializer::from(Spanned::new(0..text.len(), document));
        if let Err(error) = Keys::deserialize(document) {
            faults.push(fault(file, text, &error));
        }
    }
}

fn unknown(
    file: &str,
    text: &str,
    what: &str,
    name: &Spanned<toml::de::DeString<'_>>,
    known: &[&str],
) -> Fault {
    // As serde says it of keys further down.
    let what = if what == "key" { "field" } else { what };
    let error = format!("unknown {what} `{}`", name.get_ref());
    let advice = meant(name.get_ref(), known);
    Fault::new(file, text, name.span(), error).advise(Some(advice))
}

/// An error of reading, where it occurred.
pub(super) fn fault(file: &str, text: &str, error: &toml::de::Error) -> Fault {
    let message = error.message();
    let span = error.span().unwrap_or(0..0);
    // Serde lists all that would have been right; that is for the advice.
    let (said, advice) = match message.split_once(", expected ") {
        Some((said, expected)) if said.starts_with("unknown ") => {
            let quoted = |text: &str| -> Vec<String> {
                text.split('`')
                    .skip(1)
                    .step_by(2)
                    .map(str::to_owned)
                    .collect()
            };
            let known = quoted(expected);
            let known: Vec<_> = known.iter().map(String::as_str).collect();
            let name = quoted(said).pop().unwrap_or_default();
            (said, Some(meant(&name, &known)))
        }
        _ => (message, None),
    };
    Fault::new(file, text, span, said).advise(advice)
}

/// What was meant by a name, as far as one can tell.
fn meant(name: &str, known: &[&str]) -> String {
    let alike = |known: &&&str| (strsim::jaro_winkler(name, known) * 1000.0) as u32;
    let best = known.iter().max_by_key(alike);
    match best {
        Some(best) if strsim::jaro_winkler(name, best) >= ALIKE => {
            format!("Did you mean `{best}`?")
        }
        _ if known.is_empty() => "Nothing is configured here.".to_owned(),
        _ => format!("Known here: `{}`.", known.join("`, `")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<String> {
        let faults = faults(Path::new("z"), text);
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_faults_are_told_in_the_order_of_the_file() {
        let said = said(
            "[server]\nlisen = \"x\"\nmax-size = \"lots\"\nlease = \"2h\"\nrequire-token = 3\n\
             [clyent]\na = 1\n[client]\nserver = 7\n",
        );
        assert_eq!(said.len(), 5, "{said:#?}");
        assert!(said[0].starts_with(
            "z: line 2, column 1: unknown field `lisen`\n2 | lisen = \"x\"\n  | ^^^^^"
        ));
        assert!(said[0].ends_with("Did you mean `listen`?"), "{}", said[0]);
        assert!(
            said[1].starts_with("z: line 3, column 12: \"lots\" is not a size"),
            "{}",
            said[1]
        );
        assert!(said[2].starts_with("z: line 5, column 17: "), "{}", said[2]);
        assert!(
            said[3].starts_with("z: line 6, column 2: unknown table `clyent`"),
            "{}",
            said[3]
        );
        assert!(said[3].ends_with("Did you mean `client`?"), "{}", said[3]);
        assert!(said[4].starts_with("z: line 9, column 10: "), "{}", said[4]);
    }

    #[test]
    fn what_is_no_toml_is_told_too() {
        let said = said("[server\nlisten = \n");
        assert!(said[0].starts_with("z: line 1, column "), "{said:#?}");
        assert_eq!(super::faults(Path::new("z"), "server = 1\n").len(), 1);
        assert_eq!(
            super::faults(Path::new("z"), "[server]\nlease = \"1h\"\n"),
            []
        );
    }

    #[test]
    fn a_name_like_none_gets_the_list() {
        let said = said("[client]\nzzz = 1\n");
        assert!(
            said[0].contains("Known here: `server`, `transport`"),
            "{}",
            said[0]
        );
    }

    #[test]
    fn keys_are_found() {
        let text = "[server]\nlease = \"1h\"\n";
        assert_eq!(&text[span_of(text, "server", "lease")], "\"1h\"");
        assert_eq!(&text[span_of(text, "server", "none")], "server");
        assert_eq!(span_of(text, "none", "none"), 0..0);
    }
}
