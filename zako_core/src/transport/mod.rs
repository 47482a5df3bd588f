//! How bytes move: one road a module.

pub mod grpc;
mod inbox;
mod outbox;
pub(crate) mod plaintext;
pub(crate) mod socket;
pub(crate) mod stream;
#[cfg(feature = "tls")]
pub(crate) mod tls;
