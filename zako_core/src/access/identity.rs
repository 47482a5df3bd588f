//! Identities and their rights.

use std::fmt;
use std::sync::Arc;

/// What an identity may do in a namespace. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Ask for blobs and results, and get them.
    Read,
    /// Store and delete them.
    Write,
    /// Look after the store: verify it, collect its garbage.
    Admin,
}

/// Who a caller is, and what it may. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity(Arc<Known>);

#[derive(PartialEq, Eq)]
struct Known {
    name: String,
    rights: Rights,
}

/// Roles by namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    everywhere: Option<Role>,
    by_namespace: Vec<(String, Role)>,
}

impl Identity {
    /// The name of those who show nothing of themselves.
    pub const ANONYMOUS: &'static str = "anonymous";

    /// An identity with this name and these rights.
    pub fn new(name: impl Into<String>, rights: Rights) -> Self {
        let name = name.into();
        Self(Arc::new(Known { name, rights }))
    }

    /// Its name: bounded in length and number by the configuration or its issuer. Never
    /// a secret.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether it has this role, or a greater one, in `namespace`; the empty one is that
    /// of calls which name none.
    pub fn allows(&self, namespace: &str, role: Role) -> bool {
        self.0.rights.allows(namespace, role)
    }
}

impl Rights {
    /// This role in all namespaces.
    pub const fn everywhere(role: Role) -> Self {
        Self {
            everywhere: Some(role),
            by_namespace: Vec::new(),
        }
    }

    /// With this role in `namespace` too.
    #[must_use]
    pub fn with(mut self, namespace: impl Into<String>, role: Role) -> Self {
        self.by_namespace.push((namespace.into(), role));
        self
    }

    fn allows(&self, namespace: &str, role: Role) -> bool {
        let here = self
            .by_namespace
            .iter()
            .filter(|(name, _)| name == namespace)
            .map(|(_, role)| *role);
        here.chain(self.everywhere).any(|has| has >= role)
    }
}

impl Role {
    /// A word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.name()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greater_roles_include_lesser_ones() {
        let rights = Rights::everywhere(Role::Read).with("main", Role::Write);
        let identity = Identity::new("ci", rights);
        assert!(identity.allows("", Role::Read) && identity.allows("main", Role::Write));
        assert!(!identity.allows("", Role::Write) && !identity.allows("main", Role::Admin));
        assert!(!Identity::new("x", Rights::default()).allows("", Role::Read));
    }
}
