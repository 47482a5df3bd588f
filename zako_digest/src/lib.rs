//! The names of Zako's blobs: a [`Digest`] is the size of a blob and its BLAKE3
//! [`struct@Hash`]; a [`BlobRange`] is a part of one.
//!
//! ```
//! use zako_digest::{Digest, hash};
//!
//! let digest = hash::bytes(b"hello");
//! assert_eq!(digest.size(), 5);
//! let text = digest.to_string();
//! assert!(text.ends_with("/5"));
//! assert_eq!(text.parse::<Digest>()?, digest);
//! # Ok::<(), zako_digest::ParseDigestError>(())
//! ```
#![forbid(unsafe_code)]

mod digest;
pub mod hash;
#[cfg(feature = "proto")]
mod proto;
mod range;
#[cfg(feature = "serde")]
mod serde_text;

pub use digest::{Digest, Hash, ParseDigestError, ParseDigestErrorKind};
#[cfg(feature = "proto")]
pub use proto::DigestProtoError;
pub use range::{BlobRange, RangeError};
