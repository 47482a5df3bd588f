//! The memory store as a [`Staging`].

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use zako_digest::hash::Hasher;

use super::MemoryStore;
use super::chunks::{self, Chunks};
use super::draft::Draft;
use super::shelf::Shelf;
use crate::Digest;
use crate::cas::{
    CasError, ErrorKind, Result, StagedSize, StagedWriter, Staging, Stored, UploadKey, Witness,
};
use crate::store::upload_name::UploadName;

/// A [`StagedWriter`] of a memory store.
struct MemoryStaged {
    shelf: Arc<Mutex<Shelf>>,
    key: UploadKey,
    size: StagedSize,
    draft: Draft,
    hasher: Hasher,
    witness: Box<dyn Witness>,
    /// Bytes of an earlier upload are in the draft: all is hashed in the end.
    resumed: bool,
}

#[async_trait]
impl Staging for MemoryStore {
    async fn put_unnamed(&self, blobs: Vec<Bytes>) -> Vec<Result<(Digest, Stored)>> {
        let mut outcomes = Vec::with_capacity(blobs.len());
        for data in blobs {
            let digest = chunks::hash(&data).await;
            let stored = self.insert(digest, data);
            outcomes.push(stored.map(|stored| (digest, stored)));
        }
        outcomes
    }

    async fn stage(
        &self,
        key: &UploadKey,
        size: StagedSize,
        offset: u64,
        witness: Box<dyn Witness>,
    ) -> Result<Box<dyn StagedWriter>> {
        let name = UploadName::from(*key);
        if let StagedSize::Exactly(size) = size {
            self.shelf.lock().check_size(&name, size)?;
        }
        Ok(Box::new(MemoryStaged {
            shelf: Arc::clone(&self.shelf),
            key: *key,
            size,
            draft: Draft::open(&self.shelf, name, size.most(), offset)?,
            hasher: Hasher::new(),
            witness,
            resumed: offset > 0,
        }))
    }

    async fn staged(&self, key: &UploadKey) -> Result<u64> {
        let shelf = self.shelf.lock();
        Ok(shelf.partial(&(*key).into()).map_or(0, Chunks::len))
    }
}

impl MemoryStaged {
    fn see(&mut self, data: &[u8]) {
        self.hasher.update(data);
        self.witness.update(data);
    }

    /// The digest, if this is what was to be uploaded.
    async fn check(&mut self) -> Result<Digest> {
        if self.resumed {
            let (hasher, witness) = (&mut self.hasher, &mut self.witness);
            let see = |data: &[u8]| {
                hasher.update(data);
                witness.update(data);
            };
            self.draft.show(see).await;
        }
        if !self.size.allows(self.draft.len()) || self.draft.failed() {
            return Err(UploadName::from(self.key).too_short(self.draft.len()));
        }
        match self.witness.check() {
            Ok(()) => Ok(self.hasher.finish()),
            Err(error) if self.resumed && error.kind() == ErrorKind::Mismatch => {
                let text = "the resumed upload is not what it should be; it was dropped";
                Err(CasError::new(ErrorKind::Stale, text).with_source(error))
            }
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl StagedWriter for MemoryStaged {
    fn held(&self) -> u64 {
        self.draft.len()
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.draft.append(&data)?;
        if !self.resumed {
            self.see(&data);
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<(Digest, Stored)> {
        match self.check().await {
            Ok(digest) => {
                let mut shelf = self.shelf.lock();
                let chunks = self.draft.take(&mut shelf);
                Ok((digest, shelf.insert(digest, chunks)?))
            }
            Err(error) => {
                self.draft.discard();
                Err(error)
            }
        }
    }

    async fn park(mut self: Box<Self>) -> Result<u64> {
        Ok(self.draft.park())
    }

    async fn discard(mut self: Box<Self>) -> Result<()> {
        self.draft.discard();
        Ok(())
    }
}
