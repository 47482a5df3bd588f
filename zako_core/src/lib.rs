//! The content-addressed store Zako.
//!
//! [`cas`] has the trait [`Cas`](cas::Cas), its contract and its errors;
//! [`store`] the stores behind it: on local disk, in memory, and one in front of
//! another; [`alias`] a table of other names for blobs; [`observe`] what can be learned of
//! all that while it runs; [`access`] who may use it. With the feature `grpc` (on by default) come
//! [`negotiate`], [`transport`], [`server`] and [`client`], and with `tls` encryption of all that. With default features off this crate
//! is the embedded store alone.

pub mod access;
pub mod alias;
pub mod cas;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod observe;
pub mod store;
pub mod transfer;

#[cfg(feature = "grpc")]
pub mod client;
#[cfg(feature = "grpc")]
pub mod negotiate;
#[cfg(feature = "grpc")]
pub mod server;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(all(feature = "grpc", not(feature = "tls")))]
#[path = "tls/absent.rs"]
mod tls;
#[cfg(feature = "grpc")]
pub mod transport;
#[cfg(feature = "grpc")]
pub mod tree;

pub use zako_digest::{BlobRange, Digest, Hash};
