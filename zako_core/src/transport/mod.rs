//! How bytes move: one road a module.

pub mod grpc;
pub(crate) mod outbox;
