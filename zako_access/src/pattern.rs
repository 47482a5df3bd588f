//! Names, and patterns of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// A name, in which one `*` may stand for any characters, none too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    before: String,
    /// Behind the `*`, if there is one.
    behind: Option<String>,
}

/// The longest pattern, in bytes.
const LONGEST: usize = 1024;

impl Pattern {
    /// Whether it stands for this name.
    pub fn matches(&self, name: &str) -> bool {
        match &self.behind {
            None => self.before == name,
            Some(behind) => name
                .strip_prefix(&*self.before)
                .is_some_and(|rest| rest.ends_with(&**behind)),
        }
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > LONGEST {
            return Err(format!("a pattern has 1 to {LONGEST} bytes"));
        }
        match text.split_once('*') {
            Some((_, behind)) if behind.contains('*') => {
                Err(format!("{text:?} has more than one *"))
            }
            Some((before, behind)) => Ok(Self {
                before: before.to_owned(),
                behind: Some(behind.to_owned()),
            }),
            None => Ok(Self {
                before: text.to_owned(),
                behind: None,
            }),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.before)?;
        match &self.behind {
            Some(behind) => write!(f, "*{behind}"),
            None => Ok(()),
        }
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

/// Reads what has a text form.
pub(crate) fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        let matches = |pattern: &str, name| pattern.parse::<Pattern>().unwrap().matches(name);
        assert!(matches("a", "a") && !matches("a", "ab") && !matches("a", ""));
        assert!(matches("*", "") && matches("*", "x"));
        assert!(matches("a*", "a") && matches("a*", "ab") && !matches("a*", "ba"));
        assert!(matches("*.b", "a.b") && !matches("*.b", "a.b.c"));
        assert!(matches("a*a", "aa") && matches("a*a", "aba"));
        // One letter isn't both ends.
        assert!(!matches("a*a", "a"));
        assert!("a*b*".parse::<Pattern>().is_err() && "".parse::<Pattern>().is_err());
        assert_eq!("a*b".parse::<Pattern>().unwrap().to_string(), "a*b");
    }
}
