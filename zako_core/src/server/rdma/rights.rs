//! What the token of a session allows on it.

use std::sync::Arc;

use http::HeaderMap;
use tonic::Status;

use crate::access::{Identity, Role};
use crate::cas::{CasError, Result};
use crate::negotiate::{Access, Caller, Gate, Peer, StreamPermit};
use crate::server::gated::TOKEN;
use crate::server::roles::namespace;
use crate::server::status::to_status;

/// What may be done on an RDMA session. Keeps the token's session from idling out.
#[derive(Debug)]
pub(super) struct Rights {
    caller: Caller,
    identity: Option<Identity>,
    namespace: String,
    read: Result<StreamPermit>,
    write: Result<StreamPermit>,
}

impl Rights {
    /// Those of a call with this token on this connection.
    ///
    /// # Errors
    /// Why it may do nothing.
    pub(super) fn of(
        gate: &Gate,
        peer: &Arc<Peer>,
        caller: Caller,
        headers: &HeaderMap,
    ) -> Result<Self, Status> {
        let token = headers.get(TOKEN).map(|token| token.as_bytes());
        let known = caller.identity().and_then(|identity| {
            let namespace = namespace(headers)?.to_owned();
            Ok((identity, namespace))
        });
        let (identity, namespace) = known.map_err(|error| to_status(&error))?;
        let allowed = |access| gate.admit_control(peer, identity.as_ref(), token, access);
        let rights = Self {
            caller,
            identity: identity.clone(),
            namespace,
            read: allowed(Access::Read),
            write: allowed(Access::Write),
        };
        match (&rights.read, &rights.write) {
            (Err(error), Err(_)) => Err(to_status(error)),
            _ => Ok(rights),
        }
    }

    /// Who it is, where that is known.
    pub(super) fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Refuses what the token doesn't allow, or the caller has not (any more) the role for:
    /// a session outlives the configuration that it began under.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check(&self, access: Access) -> Result<()> {
        let (right, role) = match access {
            Access::Read => (&self.read, Role::Read),
            Access::Write => (&self.write, Role::Write),
        };
        right.as_ref().map_err(CasError::clone)?;
        self.caller.check(&self.namespace, role)
    }
}
