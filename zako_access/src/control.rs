//! The rules in force.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use zako_core::access::{Authorizer, Credentials, Identity};
use zako_core::cas::Result;

use crate::error::AccessError;
use crate::identities::Identities;
use crate::rules::AccessRules;

/// Knows who callers are by rules that can be replaced while a server runs. Cheap to
/// clone; clones have the same rules.
#[derive(Clone, Debug)]
pub struct AccessControl(Arc<InForce>);

/// Rules that can be put in force.
#[derive(Debug)]
pub struct Prepared {
    rules: AccessRules,
    identities: Identities,
}

#[derive(Debug)]
struct InForce {
    known: RwLock<Arc<Prepared>>,
    generation: AtomicU64,
}

impl Prepared {
    /// Checks rules and reads what they refer to.
    ///
    /// # Errors
    /// Why they can't be put in force.
    pub fn new(rules: AccessRules) -> std::result::Result<Self, AccessError> {
        let identities = Identities::new(&rules)?;
        Ok(Self { rules, identities })
    }
}

impl AccessControl {
    /// Puts rules in force.
    ///
    /// # Errors
    /// Why they can't be.
    pub fn new(rules: AccessRules) -> std::result::Result<Self, AccessError> {
        Prepared::new(rules).map(Self::of)
    }

    /// Puts prepared rules in force.
    pub fn of(prepared: Prepared) -> Self {
        Self(Arc::new(InForce {
            known: RwLock::new(Arc::new(prepared)),
            generation: AtomicU64::new(0),
        }))
    }

    /// Puts other rules in force: from the next call on, on open connections too.
    pub fn replace(&self, prepared: Prepared) {
        *self.0.known.write() = Arc::new(prepared);
        // After: who sees the new number must find the new rules.
        self.0.generation.fetch_add(1, Ordering::Release);
    }

    /// Reads again what the rules in force refer to: the keys of JWTs.
    ///
    /// # Errors
    /// It can't be read; what was read before stays in force.
    pub fn refresh(&self) -> std::result::Result<(), AccessError> {
        let rules = self.rules();
        self.replace(Prepared::new(rules)?);
        Ok(())
    }

    /// The rules in force.
    pub fn rules(&self) -> AccessRules {
        self.0.known.read().rules.clone()
    }
}

impl Authorizer for AccessControl {
    fn identify(&self, credentials: &Credentials<'_>) -> Result<Identity> {
        let known = Arc::clone(&self.0.known.read());
        known.identities.identify(credentials)
    }

    fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }
}
