//! What a task does to a server until the server is killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use futures::stream;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use zako_core::Digest;
use zako_core::cas::{Cas, CasError, CasExt, ErrorKind, Lease, Maintain};
use zako_core::client::Client;

use crate::blobs::{Blob, Blobs, Fate, Known};
use crate::{Tally, Variant};

pub(crate) struct Task {
    pub(crate) client: Client,
    pub(crate) blobs: Arc<Blobs>,
    /// Which of the tasks this is.
    pub(crate) number: usize,
    pub(crate) variant: Variant,
    /// Set before the server is killed: from then on calls may fail.
    pub(crate) killed: Arc<AtomicBool>,
    /// Counts what was done, by all tasks.
    pub(crate) done: Arc<AtomicU64>,
    pub(crate) known: Known,
    pub(crate) tally: Tally,
}

impl Task {
    /// Works until the server is gone.
    pub(crate) async fn run(mut self, seed: u64) -> (Known, Tally) {
        let mut rng = StdRng::seed_from_u64(seed);
        while !self.killed.load(Ordering::Acquire) {
            match rng.random_range(0..20) {
                0..=2 => self.delete(&mut rng).await,
                3..=5 => self.interrupt(&mut rng).await,
                6 => self.store(&mut rng).await,
                7..=9 => self.put_batch(&mut rng).await,
                10 | 11 => self.negotiate(&mut rng).await,
                12 | 13 => self.get(&mut rng).await,
                14 if rng.random_range(0..8) == 0 => {
                    let collected = self.client.collect_garbage().await;
                    self.judge(collected.map(drop));
                }
                _ => self.put(&mut rng).await,
            }
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        (self.known, self.tally)
    }

    fn own(&self, rng: &mut StdRng) -> Blob {
        self.blobs.own[self.number].choose(rng).unwrap().clone()
    }

    fn any(&self, rng: &mut StdRng) -> Blob {
        let shared = rng.random_range(0..4) == 0;
        match shared {
            true => self.blobs.shared.choose(rng).unwrap().clone(),
            false => self.own(rng),
        }
    }

    /// Whether a call went well. While the server lives nothing may fail, but for
    /// want of room in a small store, and where a client that tries again would.
    #[track_caller]
    fn judge(&self, outcome: Result<(), CasError>) -> bool {
        let Err(error) = outcome else {
            return true;
        };
        let full = self.variant.evicts && error.kind() == ErrorKind::NoSpace;
        assert!(
            full || self.is_outrun(&error) || self.killed.load(Ordering::Acquire),
            "a living server failed: {error:?}"
        );
        false
    }

    /// Whether what an upload was to go on with is gone: it was dropped to make
    /// room, or another task went on with it.
    fn is_outrun(&self, error: &CasError) -> bool {
        let mut shared = self.blobs.shared.iter();
        let can_be = self.variant.evicts || shared.any(|blob| error.digest() == Some(blob.digest));
        can_be && matches!(error.kind(), ErrorKind::Stale | ErrorKind::NotHeld)
    }

    async fn put(&mut self, rng: &mut StdRng) {
        let Blob { digest, data } = self.any(rng);
        let before = self.known.begin(digest);
        let stored = self.client.put(&digest, data).await;
        self.stored(digest, before, stored.map(drop));
    }

    fn stored(&mut self, digest: Digest, before: Fate, outcome: Result<(), CasError>) {
        let acknowledged = self.judge(outcome);
        self.known.end(digest, before, Fate::Present, acknowledged);
        self.tally.stored += u64::from(acknowledged);
    }

    async fn put_batch(&mut self, rng: &mut StdRng) {
        let count = rng.random_range(2..12);
        let mut batch: Vec<Blob> = (0..count).map(|_| self.any(rng)).collect();
        batch.sort_by_key(|blob| blob.digest);
        batch.dedup_by_key(|blob| blob.digest);
        let before: Vec<Fate> = batch
            .iter()
            .map(|blob| self.known.begin(blob.digest))
            .collect();
        let blobs = batch.iter().map(|blob| (blob.digest, blob.data.clone()));
        let outcomes = self.client.put_batch(blobs.collect()).await;
        assert_eq!(outcomes.len(), batch.len());
        for ((blob, before), outcome) in batch.iter().zip(before).zip(outcomes) {
            self.stored(blob.digest, before, outcome.map(drop));
        }
    }

    /// Stores step by step, from where an earlier upload was interrupted.
    async fn store(&mut self, rng: &mut StdRng) {
        let Blob { digest, data } = self.own(rng);
        let before = self.known.begin(digest);
        let stored = self.client.store(&digest, steps(&data)).await;
        self.stored(digest, before, stored.map(drop));
    }

    async fn delete(&mut self, rng: &mut StdRng) {
        let Blob { digest, .. } = self.own(rng);
        let before = self.known.begin(digest);
        let deleted = self.client.delete(&digest).await;
        if let Ok(was_there) = &deleted {
            let evicted = self.variant.evicts && !was_there;
            match before {
                Fate::Present => assert!(*was_there || evicted, "{digest} was lost"),
                Fate::Absent => assert!(!was_there, "{digest} came back"),
                Fate::Open => {}
            }
        }
        let acknowledged = self.judge(deleted.map(drop));
        self.known.end(digest, before, Fate::Absent, acknowledged);
        self.tally.deleted += u64::from(acknowledged);
    }

    /// An upload that stops on its way, and waits to be resumed.
    async fn interrupt(&mut self, rng: &mut StdRng) {
        // Of smaller ones nothing is kept.
        let kept = |blob: &&Blob| blob.digest.size() > self.variant.large_from;
        let large: Vec<&Blob> = self.blobs.own[self.number].iter().filter(kept).collect();
        let Blob { digest, data } = (*large.choose(rng).unwrap()).clone();
        match self.upload_half(digest, &data).await {
            Ok(Some(held)) => {
                assert!(held < digest.size(), "half of {digest} is all of it");
                self.known.park(digest, held);
                self.tally.parked += u64::from(held > 0);
            }
            Ok(None) => {}
            Err(error) => {
                self.judge(Err(error));
            }
        }
    }

    /// Sends half of what the server lacks; what it holds then, `None` if it has
    /// the whole blob.
    async fn upload_half(&self, digest: Digest, data: &Bytes) -> Result<Option<u64>, CasError> {
        let held = self.client.held(&digest).await?;
        if held == digest.size() {
            return Ok(None);
        }
        let mut writer = match self.client.writer(&digest, held).await {
            Ok(writer) => writer,
            Err(error) if error.is_already_exists() => return Ok(None),
            Err(error) => return Err(error),
        };
        let from = held as usize;
        let half = data.slice(from..from + (data.len() - from) / 2);
        writer.write(half).await?;
        let held = writer.park().await?;
        Ok((held < digest.size()).then_some(held))
    }

    /// Asks what is missing; what is there is leased, and must stay.
    async fn negotiate(&mut self, rng: &mut StdRng) {
        let own = &self.blobs.own[self.number];
        let count = rng.random_range(1..own.len());
        let asked: Vec<&Blob> = own.choose_multiple(rng, count).collect();
        let digests: Vec<Digest> = asked.iter().map(|blob| blob.digest).collect();
        let missing = match self.client.missing(&digests, Lease::Default).await {
            Ok(missing) => missing,
            Err(error) => {
                self.judge(Err(error));
                return;
            }
        };
        for digest in &digests {
            let present = !missing.contains(digest);
            match self.known.fate(digest) {
                Fate::Present => assert!(present || self.variant.evicts, "{digest} was lost"),
                Fate::Absent => assert!(!present, "{digest} came back"),
                Fate::Open => {}
            }
        }
        let Some(leased) = asked.iter().find(|blob| !missing.contains(&blob.digest)) else {
            return;
        };
        match self.client.fetch_bytes(&leased.digest).await {
            Ok(data) => assert_eq!(data, leased.data),
            Err(error) => assert!(
                self.killed.load(Ordering::Acquire),
                "a leased blob: {error:?}"
            ),
        }
    }

    async fn get(&mut self, rng: &mut StdRng) {
        let Blob { digest, data } = self.own(rng);
        let fate = self.known.fate(&digest);
        match self.client.fetch_bytes(&digest).await {
            Ok(found) => {
                assert_eq!(found, data);
                assert_ne!(fate, Fate::Absent, "{digest} came back");
            }
            Err(error) if error.is_not_found() => {
                let lost = fate == Fate::Present && !self.variant.evicts;
                assert!(!lost, "{digest} was lost");
            }
            Err(error) => {
                self.judge(Err(error));
            }
        }
    }
}

/// A blob in the steps in which a file might be read.
pub(crate) fn steps(data: &Bytes) -> impl futures::Stream<Item = Result<Bytes, CasError>> + use<> {
    let steps: Vec<_> = data
        .chunks(64 << 10)
        .map(|step| Ok(data.slice_ref(step)))
        .collect();
    stream::iter(steps)
}
