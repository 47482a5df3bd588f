//! Looking after a store that this process owns.

use std::fmt;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::Result;
use crate::Digest;

/// What the owner of a store can do with it beside using it.
#[async_trait]
pub trait Maintain: fmt::Debug + Send + Sync + 'static {
    /// Figures of the store as it is now.
    async fn usage(&self) -> Result<Usage>;

    /// Re-hashes blobs. A damaged one is quarantined and reported missing from
    /// then on; one that can't be read (an I/O error) is reported and kept.
    ///
    /// Sends the report so far to `progress` from time to time, as long as there
    /// is a receiver; returns the whole one. Ends early when the receiver is gone.
    async fn verify(
        &self,
        scope: VerifyScope,
        progress: mpsc::Sender<VerifyReport>,
    ) -> Result<VerifyReport>;

    /// Frees what can be freed without losing a blob: compacts segments that are
    /// mostly dead, drops expired partial uploads.
    async fn collect_garbage(&self) -> Result<GcReport>;
}

/// Which blobs to verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifyScope {
    /// Every one.
    All,
    /// These.
    Blobs(Vec<Digest>),
}

/// What a verification has found so far.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Blobs read and hashed.
    pub blobs_checked: u64,
    /// Bytes read and hashed.
    pub bytes_checked: u64,
    /// Blobs to check in all.
    pub blobs_total: u64,
    /// Bytes to check in all.
    pub bytes_total: u64,
    /// Damaged; they are in quarantine now.
    pub corrupt: Vec<Digest>,
    /// Asked for and absent.
    pub missing: Vec<Digest>,
    /// Not readable for another reason than damage; still there.
    pub unreadable: Vec<Digest>,
}

/// What a garbage collection did.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Segments given back to the file system.
    pub segments_freed: u64,
    /// Bytes of disk given back.
    pub bytes_freed: u64,
    /// Bytes of live records moved to other segments.
    pub bytes_moved: u64,
    /// Partial uploads past their time.
    pub partials_expired: u64,
}

/// Figures of a store; sizes in bytes.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blobs present.
    pub blobs: u64,
    /// The sum of their sizes.
    pub blob_bytes: u64,
    /// Disk (or memory) in use, with all overhead, partial uploads and quarantine.
    pub disk_bytes: u64,
    /// The most that it may use.
    pub disk_cap_bytes: u64,
    /// What a garbage collection could give back, about.
    pub reclaimable_bytes: u64,
    /// Blobs under a lease.
    pub leased_bytes: u64,
    /// Interrupted and running uploads.
    pub partial_bytes: u64,
    /// Blobs in quarantine.
    pub quarantined_blobs: u64,
    /// Memory that the index takes.
    pub index_bytes: u64,
    /// Small blobs that wait to be written. A server doesn't tell its clients.
    pub queued_bytes: u64,
    /// File operations of this process's stores that wait for a thread or run on one.
    /// A server doesn't tell its clients.
    pub blocking_jobs: u64,
    /// How durable a stored blob is: "immediate", "interval", "none".
    pub durability: &'static str,
}
