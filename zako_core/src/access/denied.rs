//! What those are told who may not.

use super::{Identity, Role};
use crate::cas::{CasError, ErrorKind, Result};

impl Identity {
    /// Refuses one that doesn't have this role in `namespace`.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`], or [`ErrorKind::Unauthenticated`] for who showed
    /// nothing, says what is missing.
    pub fn require(&self, namespace: &str, role: Role) -> Result<()> {
        match self.allows(namespace, role) {
            true => Ok(()),
            false => Err(denied(self, Some(namespace), role)),
        }
    }

    /// Refuses one that has this role in no namespace.
    ///
    /// # Errors
    /// As for [`require`](Self::require).
    pub fn require_somewhere(&self, role: Role) -> Result<()> {
        match self.allows_somewhere(role) {
            true => Ok(()),
            false => Err(denied(self, None, role)),
        }
    }
}

/// The longest part of a namespace that an error shows, in characters.
const SHOWN: usize = 100;

fn denied(identity: &Identity, namespace: Option<&str>, role: Role) -> CasError {
    let (name, role) = (identity.name(), role.as_str());
    let place = match namespace {
        None => "in any namespace".to_owned(),
        Some("") => "in the namespace without a name".to_owned(),
        Some(namespace) => {
            let namespace: String = namespace.chars().take(SHOWN).collect();
            format!("in the namespace {namespace:?}")
        }
    };
    let has = match namespace.and_then(|namespace| identity.role(namespace)) {
        Some(has) => format!(", where it has {}", has.as_str()),
        None => String::new(),
    };
    let message = format!("{name:?} has not the role {role} {place}{has}");
    // Who shows who it is may come further.
    let kind = match identity.is_anonymous() {
        true => ErrorKind::Unauthenticated,
        false => ErrorKind::PermissionDenied,
    };
    CasError::new(kind, message)
}
