//! What happens in a local store.

use std::time::Duration;

use crate::Digest;

/// A group of small blobs that became durable together.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupCommit {
    /// Blobs in it.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What the write took.
    pub write: Duration,
    /// What the sync took; zero if there was none.
    pub sync: Duration,
    /// How long its first blob had waited for its turn.
    pub waited: Duration,
}

/// What was made durable.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Synced {
    /// The end of a segment: small blobs.
    Segment,
    /// The file of a large blob.
    File,
}

/// Why blobs were given up.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EvictionReason {
    /// To make room under the cap.
    Capacity,
    /// A partial upload past its time.
    Expired,
    /// Somebody deleted them.
    Deleted,
}

/// Blobs that were given up.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// Why.
    pub reason: EvictionReason,
    /// How many.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A damaged blob.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// Which.
    pub digest: Digest,
}

impl Synced {
    /// A word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::File => "file",
        }
    }
}

impl EvictionReason {
    /// A word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Capacity => "capacity",
            Self::Expired => "expired",
            Self::Deleted => "deleted",
        }
    }
}

impl Eviction {
    /// Of `blobs` with `bytes` in all.
    pub const fn new(reason: EvictionReason, blobs: u64, bytes: u64) -> Self {
        Self {
            reason,
            blobs,
            bytes,
        }
    }
}

impl Corruption {
    /// Of this blob.
    pub const fn new(digest: Digest) -> Self {
        Self { digest }
    }
}
