//! Uploads into a memory store.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use zako_digest::hash::Hasher;

use super::draft::Draft;
use super::shelf::Shelf;
use crate::Digest;
use crate::cas::{BlobWriter, CasError, Result, Stored};

/// An upload under way.
pub(super) struct MemoryWriter {
    shelf: Arc<Mutex<Shelf>>,
    digest: Digest,
    draft: Draft,
    /// Has seen all of the draft; none while bytes of an earlier upload are in it.
    hasher: Option<Hasher>,
}

impl MemoryWriter {
    pub(super) fn open(shelf: Arc<Mutex<Shelf>>, digest: Digest, offset: u64) -> Result<Self> {
        let name = digest.into();
        {
            let shelf = shelf.lock();
            if shelf.contains(&digest) {
                return Err(CasError::already_exists(digest));
            }
            shelf.check_size(&name, digest.size())?;
        }
        Ok(Self {
            draft: Draft::open(&shelf, name, digest.size(), offset)?,
            shelf,
            digest,
            hasher: (offset == 0).then(Hasher::new),
        })
    }

    async fn actual(&mut self) -> Digest {
        match &self.hasher {
            Some(hasher) => hasher.finish(),
            None => {
                let mut hasher = Hasher::new();
                let see = |data: &[u8]| {
                    hasher.update(data);
                };
                self.draft.show(see).await;
                hasher.finish()
            }
        }
    }
}

#[async_trait]
impl BlobWriter for MemoryWriter {
    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn held(&self) -> u64 {
        self.draft.len()
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.draft.append(&data)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&data);
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<Stored> {
        let actual = self.actual().await;
        if self.draft.failed() || actual != self.digest {
            self.draft.discard();
            return Err(CasError::mismatch(self.digest, actual));
        }
        let mut shelf = self.shelf.lock();
        let chunks = self.draft.take(&mut shelf);
        shelf.insert(self.digest, chunks)
    }

    async fn park(mut self: Box<Self>) -> Result<u64> {
        Ok(self.draft.park())
    }

    async fn discard(mut self: Box<Self>) -> Result<()> {
        self.draft.discard();
        Ok(())
    }
}
