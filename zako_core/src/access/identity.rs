//! Identities and their rights.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::Hash;

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
    /// Of the name.
    hash: Hash,
    rights: Rights,
    valid_until: Option<SystemTime>,
}

/// Roles by namespace. The most specific entry counts: that of the namespace itself, then
/// the longest `prefix*`, then what holds everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    everywhere: Option<Role>,
    by_namespace: Vec<(String, Option<Role>)>,
}

impl Identity {
    /// The name of those who show nothing of themselves.
    pub const ANONYMOUS: &'static str = "anonymous";

    /// An identity with this name and these rights.
    pub fn new(name: impl Into<String>, rights: Rights) -> Self {
        Self::known(name.into(), rights, None)
    }

    /// Those who show nothing of themselves, with these rights.
    pub fn anonymous(rights: Rights) -> Self {
        Self::new(Self::ANONYMOUS, rights)
    }

    /// The same until `time`, when its credentials expire: it is asked for again then.
    #[must_use]
    pub fn until(self, time: SystemTime) -> Self {
        let rights = self.0.rights.clone();
        Self::known(self.0.name.clone(), rights, Some(time))
    }

    fn known(name: String, rights: Rights, valid_until: Option<SystemTime>) -> Self {
        Self(Arc::new(Known {
            hash: *zako_digest::hash::bytes(name.as_bytes()).hash(),
            name,
            rights,
            valid_until,
        }))
    }

    /// Its name: bounded in length and number by the configuration or its issuer. Never
    /// a secret.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether this is somebody who showed nothing.
    pub fn is_anonymous(&self) -> bool {
        self.name() == Self::ANONYMOUS
    }

    /// Whether it has this role, or a greater one, in `namespace`; the empty one is that
    /// of calls which name none.
    pub fn allows(&self, namespace: &str, role: Role) -> bool {
        self.role(namespace) >= Some(role)
    }

    /// Whether it has this role, or a greater one, in a namespace at all.
    pub fn allows_somewhere(&self, role: Role) -> bool {
        self.0.rights.greatest() >= Some(role)
    }

    /// The role that it has in `namespace`.
    pub fn role(&self, namespace: &str) -> Option<Role> {
        self.0.rights.role(namespace)
    }

    /// Until when its credentials are good, if that ends.
    pub fn valid_until(&self) -> Option<SystemTime> {
        self.0.valid_until
    }

    /// The hash of its name.
    #[cfg(feature = "grpc")]
    pub(crate) fn hash(&self) -> Hash {
        self.0.hash
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

    /// With this role, or none, in a namespace, in all that begin with what stands before
    /// a `*` at the end, or with `*` alone in all.
    #[must_use]
    pub fn with(mut self, namespaces: impl Into<String>, role: impl Into<Option<Role>>) -> Self {
        let (namespaces, role) = (namespaces.into(), role.into());
        if namespaces == "*" {
            self.everywhere = role;
        } else {
            self.by_namespace.push((namespaces, role));
        }
        self
    }

    fn role(&self, namespace: &str) -> Option<Role> {
        let matching = self.by_namespace.iter().filter_map(|(pattern, role)| {
            let how_well = match pattern.strip_suffix('*') {
                None => (pattern == namespace).then_some(usize::MAX),
                Some(prefix) => namespace.starts_with(prefix).then_some(prefix.len()),
            };
            how_well.map(|how_well| (how_well, *role))
        });
        let best = matching.max_by_key(|(how_well, _)| *how_well);
        best.map_or(self.everywhere, |(_, role)| role)
    }

    fn greatest(&self) -> Option<Role> {
        let named = self.by_namespace.iter().map(|(_, role)| *role);
        named.chain([self.everywhere]).max().flatten()
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

    #[test]
    fn the_most_specific_namespace_counts() {
        let rights = Rights::everywhere(Role::Write)
            .with("release*", Role::Read)
            .with("release/nightly*", Role::Admin)
            .with("release/secret", None)
            .with("", Role::Read);
        let identity = Identity::new("ci", rights);
        for (namespace, role) in [
            ("main", Some(Role::Write)),
            ("", Some(Role::Read)),
            ("release", Some(Role::Read)),
            ("release/nightly/7", Some(Role::Admin)),
            ("release/secret", None),
            ("release/secret2", Some(Role::Read)),
        ] {
            assert_eq!(identity.role(namespace), role, "{namespace}");
        }
        assert!(identity.allows_somewhere(Role::Admin));
        let reader = Identity::new("x", Rights::default().with("a", Role::Read));
        assert!(reader.allows_somewhere(Role::Read) && !reader.allows_somewhere(Role::Write));
        assert!(!Identity::new("x", Rights::default()).allows_somewhere(Role::Read));
    }
}
