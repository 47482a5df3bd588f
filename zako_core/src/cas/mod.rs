//! The trait of all stores, its contract, its errors and its conveniences.

mod blob;
mod cursor;
mod error;
mod ext;
mod maintain;
mod staging;
mod writer;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
pub use blob::{Blob, FileExtent};
use bytes::Bytes;
pub use cursor::Cursor;
pub use error::{CasError, ErrorKind, Result};
pub use ext::{CasExt, blob_reader};
pub use maintain::{GcReport, Maintain, Usage, VerifyReport, VerifyScope};
pub use staging::{NoWitness, StagedSize, StagedWriter, Staging, UploadKey, Witness};
pub use writer::BlobWriter;

use crate::{BlobRange, Digest};

/// A content-addressed store: bytes named by their [`Digest`].
///
/// A store may be a local folder, memory, a far server, or a combination of
/// stores; what follows holds for all of them, and the suite in
/// `zako_core::conformance` checks it.
///
/// # Integrity
/// Bytes enter under their digest only: [`put`](Self::put) and
/// [`BlobWriter::commit`] refuse bytes that don't hash to it
/// ([`ErrorKind::Mismatch`]), and nothing is stored then. A blob is present as a
/// whole or not at all. Bytes read back may still be damaged by a disk or a wire;
/// a store that finds out says [`ErrorKind::Corrupt`], and reports the blob
/// missing from then on.
///
/// # Durability
/// When a call that stores returns `Ok`, the blob is as durable as the store was
/// configured for: for the local store by default, it survives a crash of the
/// process or the machine. A far store answers for what its server answered.
///
/// # Presence and leases
/// A store may evict any blob to make room. A blob that
/// [`missing`](Self::missing) did not report is leased for the [`Lease`] given:
/// the store doesn't evict it before the lease ends. Leases are not counted, the
/// latest end wins, and they don't outlive the store's process. [`delete`](Self::delete)
/// and damage end a blob all the same. Storing a blob leases nothing.
///
/// # Concurrency
/// All methods may be called at once, from many tasks. Two writers of one digest
/// don't disturb one another: one stores the blob, for the other it exists. A
/// [`Blob`] that was opened can be read to its end even when the blob is evicted
/// or deleted meanwhile.
///
/// # Cancellation
/// Dropping a future of this trait leaves the store whole. A dropped `put` or
/// `commit` may still take place, as a whole; a dropped `delete` too. A dropped
/// [`BlobWriter`] keeps what it was given for resumption where the store can
/// ([`held`](Self::held)), for a time that the store sets.
#[async_trait]
pub trait Cas: fmt::Debug + Send + Sync + 'static {
    /// Those of `digests` that are absent, in the order given (duplicates
    /// included). Leases all others for `lease`.
    ///
    /// One call is one pass over the index, so ask for many at once.
    async fn missing(&self, digests: &[Digest], lease: Lease) -> Result<Vec<Digest>>;

    /// What the store knows of a blob. Doesn't count as a use of it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if it is absent.
    async fn stat(&self, digest: &Digest) -> Result<BlobStat>;

    /// Opens a part of a blob for reading.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if the blob is absent, [`ErrorKind::InvalidRange`]
    /// if it doesn't have that range, [`ErrorKind::Corrupt`] if its bytes were
    /// found damaged (here or by a step of the [`Blob`]).
    async fn fetch(&self, digest: &Digest, range: BlobRange) -> Result<Blob>;

    /// Stores a blob that is in memory. Meant for small blobs; use
    /// [`writer`](Self::writer) for large ones.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] if `data` is not the blob of this name,
    /// [`ErrorKind::NoSpace`] if there is no room and none can be made.
    async fn put(&self, digest: &Digest, data: Bytes) -> Result<Stored>;

    /// Begins to store a blob, or goes on with an interrupted upload of it: the
    /// first byte written is the one at `offset`.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if the blob is present,
    /// [`ErrorKind::NotHeld`] if `offset` is more than what is
    /// [`held`](Self::held), [`ErrorKind::NoSpace`] as for [`put`](Self::put).
    async fn writer(&self, digest: &Digest, offset: u64) -> Result<Box<dyn BlobWriter>>;

    /// How many bytes of an interrupted upload of this blob can be resumed; its
    /// size if it is present; 0 if nothing is known of it.
    async fn held(&self, digest: &Digest) -> Result<u64>;

    /// Removes a blob, leased or not; `true` if it was there.
    ///
    /// When this returns, the blob stays gone, also after a crash, as far as the
    /// store is durable.
    async fn delete(&self, digest: &Digest) -> Result<bool>;

    /// [`put`](Self::put) for many blobs at once; one outcome each, in order.
    ///
    /// A store overrides this where a batch is cheaper than its parts.
    async fn put_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<Stored>> {
        futures::future::join_all(
            blobs
                .iter()
                .map(|(digest, data)| self.put(digest, data.clone())),
        )
        .await
    }

    /// Reads many small blobs whole; one outcome each, in order. They may share
    /// memory: who keeps one of many for long copies it.
    ///
    /// A store overrides this where a batch is cheaper than its parts.
    async fn fetch_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes>> {
        let mut outcomes = Vec::with_capacity(digests.len());
        for digest in digests {
            outcomes.push(match self.fetch(digest, BlobRange::FULL).await {
                Ok(blob) => blob.bytes().await,
                Err(error) => Err(error),
            });
        }
        outcomes
    }
}

/// For how long [`Cas::missing`] keeps what it finds.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Lease {
    /// As long as the store is configured for.
    #[default]
    Default,
    /// Not at all: the answer holds for the moment only.
    None,
    /// For this long, bounded by the store's maximum.
    For(Duration),
}

/// How a call that stores left the blob: present in both cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stored {
    /// It was stored by this call.
    New,
    /// It was there before, or another writer was faster.
    Existing,
}

/// What a store knows of a blob.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobStat {
    /// Its name.
    pub digest: Digest,
    /// For how long the store won't evict it; zero if it isn't leased.
    pub leased_for: Duration,
    /// Where it lies.
    pub location: Location,
}

impl BlobStat {
    /// What is known of a blob that is present.
    pub fn new(digest: Digest, leased_for: Duration, location: Location) -> Self {
        Self {
            digest,
            leased_for,
            location,
        }
    }
}

/// Where a blob lies.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// A record of a segment of a local store.
    Segment,
    /// A file of its own in a local store.
    File,
    /// Memory.
    Memory,
    /// Somewhere that this process can't see.
    Remote,
}

impl Location {
    /// A word for it, as shown to people and sent on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::File => "file",
            Self::Memory => "memory",
            Self::Remote => "remote",
        }
    }
}
