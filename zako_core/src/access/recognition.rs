//! Who a connection's last caller was.

use std::fmt;
use std::time::SystemTime;

use parking_lot::Mutex;
use subtle::ConstantTimeEq;

use super::{Authorizer, Credentials, Identity};
use crate::cas::Result;

/// Who a connection's last caller was, so that the next call with the same `authorization`
/// costs no more than to compare it. What else there is of credentials stays the same for
/// as long as the connection.
#[derive(Default)]
pub(crate) struct Recognition(Mutex<Option<Recognised>>);

struct Recognised {
    generation: u64,
    authorization: Option<Box<[u8]>>,
    identity: Identity,
}

impl Recognition {
    /// The identity behind these credentials.
    ///
    /// # Errors
    /// As for [`Authorizer::identify`].
    pub(crate) fn identify(
        &self,
        authorizer: &dyn Authorizer,
        credentials: &Credentials<'_>,
    ) -> Result<Identity> {
        // Before it is asked: what changes meanwhile is asked for again.
        let generation = authorizer.generation();
        let shown = credentials.authorization;
        if let Some(known) = &*self.0.lock()
            && known.generation == generation
            && known.showed(shown)
            && known.is_valid()
        {
            return Ok(known.identity.clone());
        }
        let identity = authorizer.identify(credentials)?;
        *self.0.lock() = Some(Recognised {
            generation,
            authorization: shown.map(Into::into),
            identity: identity.clone(),
        });
        Ok(identity)
    }
}

impl Recognised {
    /// Behind a proxy, callers share a connection: they must not learn each other's
    /// credentials by how long this takes.
    fn showed(&self, authorization: Option<&[u8]>) -> bool {
        match (&self.authorization, authorization) {
            (Some(known), Some(shown)) => known.ct_eq(shown).into(),
            (None, None) => true,
            _ => false,
        }
    }

    fn is_valid(&self) -> bool {
        let until = self.identity.valid_until();
        until.is_none_or(|until| SystemTime::now() < until)
    }
}

impl fmt::Debug for Recognition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.0.lock();
        let identity = known.as_ref().map(|known| &known.identity);
        f.debug_tuple("Recognition").field(&identity).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::access::{Rights, Role};
    use crate::cas::{CasError, ErrorKind};

    /// Takes everything but nothing and "wrong", and counts what it is asked.
    #[derive(Debug, Default)]
    struct Asked {
        times: AtomicU64,
        generation: AtomicU64,
        until: Option<SystemTime>,
    }

    impl Authorizer for Asked {
        fn identify(&self, credentials: &Credentials<'_>) -> Result<Identity> {
            self.times.fetch_add(1, Ordering::Relaxed);
            let shown = credentials.authorization.unwrap_or(b"wrong");
            if shown == b"wrong" {
                return Err(CasError::new(ErrorKind::Unauthenticated, "who?"));
            }
            let name = String::from_utf8_lossy(shown).into_owned();
            let identity = Identity::new(name, Rights::everywhere(Role::Read));
            Ok(match self.until {
                Some(time) => identity.until(time),
                None => identity,
            })
        }

        fn generation(&self) -> u64 {
            self.generation.load(Ordering::Relaxed)
        }
    }

    fn name(known: &Recognition, asked: &Asked, shown: &[u8]) -> Option<String> {
        let credentials = Credentials {
            authorization: Some(shown),
            ..Credentials::default()
        };
        let identity = known.identify(asked, &credentials).ok()?;
        Some(identity.name().to_owned())
    }

    #[test]
    fn the_same_credentials_are_asked_about_once_until_something_changes() {
        let (known, asked) = (Recognition::default(), Asked::default());
        let times = || asked.times.load(Ordering::Relaxed);
        for _ in 0..3 {
            assert_eq!(name(&known, &asked, b"a").as_deref(), Some("a"));
        }
        assert_eq!(times(), 1);
        assert_eq!(name(&known, &asked, b"b").as_deref(), Some("b"));
        assert_eq!(name(&known, &asked, b"wrong"), None);
        assert_eq!(name(&known, &asked, b"b").as_deref(), Some("b"));
        assert_eq!(times(), 3);
        asked.generation.store(1, Ordering::Relaxed);
        assert_eq!(name(&known, &asked, b"b").as_deref(), Some("b"));
        assert_eq!(times(), 4);
        assert!(known.identify(&asked, &Credentials::default()).is_err());
        assert!(!format!("{known:?}").contains("authorization"));
    }

    #[test]
    fn what_expired_is_asked_about_again() {
        let known = Recognition::default();
        let asked = Asked {
            until: Some(SystemTime::UNIX_EPOCH),
            ..Asked::default()
        };
        for times in 1..4 {
            assert_eq!(name(&known, &asked, b"a").as_deref(), Some("a"));
            assert_eq!(asked.times.load(Ordering::Relaxed), times);
        }
    }
}
