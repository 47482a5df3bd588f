//! Who makes a call, and whether it may.

use std::fmt;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use super::Peer;
use crate::access::{Authorizer, Identity, Role};
use crate::cas::{CasError, ErrorKind, Result};

/// Who makes a call: is asked when it begins, and again where it goes on for long. Cheap
/// to clone.
#[derive(Clone, Default)]
pub struct Caller(Option<Shown>);

/// What a call showed.
#[derive(Clone)]
struct Shown {
    authorizer: Arc<dyn Authorizer>,
    peer: Arc<Peer>,
    authorization: Option<HeaderValue>,
}

impl Caller {
    /// The caller on a server that doesn't care who calls: it may do everything.
    pub const fn anyone() -> Self {
        Self(None)
    }

    /// The caller on this connection with these headers.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`] if it is ambiguous what it shows.
    pub fn of(
        authorizer: Option<&Arc<dyn Authorizer>>,
        peer: &Arc<Peer>,
        headers: &HeaderMap,
    ) -> Result<Self> {
        let Some(authorizer) = authorizer else {
            return Ok(Self(None));
        };
        let mut shown = headers.get_all(AUTHORIZATION).iter();
        let authorization = shown.next().cloned().map(|mut value| {
            value.set_sensitive(true);
            value
        });
        if shown.next().is_some() {
            let message = "the call has more than one authorization";
            return Err(CasError::new(ErrorKind::Unauthenticated, message));
        }
        Ok(Self(Some(Shown {
            authorizer: Arc::clone(authorizer),
            peer: Arc::clone(peer),
            authorization,
        })))
    }

    /// Whether it makes a difference who calls.
    pub fn matters(&self) -> bool {
        self.0.is_some()
    }

    /// Who it is now; `None` where that makes no difference.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`] if it is nobody (any more).
    pub fn identity(&self) -> Result<Option<Identity>> {
        let Some(shown) = &self.0 else {
            return Ok(None);
        };
        let authorization = shown.authorization.as_ref();
        let authorization = authorization.map(HeaderValue::as_bytes);
        let identity = shown.peer.identify(&*shown.authorizer, authorization);
        identity.map(Some)
    }

    /// Refuses a caller that doesn't have this role in `namespace`.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`] if it is nobody, or anonymous and may not;
    /// [`ErrorKind::PermissionDenied`] if it is somebody who may not.
    pub fn check(&self, namespace: &str, role: Role) -> Result<()> {
        self.identity_with(namespace, role).map(drop)
    }

    /// Who it is, if it has this role in `namespace`.
    ///
    /// # Errors
    /// As for [`check`](Self::check).
    pub fn identity_with(&self, namespace: &str, role: Role) -> Result<Option<Identity>> {
        let identity = self.identity()?;
        if let Some(identity) = &identity {
            identity.require(namespace, role)?;
        }
        Ok(identity)
    }

    /// Refuses a caller that has this role nowhere: for calls that tell their namespace
    /// late.
    ///
    /// # Errors
    /// As for [`check`](Self::check).
    pub fn check_somewhere(&self, role: Role) -> Result<()> {
        match self.identity()? {
            Some(identity) => identity.require_somewhere(role),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = self.0.as_ref().map(|shown| shown.peer.addr());
        f.debug_tuple("Caller").field(&peer).finish()
    }
}
