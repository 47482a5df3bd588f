//! A store in memory.

mod chunks;
mod draft;
mod shelf;
mod staging;
mod writer;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::chunks::Chunks;
use self::shelf::Shelf;
use self::writer::MemoryWriter;
use crate::cas::{
    Blob, BlobStat, BlobWriter, Cas, CasError, ErrorKind, GcReport, Lease, Location, Maintain,
    Result, Stored, Usage, VerifyReport, VerifyScope,
};
use crate::{BlobRange, Digest};

/// For how long [`Lease::Default`] keeps a blob.
const DEFAULT_LEASE: Duration = Duration::from_secs(60 * 60);
/// The longest lease that is given.
const MAX_LEASE: Duration = Duration::from_secs(24 * 60 * 60);
/// For how long an interrupted upload is kept.
const PARTIAL_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// A store in memory, for tests, for caches, and for the near side of a
/// [`ReadThrough`](super::ReadThrough).
///
/// Holds at most `max_bytes` of blobs and partial uploads, a fixed overhead for
/// each included, and evicts by second chance what isn't leased; where all of it
/// is, storing is [`ErrorKind::NoSpace`]. A reader of an evicted blob keeps its
/// bytes until it is dropped, beyond that bound. Leases last an hour by default
/// and a day at most; interrupted uploads are kept for a day.
pub struct MemoryStore {
    shelf: Arc<Mutex<Shelf>>,
}

impl MemoryStore {
    /// An empty store of at most `max_bytes`.
    pub fn new(max_bytes: u64) -> Self {
        Self {
            shelf: Arc::new(Mutex::new(Shelf::new(max_bytes))),
        }
    }

    /// Stores a blob whose digest was found to be this.
    fn insert(&self, digest: Digest, data: Bytes) -> Result<Stored> {
        {
            // Before the copy, so that what can't be stored isn't copied.
            let shelf = self.shelf.lock();
            if shelf.contains(&digest) {
                return Ok(Stored::Existing);
            }
            shelf.check_size(&digest.into(), digest.size())?;
        }
        self.shelf.lock().insert(digest, Chunks::from_bytes(data))
    }
}

#[async_trait]
impl Cas for MemoryStore {
    async fn missing(&self, digests: &[Digest], lease: Lease) -> Result<Vec<Digest>> {
        let lease = match lease {
            Lease::Default => Some(DEFAULT_LEASE),
            Lease::None => None,
            Lease::For(duration) => Some(duration.min(MAX_LEASE)),
        };
        let until = lease.map(|lease| Instant::now() + lease);
        let mut shelf = self.shelf.lock();
        Ok(digests
            .iter()
            .filter(|digest| !shelf.lease(digest, until))
            .copied()
            .collect())
    }

    async fn stat(&self, digest: &Digest) -> Result<BlobStat> {
        let shelf = self.shelf.lock();
        let lease_end = shelf
            .lease_end(digest)
            .ok_or_else(|| CasError::not_found(*digest))?;
        let leased_for = lease_end.map_or(Duration::ZERO, |end| {
            end.saturating_duration_since(Instant::now())
        });
        Ok(BlobStat::new(*digest, leased_for, Location::Memory))
    }

    async fn fetch(&self, digest: &Digest, range: BlobRange) -> Result<Blob> {
        let chunks = self
            .shelf
            .lock()
            .read(digest)
            .ok_or_else(|| CasError::not_found(*digest))?;
        let range = range.resolve(digest.size()).map_err(|error| {
            CasError::new(ErrorKind::InvalidRange, error.to_string()).with_digest(*digest)
        })?;
        Ok(chunks.open(*digest, range))
    }

    async fn put(&self, digest: &Digest, data: Bytes) -> Result<Stored> {
        let size = data.len() as u64;
        if size == digest.size() && self.shelf.lock().contains(digest) {
            return Ok(Stored::Existing);
        }
        let actual = chunks::hash(&data).await;
        if actual != *digest {
            return Err(CasError::mismatch(*digest, actual));
        }
        self.insert(*digest, data)
    }

    async fn writer(&self, digest: &Digest, offset: u64) -> Result<Box<dyn BlobWriter>> {
        let writer = MemoryWriter::open(Arc::clone(&self.shelf), *digest, offset)?;
        Ok(Box::new(writer))
    }

    async fn held(&self, digest: &Digest) -> Result<u64> {
        let shelf = self.shelf.lock();
        if shelf.contains(digest) {
            return Ok(digest.size());
        }
        Ok(shelf.partial(&(*digest).into()).map_or(0, Chunks::len))
    }

    async fn delete(&self, digest: &Digest) -> Result<bool> {
        Ok(self.shelf.lock().remove(digest))
    }

    async fn fetch_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes>> {
        let found: Vec<Option<Chunks>> = {
            let mut shelf = self.shelf.lock();
            digests.iter().map(|digest| shelf.read(digest)).collect()
        };
        let mut outcomes = Vec::with_capacity(digests.len());
        for (digest, chunks) in digests.iter().zip(found) {
            outcomes.push(match chunks {
                Some(chunks) => chunks.open(*digest, 0..digest.size()).bytes().await,
                None => Err(CasError::not_found(*digest)),
            });
        }
        outcomes
    }
}

#[async_trait]
impl Maintain for MemoryStore {
    async fn usage(&self) -> Result<Usage> {
        Ok(self.shelf.lock().usage())
    }

    async fn verify(
        &self,
        scope: VerifyScope,
        progress: mpsc::Sender<VerifyReport>,
    ) -> Result<VerifyReport> {
        let digests = match scope {
            VerifyScope::All => self.shelf.lock().digests(),
            VerifyScope::Blobs(digests) => digests,
        };
        let mut report = VerifyReport {
            blobs_total: digests.len() as u64,
            bytes_total: digests.iter().map(Digest::size).sum(),
            ..VerifyReport::default()
        };
        for digest in digests {
            let Some(chunks) = self.shelf.lock().peek(&digest) else {
                report.missing.push(digest);
                continue;
            };
            if chunks.hash().await != digest {
                self.shelf.lock().remove(&digest);
                report.corrupt.push(digest);
            }
            report.blobs_checked += 1;
            report.bytes_checked += digest.size();
            match progress.try_send(report.clone()) {
                Err(mpsc::error::TrySendError::Closed(_)) => break,
                // The receiver has an older report to read; the next one will do.
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => {}
            }
        }
        Ok(report)
    }

    async fn collect_garbage(&self) -> Result<GcReport> {
        Ok(self.shelf.lock().expire_partials())
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cas::CasExt;

    fn data(seed: u8, length: usize) -> Bytes {
        vec![seed; length].into()
    }

    #[tokio::test]
    async fn what_is_used_survives_what_is_not() {
        let store = MemoryStore::new(10_000);
        let (kept, _) = store.put_bytes(data(0, 3_000)).await.unwrap();
        let (evicted, _) = store.put_bytes(data(1, 3_000)).await.unwrap();
        store.fetch_bytes(&kept).await.unwrap();
        store.put_bytes(data(2, 3_000)).await.unwrap();
        store.put_bytes(data(3, 3_000)).await.unwrap();
        assert!(store.contains(&kept).await.unwrap());
        assert!(!store.contains(&evicted).await.unwrap());
        assert!(store.usage().await.unwrap().disk_bytes <= 10_000);
    }

    #[tokio::test(start_paused = true)]
    async fn leased_blobs_stay_until_the_lease_ends() {
        let store = MemoryStore::new(10_000);
        let (leased, _) = store.put_bytes(data(0, 9_000)).await.unwrap();
        let lease = Lease::For(Duration::from_secs(5));
        assert!(store.missing(&[leased], lease).await.unwrap().is_empty());
        // A shorter lease takes nothing away.
        let shorter = Lease::For(Duration::from_secs(1));
        store.missing(&[leased], shorter).await.unwrap();
        tokio::time::advance(Duration::from_secs(4)).await;

        let error = store.put_bytes(data(1, 9_000)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert_eq!(store.usage().await.unwrap().leased_bytes, 9_000);
        // What still fits is stored, and is what goes first.
        let (small, _) = store.put_bytes(data(2, 400)).await.unwrap();
        store.put_bytes(data(3, 500)).await.unwrap();
        assert!(!store.contains(&small).await.unwrap());
        assert!(store.contains(&leased).await.unwrap());

        tokio::time::advance(Duration::from_secs(2)).await;
        store.put_bytes(data(1, 9_000)).await.unwrap();
        assert!(!store.contains(&leased).await.unwrap());
    }

    #[tokio::test]
    async fn memory_is_bounded_by_many_tiny_blobs_and_uploads() {
        let store = MemoryStore::new(100_000);
        for seed in 0..5_000u32 {
            let (digest, _) = store.put_bytes(seed.to_le_bytes().to_vec()).await.unwrap();
            let blob = zako_digest::hash::bytes(&[&seed.to_le_bytes()[..], b"more"].concat());
            let mut writer = store.writer(&blob, 0).await.unwrap();
            writer.write(data(0, 1)).await.unwrap();
            drop(writer);
            if seed % 3 == 0 {
                store.delete(&digest).await.unwrap();
            }
        }
        let usage = store.usage().await.unwrap();
        assert!(usage.disk_bytes <= 100_000, "{usage:?}");
        let (entries, queued) = store.shelf.lock().counts();
        assert!(entries <= 100_000 / shelf::OVERHEAD as usize);
        assert!(queued <= 2 * entries + 64, "{queued} of {entries}");
    }

    #[tokio::test]
    async fn what_can_never_fit_is_refused_at_once() {
        let store = MemoryStore::new(1_000);
        let (small, _) = store.put_bytes(data(0, 10)).await.unwrap();
        let large = zako_digest::hash::bytes(&data(1, 2_000));
        let error = store.put(&large, data(1, 2_000)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        let error = store.writer(&large, 0).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(store.contains(&small).await.unwrap());
    }

    #[tokio::test]
    async fn a_slice_does_not_keep_its_buffer() {
        let store = MemoryStore::new(1 << 20);
        let large = Bytes::from(vec![7; 1 << 16]);
        let (digest, _) = store.put_bytes(large.slice(10..20)).await.unwrap();
        assert!(large.is_unique(), "the store holds a part of the buffer");
        assert_eq!(store.fetch_bytes(&digest).await.unwrap(), large[10..20]);
    }

    #[tokio::test(start_paused = true)]
    async fn interrupted_uploads_expire() {
        let store = MemoryStore::new(1 << 20);
        let whole = data(9, 1_000);
        let digest = zako_digest::hash::bytes(&whole);
        let mut writer = store.writer(&digest, 0).await.unwrap();
        writer.write(whole.slice(..600)).await.unwrap();
        assert_eq!(writer.park().await.unwrap(), 600);
        assert_eq!(store.held(&digest).await.unwrap(), 600);
        tokio::time::advance(PARTIAL_KEPT + Duration::from_secs(1)).await;
        assert_eq!(store.held(&digest).await.unwrap(), 0);
        let report = store.collect_garbage().await.unwrap();
        assert_eq!(report.partials_expired, 1);
        assert_eq!(store.usage().await.unwrap().disk_bytes, 0);
    }

    #[tokio::test]
    async fn damaged_blobs_are_found_and_dropped() {
        let store = MemoryStore::new(1 << 20);
        let (good, _) = store.put_bytes(data(1, 1_000)).await.unwrap();
        let bad = zako_digest::hash::bytes(&data(2, 1_000));
        let damaged = Chunks::from_bytes(data(3, 1_000));
        store.shelf.lock().insert(bad, damaged).unwrap();
        let absent = zako_digest::hash::bytes(b"absent");
        let (progress, mut reports) = mpsc::channel(16);
        let scope = VerifyScope::Blobs(vec![good, bad, absent]);
        let report = store.verify(scope, progress).await.unwrap();
        assert_eq!(report.corrupt, [bad]);
        assert_eq!(report.missing, [absent]);
        assert_eq!((report.blobs_checked, report.bytes_checked), (2, 2_000));
        assert!(reports.recv().await.is_some());
        assert!(!store.contains(&bad).await.unwrap());
        assert!(store.contains(&good).await.unwrap());
    }
}
