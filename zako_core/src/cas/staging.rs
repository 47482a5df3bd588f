//! Storing blobs whose digest is known only when all their bytes are there.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Cas, Result, Stored};
use crate::{Digest, Hash};

/// A store that takes blobs whose digest is known only when all bytes are there:
/// who uploads names them by something else, another hash for instance.
///
/// What [`Cas`] says of integrity, durability, concurrency and cancellation holds
/// here too. The suite in `zako_core::conformance` checks it.
#[async_trait]
pub trait Staging: Cas {
    /// Stores blobs that are in memory under the digest that they have; one outcome
    /// each, in order. Each is hashed once.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`](super::ErrorKind::NoSpace) if there is no room and none
    /// can be made.
    async fn put_unnamed(&self, blobs: Vec<Bytes>) -> Vec<Result<(Digest, Stored)>>;

    /// Begins to store the upload `key`, or goes on with what is
    /// [`staged`](Self::staged) of it: the first byte written is the one at `offset`.
    /// Use the same `size` each time.
    ///
    /// Uploads of one key at the same time don't disturb one another: each is one of
    /// its own, and one of them goes on with what is staged. What the others hold
    /// need not be kept when one of them is stored.
    ///
    /// # Errors
    /// [`ErrorKind::NotHeld`](super::ErrorKind::NotHeld) if `offset` is more than
    /// what is staged, or nothing of it turned out to be of use;
    /// [`ErrorKind::NoSpace`](super::ErrorKind::NoSpace) if so much can never be
    /// stored.
    async fn stage(
        &self,
        key: &UploadKey,
        size: StagedSize,
        offset: u64,
        witness: Box<dyn Witness>,
    ) -> Result<Box<dyn StagedWriter>>;

    /// How many bytes of an interrupted upload can be resumed; 0 if nothing is known
    /// of it, also when its blob is present.
    async fn staged(&self, key: &UploadKey) -> Result<u64>;
}

/// An upload under way, from [`Staging::stage`].
///
/// Dropping it without [`commit`](Self::commit) or [`discard`](Self::discard) parks
/// it as [`park`](Self::park) does, as far as a drop can.
#[async_trait]
pub trait StagedWriter: Send {
    /// How many bytes this writer holds: the offset of the next one.
    fn held(&self) -> u64;

    /// Adds the next bytes. Returns when the store has taken them, which slows the
    /// caller down to the speed of the store and the witness.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](super::ErrorKind::Mismatch) if that is more than the
    /// size given; [`ErrorKind::NoSpace`](super::ErrorKind::NoSpace). After an error
    /// the writer only takes `park` and `discard`.
    async fn write(&mut self, data: Bytes) -> Result<()>;

    /// Stores the blob under the digest that it has: checks its size, asks the
    /// witness, and makes it durable. If the blob is present already, what is held is
    /// freed.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](super::ErrorKind::Mismatch) if the bytes are fewer than
    /// the exact size, or the witness's error. If that is a `Mismatch` too, and some
    /// of the bytes are from an earlier, interrupted upload, it is told as
    /// [`ErrorKind::Stale`](super::ErrorKind::Stale): begin again at 0, since nobody
    /// knows whether the bytes that came are wrong or those that were kept. Nothing is
    /// stored and nothing is held then.
    async fn commit(self: Box<Self>) -> Result<(Digest, Stored)>;

    /// Interrupts the upload and keeps what is held for a resumption; returns how
    /// many bytes that is (0 where the store can't, as for a few bytes).
    async fn park(self: Box<Self>) -> Result<u64>;

    /// Gives the upload up and frees its space.
    async fn discard(self: Box<Self>) -> Result<()>;
}

/// Who watches over an upload: sees all its bytes once, in order, and has the last
/// word before it is stored. May work hard: a store calls it where that holds up
/// nobody else.
pub trait Witness: Send {
    /// The next bytes; on resumption also those that were kept, as they are now.
    fn update(&mut self, data: &[u8]);

    /// Called once, behind the last byte: whether this is what was to be uploaded.
    ///
    /// # Errors
    /// Why it isn't. Then nothing is stored.
    fn check(&mut self) -> Result<()>;
}

/// What an upload is resumed by: 32 bytes that are its own, as a hash of all that
/// tells it from others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadKey([u8; 32]);

/// What is known of the size of an upload when it begins, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StagedSize {
    /// It has this many.
    Exactly(u64),
    /// It may have fewer, not more.
    AtMost(u64),
}

/// A [`Witness`] that has no objections.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoWitness;

impl UploadKey {
    /// The key of these 32 bytes, as they are.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key of what has this name: its BLAKE3 hash.
    pub fn of_name(name: &[u8]) -> Self {
        Self(*zako_digest::hash::bytes(name).hash().as_bytes())
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl StagedSize {
    /// The most bytes that there may be.
    pub const fn most(self) -> u64 {
        match self {
            Self::Exactly(size) | Self::AtMost(size) => size,
        }
    }

    /// Whether an upload of this many bytes may end here.
    pub const fn allows(self, bytes: u64) -> bool {
        match self {
            Self::Exactly(size) => bytes == size,
            Self::AtMost(most) => bytes <= most,
        }
    }
}

impl Witness for NoWitness {
    fn update(&mut self, _: &[u8]) {}

    fn check(&mut self) -> Result<()> {
        Ok(())
    }
}

/// 64 lower-case hex digits.
impl fmt::Display for UploadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Hash::from_bytes(self.0), f)
    }
}

impl fmt::Debug for UploadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UploadKey({self})")
    }
}
