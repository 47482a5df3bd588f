//! Storing a large blob step by step.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::LocalStore;
use super::steps::{Steps, blocking};
use super::upload::Upload;
use crate::Digest;
use crate::cas::{BlobWriter, Result, Stored};

/// A [`BlobWriter`] of a large blob.
pub(super) struct LargeWriter {
    digest: Digest,
    steps: Steps,
}

impl LargeWriter {
    /// A writer whose next byte is the one at `offset`.
    pub(super) async fn open(store: &LocalStore, digest: &Digest, offset: u64) -> Result<Self> {
        let (shared, digest) = (Arc::clone(&store.shared), *digest);
        let upload = blocking(move || Upload::open(shared, digest, offset)).await??;
        let steps = Steps::new(store.clone(), upload);
        Ok(Self { digest, steps })
    }

    /// A writer of bytes that nobody will resume to send; of `known` ones also not
    /// hashed, since they were found to be the blob's.
    pub(super) async fn of_memory(
        store: &LocalStore,
        digest: &Digest,
        known: bool,
    ) -> Result<Self> {
        let (shared, digest) = (Arc::clone(&store.shared), *digest);
        let upload = blocking(move || Upload::of_memory(shared, digest, known));
        let steps = Steps::new(store.clone(), upload.await??);
        Ok(Self { digest, steps })
    }
}

#[async_trait]
impl BlobWriter for LargeWriter {
    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn held(&self) -> u64 {
        self.steps.held()
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.steps.write(data).await
    }

    async fn commit(self: Box<Self>) -> Result<Stored> {
        let digest = self.digest;
        let mut upload = self.steps.complete().await?;
        blocking(move || upload.finish(&digest)).await?
    }

    async fn park(self: Box<Self>) -> Result<u64> {
        self.steps.park().await
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        self.steps.discard().await
    }
}
