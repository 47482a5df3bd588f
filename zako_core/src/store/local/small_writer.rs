//! Storing a blob step by step that fits in a record.

use async_trait::async_trait;
use bytes::Bytes;

use super::LocalStore;
use crate::Digest;
use crate::cas::{BlobWriter, Cas, CasError, ErrorKind, Result, Stored};

/// A [`BlobWriter`] of a blob that fits in a record: collected, then put.
pub(super) struct SmallWriter {
    store: LocalStore,
    digest: Digest,
    data: Vec<u8>,
}

impl SmallWriter {
    pub(super) fn new(store: LocalStore, digest: Digest) -> Self {
        Self {
            store,
            digest,
            data: Vec::new(),
        }
    }
}

#[async_trait]
impl BlobWriter for SmallWriter {
    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn held(&self) -> u64 {
        self.data.len() as u64
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        if (self.data.len() + data.len()) as u64 > self.digest.size() {
            return Err(CasError::new(
                ErrorKind::Mismatch,
                format!(
                    "more bytes than the blob's {} were given",
                    self.digest.size()
                ),
            )
            .with_digest(self.digest));
        }
        self.data.extend_from_slice(&data);
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<Stored> {
        self.store.put(&self.digest, Bytes::from(self.data)).await
    }

    async fn park(self: Box<Self>) -> Result<u64> {
        Ok(0)
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
