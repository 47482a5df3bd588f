//! Blobs and values whose size is not known beforehand.

use std::fmt;

use bytes::Bytes;
use zako_core::Digest;
use zako_core::alias::{Alias, AliasKey};
use zako_core::cas::{
    CasError, ErrorKind, NoWitness, Result, StagedSize, StagedWriter, Stored, UploadKey, Witness,
};

use super::Cache;
use crate::digest::{RemoteDigest, RemoteHasher};

/// An upload that ends in a key which names its bytes. Give it to
/// [`commit`](Self::commit) or [`discard`](Self::discard).
pub struct KeyedUpload {
    cache: Cache,
    key: AliasKey,
    writer: Box<dyn StagedWriter>,
}

/// Checks that the bytes have the hash that the client named, whatever their number.
struct AnySize {
    name: RemoteDigest,
    hasher: Option<RemoteHasher>,
}

impl Cache {
    /// The blob of this hash, if one was stored under it; it may be evicted. The size in
    /// `name` doesn't matter.
    ///
    /// By its BLAKE3 hash alone a blob is found that was stored by its hash alone
    /// ([`upload_by_hash`](Self::upload_by_hash), [`put_by_hash`](Self::put_by_hash)).
    pub fn find_by_hash(&self, name: &RemoteDigest) -> Option<RemoteDigest> {
        let empty = name.with_size(0);
        if empty.is_empty_blob() {
            return Some(empty);
        }
        let alias = self.aliases.find(&name.key())?;
        Some(name.with_size(alias.digest.size()))
    }

    /// Stores a blob that is in memory under its hash; the size in `name` doesn't matter.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] if it doesn't have that hash; those of the store.
    pub async fn put_by_hash(&self, name: &RemoteDigest, data: Bytes) -> Result<Stored> {
        let digest = name.with_size(data.len() as u64);
        let stored = self.put(digest, data).await?;
        if let Some(own) = digest.blake3() {
            // It is found by its own name without one, but not by the hash alone.
            self.aliases
                .insert(vec![(digest.key(), Alias::new(own))])
                .await?;
        }
        Ok(stored)
    }

    /// Begins to store a blob under its hash; the size in `name` doesn't matter.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn upload_by_hash(
        &self,
        name: &RemoteDigest,
        size: StagedSize,
    ) -> Result<KeyedUpload> {
        let witness = AnySize {
            name: *name,
            hasher: Some(RemoteHasher::new(name.function())),
        };
        self.keyed_upload(name.key(), size, Box::new(witness)).await
    }

    /// Begins to store a value under a key, in the place of what is there when it is
    /// committed.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn upload_value(&self, key: AliasKey, size: StagedSize) -> Result<KeyedUpload> {
        self.keyed_upload(key, size, Box::new(NoWitness)).await
    }

    /// The blob that is the value under a key, if there is one; it may be evicted.
    pub fn value_name(&self, key: &AliasKey) -> Option<Digest> {
        self.aliases.find(key).map(|alias| alias.digest)
    }

    async fn keyed_upload(
        &self,
        key: AliasKey,
        size: StagedSize,
        witness: Box<dyn Witness>,
    ) -> Result<KeyedUpload> {
        // Not the key of uploads that can be resumed. What a crash leaves of this one, the
        // next try takes the place of.
        let upload = AliasKey::derive("zako 2026-11 upload under a key", &[&key.0]);
        let upload = UploadKey::from_bytes(upload.0);
        let writer = self.store.stage(&upload, size, 0, witness).await?;
        Ok(KeyedUpload {
            cache: self.clone(),
            key,
            writer,
        })
    }
}

impl KeyedUpload {
    /// Adds the next bytes; returns when the store has taken them.
    ///
    /// # Errors
    /// As [`StagedWriter::write`].
    pub async fn write(&mut self, data: Bytes) -> Result<()> {
        self.writer.write(data).await
    }

    /// How many bytes were added.
    pub fn held(&self) -> u64 {
        self.writer.held()
    }

    /// Stores the bytes and lets the key name them.
    ///
    /// # Errors
    /// As [`StagedWriter::commit`].
    pub async fn commit(self) -> Result<(Digest, Stored)> {
        let (own, stored) = self.writer.commit().await?;
        let alias = Alias::new(own);
        self.cache.aliases.insert(vec![(self.key, alias)]).await?;
        Ok((own, stored))
    }

    /// Gives the upload up and frees its space.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn discard(self) -> Result<()> {
        self.writer.discard().await
    }
}

impl Witness for AnySize {
    fn update(&mut self, data: &[u8]) {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(data);
        }
    }

    fn check(&mut self) -> Result<()> {
        let hasher = self.hasher.take();
        let hasher = hasher.unwrap_or_else(|| RemoteHasher::new(self.name.function()));
        let actual = hasher.finish();
        if actual.hash() == self.name.hash() {
            return Ok(());
        }
        let function = self.name.function().name();
        let text = format!(
            "the bytes that came for {function}:{} are those of {actual}",
            self.name.hex()
        );
        Err(CasError::new(ErrorKind::Mismatch, text))
    }
}

impl fmt::Debug for KeyedUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedUpload")
            .field("held", &self.held())
            .finish_non_exhaustive()
    }
}
