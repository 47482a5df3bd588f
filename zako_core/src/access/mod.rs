//! Who calls a server, and what they may do.
//!
//! A server asks its [`Authorizer`] once for each call who the caller is, by what the
//! connection and the call's metadata tell ([`Credentials`]). The [`Identity`] says what
//! it may ([`Role`]), and carries over into one-time tokens and sessions. Without an
//! authorizer everyone who can connect may do everything, but for the maintenance of the
//! store, which the server's options say.

mod accounted;
mod denied;
mod identity;
mod pace;
mod quota;
#[cfg(feature = "grpc")]
mod recognition;
mod secret;

use std::fmt;

pub use accounted::Accounted;
pub use identity::{Identity, Rights, Role};
pub use pace::Pace;
pub use quota::{Account, Allowance, Consumer, Direction, Exceeded, Limit, Quota};
#[cfg(feature = "grpc")]
pub(crate) use recognition::Recognition;
pub use secret::Secret;

use crate::cas::Result;

/// Tells who a caller is.
pub trait Authorizer: fmt::Debug + Send + Sync + 'static {
    /// The identity behind these credentials.
    ///
    /// Called for the calls of a connection whenever they show something else than the
    /// last one did: it must not block, and should be quick for credentials that it has
    /// seen.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`](crate::cas::ErrorKind::Unauthenticated) if they are
    /// none, wrong or expired, and nobody may come without.
    fn identify(&self, credentials: &Credentials<'_>) -> Result<Identity>;

    /// Another number whenever the same credentials may be somebody else's than before.
    /// Connections remember who their last caller was until it changes.
    fn generation(&self) -> u64 {
        0
    }
}

/// What a caller shows of itself.
#[non_exhaustive]
#[derive(Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// The certificate of a TLS connection's client, in DER, which its chain was checked
    /// for already.
    pub certificate: Option<&'a [u8]>,
    /// The value of the call's `authorization`.
    pub authorization: Option<&'a [u8]>,
    /// The user of a Unix socket's peer.
    pub user: Option<u32>,
    /// Whether the caller runs on this machine.
    pub is_local: bool,
}

impl fmt::Debug for Credentials<'_> {
    /// Without what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("certificate", &self.certificate.is_some())
            .field("authorization", &self.authorization.is_some())
            .field("user", &self.user)
            .field("is_local", &self.is_local)
            .finish()
    }
}
