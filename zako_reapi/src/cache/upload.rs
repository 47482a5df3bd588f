//! Storing a blob step by step.

use std::fmt;

use bytes::Bytes;
use zako_core::Digest;
use zako_core::cas::{BlobWriter, Lease, Result, Stored};

use super::Cache;
use super::blobs::{alias, mismatch};
use crate::digest::{RemoteDigest, RemoteHasher};
use zako_core::cas::{StagedSize, StagedWriter, UploadKey, Witness};

/// An upload under way. Dropping it puts it aside for a resumption, as
/// [`park`](Self::park) does.
pub struct Upload {
    cache: Cache,
    digest: RemoteDigest,
    writer: By,
}

enum By {
    Name(Box<dyn BlobWriter>),
    Stage(Box<dyn StagedWriter>),
}

/// Checks that the bytes have the hash that the client named.
struct HashWitness {
    digest: RemoteDigest,
    hasher: Option<RemoteHasher>,
}

impl Cache {
    /// How many bytes of an interrupted upload can be resumed; the blob's size if it is
    /// present; 0 if nothing is known of it.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn held(&self, digest: &RemoteDigest) -> Result<u64> {
        if self.missing(&[*digest], Lease::None).await?.is_empty() {
            return Ok(digest.size());
        }
        match digest.blake3() {
            Some(own) => self.store.held(&own).await,
            None => self.store.staged(&upload_key(digest)).await,
        }
    }

    /// Begins to store a blob, or goes on with an interrupted upload of it: the first
    /// byte written is the one at `offset`.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`](zako_core::cas::ErrorKind) if the blob is present,
    /// [`ErrorKind::NotHeld`](zako_core::cas::ErrorKind) if `offset` is more than what
    /// is [`held`](Self::held).
    pub async fn upload(&self, digest: &RemoteDigest, offset: u64) -> Result<Upload> {
        let writer = match digest.blake3() {
            Some(own) => By::Name(self.store.writer(&own, offset).await?),
            None => {
                let size = StagedSize::Exactly(digest.size());
                let witness = Box::new(HashWitness::new(*digest));
                let key = upload_key(digest);
                By::Stage(self.store.stage(&key, size, offset, witness).await?)
            }
        };
        Ok(Upload {
            cache: self.clone(),
            digest: *digest,
            writer,
        })
    }
}

impl Upload {
    /// The blob that is being stored.
    pub fn digest(&self) -> &RemoteDigest {
        &self.digest
    }

    /// How many bytes of the blob are held: the offset of the next one.
    pub fn held(&self) -> u64 {
        match &self.writer {
            By::Name(writer) => writer.held(),
            By::Stage(writer) => writer.held(),
        }
    }

    /// Adds the next bytes; returns when the store has taken them.
    ///
    /// # Errors
    /// As [`BlobWriter::write`].
    pub async fn write(&mut self, data: Bytes) -> Result<()> {
        match &mut self.writer {
            By::Name(writer) => writer.write(data).await,
            By::Stage(writer) => writer.write(data).await,
        }
    }

    /// Stores the blob, once its size and hash are checked. It is found by all its names
    /// then.
    ///
    /// # Errors
    /// As [`BlobWriter::commit`].
    pub async fn commit(self) -> Result<Stored> {
        match self.writer {
            By::Name(writer) => writer.commit().await,
            By::Stage(writer) => {
                let (own, stored): (Digest, Stored) = writer.commit().await?;
                let aliases = vec![alias(&self.digest, own)];
                self.cache.aliases.insert(aliases).await?;
                Ok(stored)
            }
        }
    }

    /// Interrupts the upload; how many bytes are held for a resumption.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn park(self) -> Result<u64> {
        match self.writer {
            By::Name(writer) => writer.park().await,
            By::Stage(writer) => writer.park().await,
        }
    }

    /// Gives the upload up and frees its space.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn discard(self) -> Result<()> {
        match self.writer {
            By::Name(writer) => writer.discard().await,
            By::Stage(writer) => writer.discard().await,
        }
    }
}

impl HashWitness {
    fn new(digest: RemoteDigest) -> Self {
        Self {
            digest,
            hasher: Some(RemoteHasher::new(digest.function())),
        }
    }
}

impl Witness for HashWitness {
    fn update(&mut self, data: &[u8]) {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(data);
        }
    }

    fn check(&mut self) -> Result<()> {
        let hasher = self.hasher.take();
        let hasher = hasher.unwrap_or_else(|| RemoteHasher::new(self.digest.function()));
        mismatch(&self.digest, &hasher.finish())
    }
}

fn upload_key(digest: &RemoteDigest) -> UploadKey {
    UploadKey::from_bytes(digest.key().0)
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("digest", &self.digest)
            .field("held", &self.held())
            .finish_non_exhaustive()
    }
}
