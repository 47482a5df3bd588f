//! A store that books what its callers store is one like any other, and its books are
//! right in the end.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use zako_core::access::{Account, Accounted, Allowance, Consumer, Direction, Quota};
use zako_core::cas::{
    Blob, BlobStat, BlobWriter, Cas, Lease, Result, StagedSize, StagedWriter, Staging, Stored,
    UploadKey, Witness,
};
use zako_core::conformance;
use zako_core::store::{LocalStore, MemoryStore, StoreOptions};
use zako_core::{BlobRange, Digest};

/// After so long, what is awaited will not come.
const HUNG: Duration = Duration::from_secs(60);

/// An account without limits.
#[derive(Debug, Default)]
struct Books {
    streams: AtomicI64,
    booked: AtomicI64,
    /// What the store said to be new.
    new: AtomicI64,
}

#[derive(Debug)]
struct Everyone(Arc<Books>);

/// Each call of it is one of a caller's.
#[derive(Debug)]
struct Called {
    store: Arc<dyn Staging>,
    quota: Everyone,
}

struct CalledWriter<W: ?Sized> {
    writer: Box<W>,
    allowance: Allowance,
    books: Arc<Books>,
}

impl Quota for Everyone {
    fn account(&self, _: &Consumer<'_>) -> Option<Arc<dyn Account>> {
        Some(Arc::clone(&self.0) as _)
    }
}

impl Account for Books {
    fn begin(&self) -> Result<()> {
        self.streams.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn end(&self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }

    fn moved(&self, _: Direction, _: u64) {}

    fn debt(&self, _: Direction) -> Duration {
        Duration::ZERO
    }

    fn reserve(&self, bytes: u64) -> Result<()> {
        self.booked.fetch_add(bytes as i64, Ordering::Relaxed);
        Ok(())
    }

    fn release(&self, bytes: u64) {
        self.booked.fetch_sub(bytes as i64, Ordering::Relaxed);
    }
}

impl Books {
    fn stored(&self, digest: &Digest, stored: Stored) {
        if stored == Stored::New {
            self.new.fetch_add(digest.size() as i64, Ordering::Relaxed);
        }
    }

    /// Waits until all that was begun is over; then what is booked is what was new.
    async fn balance(&self) {
        let balance = async {
            loop {
                let new = self.new.load(Ordering::Relaxed);
                let booked = self.booked.load(Ordering::Relaxed);
                let streams = self.streams.load(Ordering::Relaxed);
                if (streams, booked) == (0, new) {
                    return;
                }
                // Tasks that the suite has ended are about to let go.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let balanced = tokio::time::timeout(HUNG, balance).await;
        balanced.unwrap_or_else(|_| panic!("the books are wrong: {self:?}"));
        assert!(self.new.load(Ordering::Relaxed) > 0, "nothing was stored");
    }
}

impl Called {
    fn new(store: impl Staging, books: &Arc<Books>) -> Arc<Self> {
        Arc::new(Self {
            store: Arc::new(Accounted::new(store)),
            quota: Everyone(Arc::clone(books)),
        })
    }

    fn books(&self) -> &Arc<Books> {
        &self.quota.0
    }

    fn allowance(&self) -> Allowance {
        let caller = Consumer::new(None, None);
        Allowance::begin(&self.quota, &caller).unwrap().unwrap()
    }

    fn writer<W: ?Sized>(&self, writer: Box<W>, allowance: Allowance) -> Box<CalledWriter<W>> {
        let books = Arc::clone(self.books());
        Box::new(CalledWriter {
            writer,
            allowance,
            books,
        })
    }
}

#[async_trait]
impl Cas for Called {
    async fn missing(&self, digests: &[Digest], lease: Lease) -> Result<Vec<Digest>> {
        let missing = self.store.missing(digests, lease);
        self.allowance().scope(missing).await
    }

    async fn stat(&self, digest: &Digest) -> Result<BlobStat> {
        self.allowance().scope(self.store.stat(digest)).await
    }

    async fn fetch(&self, digest: &Digest, range: BlobRange) -> Result<Blob> {
        let fetch = self.store.fetch(digest, range);
        self.allowance().scope(fetch).await
    }

    async fn put(&self, digest: &Digest, data: Bytes) -> Result<Stored> {
        let put = self.store.put(digest, data);
        let stored = self.allowance().scope(put).await?;
        self.books().stored(digest, stored);
        Ok(stored)
    }

    async fn writer(&self, digest: &Digest, offset: u64) -> Result<Box<dyn BlobWriter>> {
        let allowance = self.allowance();
        let writer = self.store.writer(digest, offset);
        let writer = allowance.clone().scope(writer).await?;
        Ok(Self::writer(self, writer, allowance))
    }

    async fn held(&self, digest: &Digest) -> Result<u64> {
        self.allowance().scope(self.store.held(digest)).await
    }

    async fn delete(&self, digest: &Digest) -> Result<bool> {
        self.allowance().scope(self.store.delete(digest)).await
    }

    async fn put_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<Stored>> {
        let digests: Vec<_> = blobs.iter().map(|(digest, _)| *digest).collect();
        let put = self.store.put_batch(blobs);
        let outcomes = self.allowance().scope(put).await;
        for (digest, outcome) in digests.iter().zip(&outcomes) {
            if let Ok(stored) = outcome {
                self.books().stored(digest, *stored);
            }
        }
        outcomes
    }

    async fn fetch_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes>> {
        let fetch = self.store.fetch_batch(digests);
        self.allowance().scope(fetch).await
    }
}

#[async_trait]
impl Staging for Called {
    async fn put_unnamed(&self, blobs: Vec<Bytes>) -> Vec<Result<(Digest, Stored)>> {
        let put = self.store.put_unnamed(blobs);
        let outcomes = self.allowance().scope(put).await;
        for (digest, stored) in outcomes.iter().flatten() {
            self.books().stored(digest, *stored);
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
        let allowance = self.allowance();
        let writer = self.store.stage(key, size, offset, witness);
        let writer = allowance.clone().scope(writer).await?;
        Ok(Self::writer(self, writer, allowance))
    }

    async fn staged(&self, key: &UploadKey) -> Result<u64> {
        self.allowance().scope(self.store.staged(key)).await
    }
}

#[async_trait]
impl BlobWriter for CalledWriter<dyn BlobWriter> {
    fn digest(&self) -> &Digest {
        self.writer.digest()
    }

    fn held(&self) -> u64 {
        self.writer.held()
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        let write = self.writer.write(data);
        self.allowance.clone().scope(write).await
    }

    async fn commit(self: Box<Self>) -> Result<Stored> {
        let digest = *self.writer.digest();
        let stored = self.allowance.scope(self.writer.commit()).await?;
        self.books.stored(&digest, stored);
        Ok(stored)
    }

    async fn park(self: Box<Self>) -> Result<u64> {
        self.allowance.scope(self.writer.park()).await
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        self.allowance.scope(self.writer.discard()).await
    }
}

#[async_trait]
impl StagedWriter for CalledWriter<dyn StagedWriter> {
    fn held(&self) -> u64 {
        self.writer.held()
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        let write = self.writer.write(data);
        self.allowance.clone().scope(write).await
    }

    async fn commit(self: Box<Self>) -> Result<(Digest, Stored)> {
        let commit = self.writer.commit();
        let (digest, stored) = self.allowance.scope(commit).await?;
        self.books.stored(&digest, stored);
        Ok((digest, stored))
    }

    async fn park(self: Box<Self>) -> Result<u64> {
        self.allowance.scope(self.writer.park()).await
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        self.allowance.scope(self.writer.discard()).await
    }
}

/// Runs both parts of the suite, and looks at the books after each.
async fn conforms<S: Staging>(make: impl AsyncFn() -> S) {
    let books = Arc::new(Books::default());
    let outcome = conformance::run_all(async || Called::new(make().await, &books) as _).await;
    outcome.unwrap_or_else(|violations| panic!("{violations}"));
    books.balance().await;
    let books = Arc::new(Books::default());
    let make = async || Called::new(make().await, &books) as _;
    let outcome = conformance::run_all_staging(make).await;
    outcome.unwrap_or_else(|violations| panic!("{violations}"));
    books.balance().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_front_of_memory() {
    conforms(async || MemoryStore::new(64 << 20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_front_of_a_local_store() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = StoreOptions::default();
    // Both parts of the suite take 290 MiB; what is evicted may be new again.
    options.max_bytes = Some(512 << 20);
    let store = LocalStore::open(folder.path(), options).await.unwrap();
    conforms(async || store.clone()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_is_limited() {
    let store = || Accounted::new(MemoryStore::new(64 << 20));
    let outcome = conformance::run_all(async || Arc::new(store()) as _).await;
    outcome.unwrap_or_else(|violations| panic!("{violations}"));
    let outcome = conformance::run_all_staging(async || Arc::new(store()) as _).await;
    outcome.unwrap_or_else(|violations| panic!("{violations}"));
}
