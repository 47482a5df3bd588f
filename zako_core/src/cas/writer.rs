//! Storing a blob step by step.

use async_trait::async_trait;
use bytes::Bytes;

use super::{Result, Stored};
use crate::Digest;

/// An upload under way, from [`Cas::writer`](super::Cas::writer).
///
/// Dropping it without [`commit`](Self::commit) or [`discard`](Self::discard)
/// parks it as [`park`](Self::park) does, as far as a drop can.
#[async_trait]
pub trait BlobWriter: Send {
    /// The blob that is being stored.
    fn digest(&self) -> &Digest;

    /// How many bytes of the blob this writer holds: the offset of the next one.
    fn held(&self) -> u64;

    /// Adds the next bytes. Returns when the store has taken them, which slows
    /// the caller down to the store's speed.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](super::ErrorKind::Mismatch) if that is more than
    /// the blob's size; [`ErrorKind::NoSpace`](super::ErrorKind::NoSpace). After an
    /// error the writer only takes `park` and `discard`.
    async fn write(&mut self, data: Bytes) -> Result<()>;

    /// Stores the blob: checks its size and hash, and makes it durable.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](super::ErrorKind::Mismatch) if the bytes are too few
    /// or not those of the digest; nothing is held then.
    /// [`ErrorKind::Stale`](super::ErrorKind::Stale) if bytes that an earlier
    /// upload left had been damaged: begin again at 0.
    async fn commit(self: Box<Self>) -> Result<Stored>;

    /// Interrupts the upload and keeps what is held for a resumption; returns how
    /// many bytes that is (0 where the store can't).
    async fn park(self: Box<Self>) -> Result<u64>;

    /// Gives the upload up and frees its space.
    async fn discard(self: Box<Self>) -> Result<()>;
}
