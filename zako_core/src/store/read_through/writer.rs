//! An upload into both stores of a pair.

use async_trait::async_trait;
use bytes::Bytes;

use super::{join, near_failed};
use crate::Digest;
use crate::cas::{BlobWriter, Result, Stored};

/// Writes to both; the near one is given up at its first error.
pub(super) struct PairWriter {
    near: Option<Box<dyn BlobWriter>>,
    far: Box<dyn BlobWriter>,
}

impl PairWriter {
    pub(super) fn new(near: Option<Box<dyn BlobWriter>>, far: Box<dyn BlobWriter>) -> Self {
        Self { near, far }
    }
}

#[async_trait]
impl BlobWriter for PairWriter {
    fn digest(&self) -> &Digest {
        self.far.digest()
    }

    fn held(&self) -> u64 {
        self.far.held()
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        let Some(near) = &mut self.near else {
            return self.far.write(data).await;
        };
        let (near, far) = join(near.write(data.clone()), self.far.write(data)).await;
        if let Err(error) = near {
            near_failed("write", &error);
            self.near = None;
        }
        far
    }

    async fn commit(self: Box<Self>) -> Result<Stored> {
        let stored = match self.far.commit().await {
            Ok(stored) => stored,
            Err(error) => {
                if let Some(near) = self.near {
                    // What the far store refuses is not worth keeping.
                    let _ = near.discard().await;
                }
                return Err(error);
            }
        };
        if let Some(near) = self.near
            && let Err(error) = near.commit().await
        {
            near_failed("commit", &error);
        }
        Ok(stored)
    }

    async fn park(self: Box<Self>) -> Result<u64> {
        if let Some(near) = self.near
            && let Err(error) = near.park().await
        {
            near_failed("park", &error);
        }
        self.far.park().await
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        if let Some(near) = self.near
            && let Err(error) = near.discard().await
        {
            near_failed("discard", &error);
        }
        self.far.discard().await
    }
}
