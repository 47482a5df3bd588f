//! A store that fails now and then, and counts.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file is a crate of its own and uses its part"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use zako_core::cas::{Blob, BlobStat, BlobWriter, Cas, CasError, ErrorKind, Lease, Result, Stored};
use zako_core::store::MemoryStore;
use zako_core::transfer::{Progress, TransferOptions};
use zako_core::{BlobRange, Digest};

#[derive(Debug)]
pub struct Flaky {
    pub store: MemoryStore,
    /// Every so many calls that move bytes, one fails; 0 for never.
    pub fail_every: u64,
    /// A stream, up or down, breaks after so many bytes; 0 for never.
    pub cut_after: u64,
    pub dead: AtomicBool,
    pub lying: AtomicBool,
    pub calls: AtomicU64,
    pub missing_calls: AtomicU64,
    pub batches: AtomicU64,
    pub largest_batch: AtomicU64,
    pub written: Arc<AtomicU64>,
    pub read: Arc<AtomicU64>,
}

pub fn unavailable() -> CasError {
    CasError::new(ErrorKind::Unavailable, "flaky for the test")
}

impl Flaky {
    pub fn new(fail_every: u64, cut_after: u64) -> Arc<Self> {
        Arc::new(Self {
            store: MemoryStore::new(1 << 30),
            fail_every,
            cut_after,
            dead: AtomicBool::new(false),
            lying: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            missing_calls: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            largest_batch: AtomicU64::new(0),
            written: Arc::default(),
            read: Arc::default(),
        })
    }

    fn call(&self) -> Result<()> {
        let calls = self.calls.fetch_add(1, SeqCst) + 1;
        let fails = self.fail_every > 0 && calls.is_multiple_of(self.fail_every);
        if fails || self.dead.load(SeqCst) {
            return Err(unavailable());
        }
        Ok(())
    }
}

#[async_trait]
impl Cas for Flaky {
    async fn missing(&self, digests: &[Digest], lease: Lease) -> Result<Vec<Digest>> {
        self.missing_calls.fetch_add(1, SeqCst);
        self.call()?;
        self.store.missing(digests, lease).await
    }

    async fn stat(&self, digest: &Digest) -> Result<BlobStat> {
        self.store.stat(digest).await
    }

    async fn fetch(&self, digest: &Digest, range: BlobRange) -> Result<Blob> {
        self.call()?;
        let blob = self.store.fetch(digest, range).await?;
        let range = blob.range();
        let (mut left, read) = (self.cut_after, Arc::clone(&self.read));
        let (cut, lying) = (self.cut_after > 0, self.lying.load(SeqCst));
        let steps = blob.map(move |step| {
            let data = step?;
            if cut && left < data.len() as u64 {
                return Err(unavailable());
            }
            left = left.saturating_sub(data.len() as u64);
            read.fetch_add(data.len() as u64, SeqCst);
            Ok(match lying {
                true => data.iter().map(|byte| byte ^ 1).collect(),
                false => data,
            })
        });
        Ok(Blob::from_stream(*digest, range, steps))
    }

    async fn put(&self, digest: &Digest, data: Bytes) -> Result<Stored> {
        self.call()?;
        self.written.fetch_add(data.len() as u64, SeqCst);
        self.store.put(digest, data).await
    }

    async fn writer(&self, digest: &Digest, offset: u64) -> Result<Box<dyn BlobWriter>> {
        self.call()?;
        Ok(Box::new(FlakyWriter {
            writer: self.store.writer(digest, offset).await?,
            left: match self.cut_after {
                0 => u64::MAX,
                bytes => bytes,
            },
            written: Arc::clone(&self.written),
        }))
    }

    async fn held(&self, digest: &Digest) -> Result<u64> {
        self.call()?;
        self.store.held(digest).await
    }

    async fn delete(&self, digest: &Digest) -> Result<bool> {
        self.store.delete(digest).await
    }

    async fn put_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<Stored>> {
        self.batches.fetch_add(1, SeqCst);
        let bytes = blobs.iter().map(|(_, data)| data.len() as u64).sum();
        self.largest_batch.fetch_max(bytes, SeqCst);
        let mut outcomes = Vec::new();
        for (digest, data) in blobs {
            outcomes.push(self.put(&digest, data).await);
        }
        outcomes
    }
}

struct FlakyWriter {
    writer: Box<dyn BlobWriter>,
    left: u64,
    written: Arc<AtomicU64>,
}

#[async_trait]
impl BlobWriter for FlakyWriter {
    fn digest(&self) -> &Digest {
        self.writer.digest()
    }
    fn held(&self) -> u64 {
        self.writer.held()
    }
    async fn write(&mut self, data: Bytes) -> Result<()> {
        if self.left < data.len() as u64 {
            return Err(unavailable());
        }
        self.left -= data.len() as u64;
        self.written.fetch_add(data.len() as u64, SeqCst);
        self.writer.write(data).await
    }
    async fn commit(self: Box<Self>) -> Result<Stored> {
        self.writer.commit().await
    }
    async fn park(self: Box<Self>) -> Result<u64> {
        self.writer.park().await
    }
    async fn discard(self: Box<Self>) -> Result<()> {
        self.writer.discard().await
    }
}

/// Sums up what it is told.
#[derive(Debug, Default)]
pub struct Sums {
    pub found_blobs: AtomicU64,
    pub found_bytes: AtomicU64,
    pub skipped_blobs: AtomicU64,
    pub skipped_bytes: AtomicU64,
    pub moved: AtomicU64,
    pub finished: AtomicU64,
}

impl Progress for Sums {
    fn found(&self, blobs: u64, bytes: u64) {
        self.found_blobs.fetch_add(blobs, SeqCst);
        self.found_bytes.fetch_add(bytes, SeqCst);
    }
    fn skipped(&self, blobs: u64, bytes: u64) {
        self.skipped_blobs.fetch_add(blobs, SeqCst);
        self.skipped_bytes.fetch_add(bytes, SeqCst);
    }
    fn moved(&self, bytes: u64) {
        self.moved.fetch_add(bytes, SeqCst);
    }
    fn finished(&self, blobs: u64) {
        self.finished.fetch_add(blobs, SeqCst);
    }
}

impl Sums {
    /// What was found was skipped or moved, and nothing else.
    pub fn check(&self) {
        let of = |sum: &AtomicU64| sum.load(SeqCst);
        assert_eq!(
            of(&self.found_blobs),
            of(&self.skipped_blobs) + of(&self.finished),
            "{self:?}"
        );
        assert_eq!(
            of(&self.found_bytes),
            of(&self.skipped_bytes) + of(&self.moved),
            "{self:?}"
        );
    }
}

pub fn quick() -> TransferOptions {
    let mut options = TransferOptions::default();
    options.backoff = Duration::ZERO;
    options
}

/// Bytes that don't repeat.
pub fn bytes(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut data = Vec::with_capacity(length + 8);
    while data.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data.truncate(length);
    data.into()
}
