//! Uploads into a memory store.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use zako_digest::hash::Hasher;

use super::chunks::Chunks;
use super::shelf::{OVERHEAD, Shelf};
use crate::Digest;
use crate::cas::{BlobWriter, CasError, ErrorKind, Result, Stored};

/// An upload under way. What it holds counts against the store's bound.
pub(super) struct MemoryWriter {
    shelf: Arc<Mutex<Shelf>>,
    digest: Digest,
    chunks: Chunks,
    tail: BytesMut,
    /// Has seen all of `chunks`, once the bytes of an earlier upload are hashed.
    hasher: Option<Hasher>,
    failed: bool,
    /// Set once the reservation was given back.
    finished: bool,
}

impl MemoryWriter {
    pub(super) fn open(shelf: Arc<Mutex<Shelf>>, digest: Digest, offset: u64) -> Result<Self> {
        let chunks = {
            let mut shelf = shelf.lock();
            if shelf.contains(&digest) {
                return Err(CasError::already_exists(digest));
            }
            shelf.check_size(&digest)?;
            let partial = shelf.partial(&digest);
            let held = partial.map_or(0, Chunks::len);
            if offset > held {
                return Err(CasError::not_held(digest, offset, held));
            }
            // Shared, not taken: another upload may go on with it too.
            let chunks = partial.map(|partial| partial.prefix(offset));
            shelf.reserve(&digest, offset + OVERHEAD)?;
            chunks.unwrap_or_default()
        };
        let mut writer = Self {
            shelf,
            digest,
            hasher: (offset == 0).then(Hasher::new),
            chunks,
            tail: BytesMut::new(),
            failed: false,
            finished: false,
        };
        writer.tail = writer.chunks.reopen();
        Ok(writer)
    }

    fn reserved(&self) -> u64 {
        self.chunks.len() + OVERHEAD
    }

    /// Gives the reservation back, and the bytes out.
    fn finish(&mut self, shelf: &mut Shelf) -> Chunks {
        shelf.release(self.reserved());
        self.finished = true;
        self.chunks.seal(&mut self.tail);
        std::mem::take(&mut self.chunks)
    }

    fn park_now(&mut self) -> u64 {
        let shelf = Arc::clone(&self.shelf);
        let mut shelf = shelf.lock();
        let chunks = self.finish(&mut shelf);
        shelf.park(self.digest, chunks)
    }

    async fn actual(&mut self) -> Digest {
        match &self.hasher {
            Some(hasher) => hasher.finish(),
            None => {
                let mut hasher = self.chunks.hasher().await;
                hasher.update(&self.tail);
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
        self.chunks.len()
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        if self.failed {
            return Err(
                CasError::new(ErrorKind::InvalidArgument, "the upload failed before")
                    .with_digest(self.digest),
            );
        }
        let size = data.len() as u64;
        if size > self.digest.size() - self.chunks.len() {
            self.failed = true;
            return Err(CasError::new(
                ErrorKind::Mismatch,
                format!("more than the blob's {} bytes came", self.digest.size()),
            )
            .with_digest(self.digest));
        }
        if let Err(error) = self.shelf.lock().reserve(&self.digest, size) {
            self.failed = true;
            return Err(error);
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&data);
        }
        self.chunks.append(&mut self.tail, &data);
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<Stored> {
        let actual = self.actual().await;
        let shelf = Arc::clone(&self.shelf);
        let mut shelf = shelf.lock();
        let chunks = self.finish(&mut shelf);
        if self.failed || actual != self.digest {
            shelf.remove_partial(&self.digest);
            return Err(CasError::mismatch(self.digest, actual));
        }
        shelf.insert(self.digest, chunks)
    }

    async fn park(mut self: Box<Self>) -> Result<u64> {
        Ok(self.park_now())
    }

    async fn discard(mut self: Box<Self>) -> Result<()> {
        let shelf = Arc::clone(&self.shelf);
        let mut shelf = shelf.lock();
        self.finish(&mut shelf);
        shelf.remove_partial(&self.digest);
        Ok(())
    }
}

impl Drop for MemoryWriter {
    fn drop(&mut self) {
        if !self.finished {
            self.park_now();
        }
    }
}
