//! A store in a map that counts what it is given and fails on demand.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::Semaphore;
use zako_core::cas::{
    Blob, BlobStat, BlobWriter, Cas, CasError, Cursor, ErrorKind, FileExtent, Lease, Location,
    Result, Stored,
};
use zako_core::{BlobRange, Digest};
use zako_digest::hash;

#[derive(Debug, Default)]
pub struct MapCas {
    state: Arc<Mutex<State>>,
    pub counts: Arc<Counts>,
    /// Writers wait for a permit for every piece, if there is one.
    pub hold_writes: Option<Arc<Semaphore>>,
    /// Writers count and hash nothing and keep nothing.
    pub swallow: bool,
    /// Downloads come in steps of this many bytes; 0 is one step.
    pub step: usize,
    /// Those steps end with damage once so many bytes were read.
    pub damaged_after: Option<u64>,
    /// Downloads can be taken from this file too, which begins with the blob; their
    /// steps have all bits the other way round.
    pub file: Option<Arc<File>>,
}

#[derive(Debug, Default)]
struct State {
    blobs: HashMap<Digest, Bytes>,
    partials: HashMap<Digest, Vec<u8>>,
    failures: HashMap<Digest, CasError>,
    leases: Vec<Digest>,
}

#[derive(Debug, Default)]
pub struct Counts {
    pub puts: AtomicUsize,
    pub writers: AtomicUsize,
    pub written: AtomicU64,
    pub read: AtomicU64,
    pub fetches: AtomicUsize,
    pub missing: AtomicUsize,
}

impl MapCas {
    pub fn insert(&self, data: &Bytes) -> Digest {
        let digest = hash::bytes(data);
        self.lock().blobs.insert(digest, data.clone());
        digest
    }

    pub fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.lock().blobs.get(digest).cloned()
    }

    pub fn partial(&self, digest: &Digest) -> Option<usize> {
        self.lock().partials.get(digest).map(Vec::len)
    }

    pub fn set_partial(&self, digest: &Digest, data: &[u8]) {
        self.lock().partials.insert(*digest, data.to_vec());
    }

    /// Every use of this blob fails so.
    pub fn fail(&self, digest: &Digest, error: CasError) {
        self.lock().failures.insert(*digest, error);
    }

    pub fn leased(&self) -> Vec<Digest> {
        self.lock().leases.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn check(&self, digest: &Digest) -> Result<()> {
        match self.lock().failures.get(digest) {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}

#[async_trait::async_trait]
impl Cas for MapCas {
    async fn missing(&self, digests: &[Digest], lease: Lease) -> Result<Vec<Digest>> {
        self.counts.missing.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        let (here, missing): (Vec<Digest>, Vec<Digest>) = digests
            .iter()
            .partition(|digest| state.blobs.contains_key(*digest));
        if lease != Lease::None {
            state.leases.extend(here);
        }
        Ok(missing)
    }

    async fn stat(&self, digest: &Digest) -> Result<BlobStat> {
        self.check(digest)?;
        match self.get(digest) {
            Some(_) => Ok(BlobStat::new(*digest, Duration::ZERO, Location::Memory)),
            None => Err(CasError::not_found(*digest)),
        }
    }

    async fn fetch(&self, digest: &Digest, range: BlobRange) -> Result<Blob> {
        self.counts.fetches.fetch_add(1, Ordering::Relaxed);
        self.check(digest)?;
        let data = self
            .get(digest)
            .ok_or_else(|| CasError::not_found(*digest))?;
        let range = range.resolve(digest.size()).map_err(|error| {
            CasError::new(ErrorKind::InvalidRange, error.to_string()).with_digest(*digest)
        })?;
        if let Some(file) = &self.file {
            return Ok(from_file(*digest, range, Arc::clone(file), data));
        }
        let data = data.slice(range.start as usize..range.end as usize);
        if self.step == 0 {
            return Ok(Blob::from_bytes(*digest, range, data));
        }
        let (step, counts) = (self.step, Arc::clone(&self.counts));
        let (digest, damaged_after) = (*digest, self.damaged_after);
        let whole = data.len();
        let steps = futures::stream::unfold(data, move |mut data| async move {
            let read = (whole - data.len()) as u64;
            if damaged_after.is_some_and(|after| read >= after) {
                let error = CasError::new(ErrorKind::Corrupt, "damaged").with_digest(digest);
                return Some((Err(error), Bytes::new()));
            }
            if data.is_empty() {
                return None;
            }
            let piece = data.split_to(step.min(data.len()));
            Some((Ok(piece), data))
        });
        let steps = steps.inspect(move |step: &Result<Bytes>| {
            let read = step.as_ref().map_or(0, Bytes::len);
            counts.read.fetch_add(read as u64, Ordering::Relaxed);
        });
        Ok(Blob::from_stream(digest, range, steps))
    }

    async fn put(&self, digest: &Digest, data: Bytes) -> Result<Stored> {
        self.counts.puts.fetch_add(1, Ordering::Relaxed);
        self.check(digest)?;
        let actual = hash::bytes(&data);
        if actual != *digest {
            return Err(CasError::mismatch(*digest, actual));
        }
        let mut state = self.lock();
        state.partials.remove(digest);
        Ok(match state.blobs.insert(*digest, data) {
            Some(_) => Stored::Existing,
            None => Stored::New,
        })
    }

    async fn writer(&self, digest: &Digest, offset: u64) -> Result<Box<dyn BlobWriter>> {
        self.counts.writers.fetch_add(1, Ordering::Relaxed);
        self.check(digest)?;
        let mut state = self.lock();
        if state.blobs.contains_key(digest) {
            return Err(CasError::already_exists(*digest));
        }
        let mut data = state.partials.remove(digest).unwrap_or_default();
        if offset > data.len() as u64 {
            let held = data.len() as u64;
            state.partials.insert(*digest, data);
            return Err(CasError::not_held(*digest, offset, held));
        }
        data.truncate(offset as usize);
        Ok(Box::new(MapWriter {
            digest: *digest,
            data: Some(data),
            state: Arc::clone(&self.state),
            counts: Arc::clone(&self.counts),
            hold: self.hold_writes.clone(),
            swallow: self.swallow,
        }))
    }

    async fn held(&self, digest: &Digest) -> Result<u64> {
        let state = self.lock();
        Ok(match state.blobs.contains_key(digest) {
            true => digest.size(),
            false => state.partials.get(digest).map_or(0, Vec::len) as u64,
        })
    }

    async fn delete(&self, digest: &Digest) -> Result<bool> {
        Ok(self.lock().blobs.remove(digest).is_some())
    }
}

fn from_file(digest: Digest, range: Range<u64>, file: Arc<File>, data: Bytes) -> Blob {
    let cursor = Cursor::new(range.start);
    let extent = FileExtent {
        file,
        offset: range.start,
    };
    let (next, end) = (cursor.clone(), range.end);
    let steps = futures::stream::poll_fn(move |_| {
        let from = next.offset();
        let to = end.min(from + 100_000);
        next.advance(to - from);
        let step = data[from as usize..to as usize].iter().map(|byte| !byte);
        std::task::Poll::Ready((from < to).then(|| Ok(step.collect())))
    });
    Blob::from_stream(digest, range, steps).with_raw_extent(extent, cursor)
}

struct MapWriter {
    digest: Digest,
    data: Option<Vec<u8>>,
    state: Arc<Mutex<State>>,
    counts: Arc<Counts>,
    hold: Option<Arc<Semaphore>>,
    swallow: bool,
}

impl MapWriter {
    fn keep(&mut self) -> u64 {
        let data = self.data.take().unwrap_or_default();
        let held = data.len() as u64;
        if held > 0 {
            self.state
                .lock()
                .unwrap()
                .partials
                .insert(self.digest, data);
        }
        held
    }
}

#[async_trait::async_trait]
impl BlobWriter for MapWriter {
    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn held(&self) -> u64 {
        self.data.as_ref().map_or(0, |data| data.len() as u64)
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        if let Some(hold) = &self.hold {
            hold.acquire().await.unwrap().forget();
        }
        let length = data.len() as u64;
        self.counts.written.fetch_add(length, Ordering::Relaxed);
        if !self.swallow {
            self.data.as_mut().unwrap().extend_from_slice(&data);
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<Stored> {
        let data = Bytes::from(self.data.take().unwrap());
        let actual = hash::bytes(&data);
        if actual != self.digest {
            return Err(CasError::mismatch(self.digest, actual));
        }
        let mut state = self.state.lock().unwrap();
        Ok(match state.blobs.insert(self.digest, data) {
            Some(_) => Stored::Existing,
            None => Stored::New,
        })
    }

    async fn park(mut self: Box<Self>) -> Result<u64> {
        Ok(self.keep())
    }

    async fn discard(mut self: Box<Self>) -> Result<()> {
        self.data = None;
        Ok(())
    }
}

impl Drop for MapWriter {
    fn drop(&mut self) {
        self.keep();
    }
}
