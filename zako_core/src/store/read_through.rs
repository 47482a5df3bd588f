//! A near store in front of a far one.

mod fill;
mod recover;
mod tee;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join;

use self::fill::{Fills, WHOLE};
use self::recover::recovering;
use self::writer::PairWriter;
use crate::cas::{Blob, BlobStat, BlobWriter, Cas, CasError, ErrorKind, Lease, Result, Stored};
use crate::{BlobRange, Digest};

/// A pair of stores: what the near one lacks is read from the far one, and kept
/// near.
///
/// - A blob is present if either has it; `missing` asks the far store only for
///   what the near one lacks, and leases a blob where it found it.
/// - Reads come from the near store, else from the far one. A whole blob fills the
///   near store while it is read, step by step; its last step comes once the near
///   store has checked and stored it, so bytes that are not the digest's end in
///   [`ErrorKind::Corrupt`]. A smaller range comes from the far store as it is and
///   fills nothing.
/// - Concurrent reads of one absent blob of up to 256 KiB fetch it once; of a larger
///   one each reader streams for itself, and the first one fills.
/// - What is stored goes to the far store and to the near one; the far one alone
///   decides what is new, what is held, and whether it went well.
/// - `delete` deletes from both.
/// - A failure of the near store fails no read and no store, only `delete`; it is
///   logged.
///
/// Needs a tokio runtime.
#[derive(Debug)]
pub struct ReadThrough {
    near: Arc<dyn Cas>,
    far: Arc<dyn Cas>,
    fills: Arc<Fills>,
}

impl ReadThrough {
    /// Puts `near` in front of `far`.
    pub fn new(near: Arc<dyn Cas>, far: Arc<dyn Cas>) -> Self {
        Self {
            near,
            far,
            fills: Arc::default(),
        }
    }

    async fn fetch_near(&self, digest: &Digest, range: BlobRange) -> Result<Blob> {
        let blob = self.near.fetch(digest, range).await?;
        if blob.extent().is_none() && blob.len() <= WHOLE {
            let range = blob.range();
            return Ok(Blob::from_bytes(*digest, range, blob.bytes().await?));
        }
        Ok(recovering(blob, Arc::clone(&self.far)))
    }
}

#[async_trait]
impl Cas for ReadThrough {
    async fn missing(&self, digests: &[Digest], lease: Lease) -> Result<Vec<Digest>> {
        match self.near.missing(digests, lease).await {
            Ok(absent) if absent.is_empty() => Ok(absent),
            Ok(absent) => self.far.missing(&absent, lease).await,
            Err(error) => {
                near_failed("look-up", &error);
                self.far.missing(digests, lease).await
            }
        }
    }

    async fn stat(&self, digest: &Digest) -> Result<BlobStat> {
        match self.near.stat(digest).await {
            Ok(stat) => Ok(stat),
            Err(error) => {
                near_failed("stat", &error);
                self.far.stat(digest).await
            }
        }
    }

    async fn fetch(&self, digest: &Digest, range: BlobRange) -> Result<Blob> {
        match self.fetch_near(digest, range).await {
            Ok(blob) => return Ok(blob),
            Err(error) if error.kind() == ErrorKind::InvalidRange => return Err(error),
            Err(error) => near_failed("read", &error),
        }
        if range.resolve(digest.size()) == Ok(0..digest.size()) {
            return self.fills.fetch(&self.near, &self.far, digest).await;
        }
        self.far.fetch(digest, range).await
    }

    async fn put(&self, digest: &Digest, data: Bytes) -> Result<Stored> {
        let stored = self.far.put(digest, data.clone()).await?;
        match self.near.put(digest, data).await {
            Ok(_) => Ok(stored),
            // The far store didn't look at the bytes of a blob that it has.
            Err(error) if error.kind() == ErrorKind::Mismatch => Err(error),
            Err(error) => {
                near_failed("put", &error);
                Ok(stored)
            }
        }
    }

    async fn writer(&self, digest: &Digest, offset: u64) -> Result<Box<dyn BlobWriter>> {
        let far = self.far.writer(digest, offset).await?;
        let near = self.near.writer(digest, offset).await;
        if let Err(error) = &near {
            near_failed("upload", error);
        }
        Ok(Box::new(PairWriter::new(near.ok(), far)))
    }

    async fn held(&self, digest: &Digest) -> Result<u64> {
        self.far.held(digest).await
    }

    async fn delete(&self, digest: &Digest) -> Result<bool> {
        let far = self.far.delete(digest).await?;
        // A fill that read the blob before must not bring it back.
        self.fills.cancel(digest).await;
        let near = self.near.delete(digest).await?;
        Ok(far || near)
    }

    async fn put_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<Stored>> {
        let mut outcomes = self.far.put_batch(blobs.clone()).await;
        let (stored, places): (Vec<_>, Vec<_>) = blobs
            .into_iter()
            .zip(0..)
            .filter(|(_, at)| matches!(outcomes.get(*at), Some(Ok(_))))
            .unzip();
        let near = self.near.put_batch(stored).await;
        for (outcome, at) in near.into_iter().zip(places) {
            match outcome {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Mismatch => outcomes[at] = Err(error),
                Err(error) => near_failed("put", &error),
            }
        }
        outcomes
    }

    async fn fetch_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes>> {
        let mut outcomes = self.near.fetch_batch(digests).await;
        let mut absent = Vec::new();
        let mut places = Vec::new();
        for (at, outcome) in outcomes.iter().enumerate() {
            if let Err(error) = outcome {
                near_failed("read", error);
                absent.push(digests[at]);
                places.push(at);
            }
        }
        if absent.is_empty() {
            return outcomes;
        }
        let found = self.fills.fetch_batch(&self.near, &self.far, &absent).await;
        for (outcome, at) in found.into_iter().zip(places) {
            outcomes[at] = outcome;
        }
        outcomes
    }
}

/// Tells of a failure of the near store that is not one of the pair.
fn near_failed(what: &str, error: &CasError) {
    if !matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::AlreadyExists | ErrorKind::NotHeld
    ) {
        tracing::warn!(%error, "the near store failed a {what}");
    }
}
