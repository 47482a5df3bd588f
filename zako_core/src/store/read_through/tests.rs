use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;

use futures::StreamExt;
use futures::future::join_all;

use super::*;
use crate::cas::CasExt;
use crate::store::MemoryStore;

/// Counts and spoils the calls of a store.
#[derive(Debug)]
struct Watched {
    store: MemoryStore,
    fetches: AtomicUsize,
    broken: AtomicBool,
    lying: AtomicBool,
}

impl Watched {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            store: MemoryStore::new(64 << 20),
            fetches: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            lying: AtomicBool::new(false),
        })
    }

    fn check(&self) -> Result<()> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(CasError::new(ErrorKind::Io, "broken for the test"));
        }
        Ok(())
    }
}

#[async_trait]
impl Cas for Watched {
    async fn missing(&self, digests: &[Digest], lease: Lease) -> Result<Vec<Digest>> {
        self.check()?;
        self.store.missing(digests, lease).await
    }
    async fn stat(&self, digest: &Digest) -> Result<BlobStat> {
        self.check()?;
        self.store.stat(digest).await
    }
    async fn fetch(&self, digest: &Digest, range: BlobRange) -> Result<Blob> {
        self.check()?;
        self.fetches.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        let blob = self.store.fetch(digest, range).await?;
        if !self.lying.load(Ordering::SeqCst) {
            return Ok(blob);
        }
        let range = blob.range();
        let steps = blob.map(|step| Ok(step?.iter().map(|byte| byte ^ 1).collect()));
        Ok(Blob::from_stream(*digest, range, steps))
    }
    async fn put(&self, digest: &Digest, data: Bytes) -> Result<Stored> {
        self.check()?;
        self.store.put(digest, data).await
    }
    async fn writer(&self, digest: &Digest, offset: u64) -> Result<Box<dyn BlobWriter>> {
        self.check()?;
        self.store.writer(digest, offset).await
    }
    async fn held(&self, digest: &Digest) -> Result<u64> {
        self.check()?;
        self.store.held(digest).await
    }
    async fn delete(&self, digest: &Digest) -> Result<bool> {
        self.check()?;
        self.store.delete(digest).await
    }
}

const SIZES: [usize; 4] = [0, 100, 256 * 1024, 2_000_000];

fn sample(size: usize) -> Bytes {
    (0..size).map(|at| (at % 249) as u8).collect()
}

fn pair() -> (Arc<Watched>, Arc<Watched>, ReadThrough) {
    let (near, far) = (Watched::new(), Watched::new());
    let pair = ReadThrough::new(Arc::clone(&near) as _, Arc::clone(&far) as _);
    (near, far, pair)
}

#[tokio::test]
async fn a_whole_read_fills_and_the_next_one_is_near() {
    for size in SIZES {
        let (near, far, pair) = pair();
        let (digest, _) = far.put_bytes(sample(size)).await.unwrap();
        assert!(pair.contains(&digest).await.unwrap());
        assert_eq!(pair.fetch_bytes(&digest).await.unwrap(), sample(size));
        assert!(near.contains(&digest).await.unwrap(), "{size}");
        assert_eq!(pair.fetch_bytes(&digest).await.unwrap(), sample(size));
        assert_eq!(far.fetches.load(Ordering::SeqCst), 1);
        assert!(pair.fills.running_is_empty());
    }
}

#[tokio::test]
async fn a_range_fills_nothing() {
    let (near, far, pair) = pair();
    let (digest, _) = far.put_bytes(sample(1_000)).await.unwrap();
    let blob = pair.fetch(&digest, BlobRange::new(10, 20)).await.unwrap();
    assert_eq!(blob.bytes().await.unwrap(), sample(1_000)[10..30]);
    assert!(!near.contains(&digest).await.unwrap());
}

#[tokio::test]
async fn batches_fill_too() {
    let (near, far, pair) = pair();
    let mut digests = Vec::new();
    for size in 0..50 {
        digests.push(far.put_bytes(sample(size)).await.unwrap().0);
    }
    digests.extend_from_within(..5);
    let absent = zako_digest::hash::bytes(b"absent");
    digests.insert(7, absent);
    let outcomes = pair.fetch_batch(&digests).await;
    for (digest, outcome) in digests.iter().zip(outcomes) {
        if *digest == absent {
            assert!(outcome.unwrap_err().is_not_found());
        } else {
            assert_eq!(outcome.unwrap(), sample(digest.size() as usize));
            assert!(near.contains(digest).await.unwrap());
        }
    }
    assert!(pair.fills.running_is_empty());
}

#[tokio::test]
async fn many_readers_of_a_small_blob_fetch_it_once() {
    let (_, far, pair) = pair();
    let (digest, _) = far.put_bytes(sample(1_000)).await.unwrap();
    let reads = join_all((0..20).map(|_| pair.fetch_bytes(&digest))).await;
    assert!(reads.into_iter().all(|read| read.unwrap() == sample(1_000)));
    assert_eq!(far.fetches.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_reader_that_stops_hinders_nobody() {
    for size in [1_000, 2_000_000] {
        let (near, far, pair) = pair();
        let (digest, _) = far.put_bytes(sample(size)).await.unwrap();
        let mut stopped = Box::pin(pair.fetch_bytes(&digest));
        assert!(futures::poll!(&mut stopped).is_pending());
        assert_eq!(pair.fetch_bytes(&digest).await.unwrap(), sample(size));
        drop(stopped);
        assert_eq!(pair.fetch_bytes(&digest).await.unwrap(), sample(size));
        assert!(near.contains(&digest).await.unwrap());
    }
}

#[tokio::test]
async fn a_dropped_read_is_resumed_by_the_next() {
    let (near, far, pair) = pair();
    let (digest, _) = far.put_bytes(sample(2_000_000)).await.unwrap();
    let mut blob = pair.fetch(&digest, BlobRange::FULL).await.unwrap();
    let first = blob.next().await.unwrap().unwrap();
    drop(blob);
    assert_eq!(near.held(&digest).await.unwrap(), first.len() as u64);
    assert_eq!(pair.fetch_bytes(&digest).await.unwrap(), sample(2_000_000));
    assert!(near.contains(&digest).await.unwrap());
}

#[tokio::test]
async fn a_broken_near_store_fails_no_read_and_no_store() {
    for size in SIZES {
        let (near, far, pair) = pair();
        near.broken.store(true, Ordering::SeqCst);
        let (digest, stored) = pair.put_bytes(sample(size)).await.unwrap();
        assert_eq!(stored, Stored::New);
        assert_eq!(pair.fetch_bytes(&digest).await.unwrap(), sample(size));
        assert_eq!(
            pair.fetch_batch(&[digest]).await[0].as_ref().unwrap(),
            &sample(size)
        );
        assert!(pair.contains(&digest).await.unwrap());
        assert!(far.contains(&digest).await.unwrap());
        assert!(pair.delete(&digest).await.is_err());
        near.broken.store(false, Ordering::SeqCst);
        assert!(pair.fills.running_is_empty());
    }
}

#[tokio::test]
async fn a_read_goes_on_far_when_the_near_store_breaks_midway() {
    let (near, far, pair) = pair();
    let (digest, _) = pair.put_bytes(sample(2_000_000)).await.unwrap();
    let blob = near.fetch(&digest, BlobRange::from_start(5)).await.unwrap();
    let failure = futures::stream::iter([Err(CasError::new(ErrorKind::Corrupt, "damaged"))]);
    let steps = blob.take(2).chain(failure);
    let breaking = Blob::from_stream(digest, 5..2_000_000, steps);
    let read = recovering(breaking, far).bytes().await.unwrap();
    assert_eq!(read, sample(2_000_000)[5..]);
}

#[tokio::test]
async fn other_bytes_from_afar_are_not_kept_and_not_given_whole() {
    for size in &SIZES[1..] {
        let (near, far, pair) = pair();
        let (digest, _) = far.put_bytes(sample(*size)).await.unwrap();
        far.lying.store(true, Ordering::SeqCst);
        let error = pair.fetch_bytes(&digest).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{size}");
        assert!(!near.contains(&digest).await.unwrap());
        if *size < 1_000_000 {
            let error = pair.fetch_batch(&[digest]).await.remove(0).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }
}

#[tokio::test]
async fn a_read_under_way_does_not_bring_a_deleted_blob_back() {
    for size in [1_000, 2_000_000] {
        for polls in 1..30 {
            let (near, far, pair) = pair();
            let (digest, _) = far.put_bytes(sample(size)).await.unwrap();
            let mut begun = Box::pin(pair.fetch_bytes(&digest));
            let mut read = None;
            for _ in 0..polls {
                if let Poll::Ready(outcome) = futures::poll!(&mut begun) {
                    read = Some(outcome);
                    break;
                }
                tokio::task::yield_now().await;
            }
            assert!(pair.delete(&digest).await.unwrap());
            let read = match read {
                Some(read) => read,
                None => begun.await,
            };
            match read {
                Ok(read) => assert_eq!(read, sample(size)),
                Err(error) => assert!(error.is_not_found()),
            }
            assert!(!near.contains(&digest).await.unwrap(), "{size} {polls}");
            let error = pair.fetch_bytes(&digest).await.unwrap_err();
            assert!(error.is_not_found());
        }
    }
}
