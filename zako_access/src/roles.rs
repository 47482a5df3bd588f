//! Which roles in which namespaces.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use zako_core::access::{Rights, Role};

/// Roles by namespaces, as they are written: a role, which holds everywhere, or a table of
/// namespaces (`main`, `team/*`, `*` for all, the empty one for calls that name none) and
/// their roles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles(Vec<(String, Option<Role>)>);

/// The longest name of a namespace, in bytes.
const LONGEST: usize = 256;

/// The most namespaces.
const MOST: usize = 1024;

impl Roles {
    /// This role, or none, everywhere.
    pub fn everywhere(role: impl Into<Option<Role>>) -> Self {
        Self(vec![("*".to_owned(), role.into())])
    }

    /// With these too.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// Whether they are none anywhere.
    pub fn is_none(&self) -> bool {
        self.0.iter().all(|(_, role)| role.is_none())
    }

    /// What they give.
    pub fn rights(&self) -> Rights {
        let rights = Rights::default();
        let roles = self.0.iter();
        roles.fold(rights, |rights, (namespaces, role)| {
            rights.with(namespaces.clone(), *role)
        })
    }

    /// One more.
    ///
    /// # Errors
    /// What is wrong with the namespace or the role.
    pub(crate) fn add(&mut self, namespaces: &str, role: &str) -> Result<(), String> {
        let star = namespaces.find('*');
        if star.is_some_and(|at| at + 1 != namespaces.len()) {
            return Err(format!("{namespaces:?} has a * elsewhere than at its end"));
        }
        if namespaces.len() > LONGEST || namespaces.chars().any(char::is_control) {
            return Err(format!(
                "a namespace has at most {LONGEST} bytes, and no control characters"
            ));
        }
        if self.0.len() >= MOST {
            return Err(format!("there are more than {MOST} namespaces"));
        }
        self.0.push((namespaces.to_owned(), role_of(role)?));
        Ok(())
    }
}

fn role_of(text: &str) -> Result<Option<Role>, String> {
    match text {
        "none" => Ok(None),
        "read" => Ok(Some(Role::Read)),
        "write" => Ok(Some(Role::Write)),
        "admin" => Ok(Some(Role::Admin)),
        _ => Err(format!(
            "{text:?} is no role: write none, read, write or admin"
        )),
    }
}

impl FromStr for Roles {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        role_of(text).map(Self::everywhere)
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |role: &Option<Role>| role.map_or("none", Role::as_str);
        match &self.0[..] {
            [] => f.write_str("none"),
            [(namespaces, role)] if namespaces == "*" => f.write_str(word(role)),
            roles => {
                let roles = roles.iter();
                let roles: Vec<String> = roles
                    .map(|(namespaces, role)| format!("{namespaces:?} = {}", word(role)))
                    .collect();
                f.write_str(&roles.join(", "))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Roles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RolesVisitor)
    }
}

struct RolesVisitor;

impl<'de> Visitor<'de> for RolesVisitor {
    type Value = Roles;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a role (none, read, write or admin), or a table of namespaces and roles")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Roles, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Roles, A::Error> {
        let mut roles = Roles::default();
        while let Some((namespaces, role)) = map.next_entry::<String, String>()? {
            roles.add(&namespaces, &role).map_err(de::Error::custom)?;
        }
        Ok(roles)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zako_core::access::Identity;

    fn parsed(json: &str) -> Result<Roles, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_word_holds_everywhere_and_a_table_where_it_says() {
        let of = |json: &str| Identity::new("x", parsed(json).unwrap().rights());
        assert!(of(r#""write""#).allows("any", Role::Write));
        let table = of(r#"{"*": "read", "main": "write", "secret": "none"}"#);
        assert_eq!(table.role("main"), Some(Role::Write));
        assert_eq!(table.role(""), Some(Role::Read));
        assert_eq!(table.role("secret"), None);
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (json, text) in [
            (r#""all""#, "no role"),
            (r#"{"a": "all"}"#, "no role"),
            (r#"{"a*b": "read"}"#, "elsewhere"),
            (r#"{"a\n": "read"}"#, "control"),
            ("7", "a table of namespaces"),
        ] {
            let error = parsed(json).unwrap_err();
            assert!(error.contains(text), "{json}: {error}");
        }
    }
}
