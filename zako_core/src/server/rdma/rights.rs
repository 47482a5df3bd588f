//! What the token of a session allows on it.

use std::sync::Arc;

use tonic::Status;

use crate::cas::{CasError, Result};
use crate::negotiate::{Access, Gate, Peer, StreamPermit};
use crate::server::status::to_status;

/// What may be done on an RDMA session. Keeps the token's session from idling out.
#[derive(Debug)]
pub(super) struct Rights {
    read: Result<StreamPermit>,
    write: Result<StreamPermit>,
}

impl Rights {
    /// Those of a call with this token on this connection.
    ///
    /// # Errors
    /// Why it may do nothing.
    pub(super) fn of(gate: &Gate, peer: &Arc<Peer>, token: Option<&[u8]>) -> Result<Self, Status> {
        let allowed = |access| gate.admit_control(peer, token, access);
        let rights = Self {
            read: allowed(Access::Read),
            write: allowed(Access::Write),
        };
        match (&rights.read, &rights.write) {
            (Err(error), Err(_)) => Err(to_status(error)),
            _ => Ok(rights),
        }
    }

    pub(super) fn check(&self, access: Access) -> Result<(), &CasError> {
        let right = match access {
            Access::Read => &self.read,
            Access::Write => &self.write,
        };
        right.as_ref().map(drop)
    }
}
