//! The local store as a [`Cas`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::LocalStore;
use super::index::{MOST_BLOB, Place, Until};
use super::janitor::Request;
use super::job::Job;
use super::large::disk_bytes;
use super::leases::MOST_LEASE_SECONDS;
use super::options::Durability;
use super::read;
use super::runs;
use super::shared::{BACKLOG_KIB, record_footprint, stopped};
use super::small_writer::SmallWriter;
use super::space::{Purpose, Room};
use super::steps::blocking;
use super::waiting::Waiting;
use super::writer::LargeWriter;
use crate::cas::{
    Blob, BlobStat, BlobWriter, Cas, CasError, ErrorKind, Lease, Location, Result, Stored,
};
use crate::observe::{EvictionReason, trace};
use crate::{BlobRange, Digest};

/// Of a batch, so many bytes are handed to the committer at once.
const BATCH_STEP: u64 = 8 << 20;

#[async_trait]
impl Cas for LocalStore {
    async fn missing(&self, digests: &[Digest], lease: Lease) -> Result<Vec<Digest>> {
        self.shared.ready().await?;
        let now = self.shared.now();
        let until = Until {
            end: self.lease_end(lease, now),
            now,
            ledger: &self.shared.ledger,
        };
        let looking = trace::step!("index lookup", zako.blobs = digests.len() as i64);
        Ok(looking.in_scope(|| self.shared.index.missing(digests, until)))
    }

    async fn stat(&self, digest: &Digest) -> Result<BlobStat> {
        self.shared.ready().await?;
        let Some(found) = self.shared.index.find(digest) else {
            return Err(CasError::not_found(*digest));
        };
        let left = found.leased_until.saturating_sub(self.shared.now());
        let location = match found.place {
            Place::Record { .. } => Location::Segment,
            Place::File { .. } => Location::File,
        };
        let leased_for = Duration::from_secs(u64::from(left));
        Ok(BlobStat::new(*digest, leased_for, location))
    }

    async fn fetch(&self, digest: &Digest, range: BlobRange) -> Result<Blob> {
        self.shared.ready().await?;
        read::open(self, digest, range).await
    }

    async fn put(&self, digest: &Digest, data: Bytes) -> Result<Stored> {
        self.shared.ready().await?;
        if self.look_up(digest) {
            return Ok(Stored::Existing);
        }
        if digest.size() > self.shared.sizes.large_from {
            return self.put_large(digest, data, false).await;
        }
        let hashing = trace::step!("hash", zako.bytes = data.len() as i64);
        hashing.in_scope(|| check_bytes(digest, &data))?;
        drop(hashing);
        let outcomes = self.commit_evicting(vec![(*digest, data)]).await?;
        outcomes
            .into_iter()
            .next()
            .unwrap_or_else(|| Err(stopped()))
    }

    async fn writer(&self, digest: &Digest, offset: u64) -> Result<Box<dyn BlobWriter>> {
        self.shared.ready().await?;
        if self.shared.index.contains(digest) {
            return Err(CasError::already_exists(*digest));
        }
        if digest.size() > self.shared.sizes.large_from {
            self.check_size(digest.size())
                .map_err(|error| error.with_digest(*digest))?;
            return Ok(Box::new(LargeWriter::open(self, digest, offset).await?));
        }
        if offset > 0 {
            return Err(CasError::not_held(*digest, offset, 0));
        }
        Ok(Box::new(SmallWriter::new(self.clone(), *digest)))
    }

    async fn held(&self, digest: &Digest) -> Result<u64> {
        self.shared.ready().await?;
        if self.shared.index.contains(digest) {
            return Ok(digest.size());
        }
        Ok(self.shared.partials.held(&(*digest).into()))
    }

    async fn delete(&self, digest: &Digest) -> Result<bool> {
        self.shared.ready().await?;
        let deleted = match self.shared.index.find(digest).map(|found| found.place) {
            None => {
                self.settle_absent(*digest).await?;
                Ok(false)
            }
            Some(Place::Record { .. }) => {
                let deleted = self.bury(*digest, None).await?;
                // Tombstones take room that nobody reserved.
                if !self.shared.space.has_room(0) {
                    let (ack, _) = oneshot::channel();
                    let _ = self.threads.janitor.send(Request::Free { bytes: 0, ack });
                }
                Ok(deleted)
            }
            Some(place @ Place::File { number }) => {
                let (shared, digest) = (Arc::clone(&self.shared), *digest);
                let durable = shared.options.durability != Durability::None;
                blocking(move || {
                    shared.large.remove(&shared, &digest, number, durable, || {
                        shared.forget(&digest, place)
                    })
                })
                .await?
            }
        };
        if matches!(deleted, Ok(true)) {
            self.shared
                .gave_up(EvictionReason::Deleted, 1, digest.size());
        }
        deleted
    }

    async fn fetch_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes>> {
        match self.shared.ready().await {
            Ok(()) => runs::fetch(self, digests).await,
            Err(error) => digests.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn put_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<Stored>> {
        if let Err(error) = self.shared.ready().await {
            return blobs.iter().map(|_| Err(error.clone())).collect();
        }
        let mut outcomes: Vec<Result<Stored>> = Vec::with_capacity(blobs.len());
        let (mut small, mut places) = (Vec::with_capacity(blobs.len()), Vec::new());
        let hashing = trace::step!("hash", zako.blobs = blobs.len() as i64);
        for (digest, data) in blobs {
            let is_small = digest.size() <= self.shared.sizes.large_from;
            if !is_small || self.shared.index.contains(&digest) {
                outcomes.push(self.put(&digest, data).await);
                continue;
            }
            match hashing.in_scope(|| check_bytes(&digest, &data)) {
                Err(error) => outcomes.push(Err(error)),
                Ok(()) => {
                    places.push(outcomes.len());
                    outcomes.push(Ok(Stored::New));
                    small.push((digest, data));
                }
            }
        }
        drop(hashing);
        if small.is_empty() {
            return outcomes;
        }
        let stored = self.commit_in_steps(small).await;
        for (place, stored) in places.into_iter().zip(stored) {
            outcomes[place] = stored;
        }
        outcomes
    }
}

impl LocalStore {
    fn look_up(&self, digest: &Digest) -> bool {
        let looking = trace::step!("index lookup", zako.blobs = 1_i64);
        looking.in_scope(|| self.shared.index.contains(digest))
    }

    /// Makes sure that a blob that isn't there stays away: what is left on disk of
    /// one that was evicted must not come back after its deletion.
    async fn settle_absent(&self, digest: Digest) -> Result<()> {
        let shared = &self.shared;
        if shared.options.durability != Durability::None && shared.large.may_come_back(&digest) {
            let shared = Arc::clone(shared);
            blocking(move || shared.large.settle(&digest)).await??;
        }
        if shared.segments.have_strays() {
            self.bury(digest, None).await?;
        }
        Ok(())
    }

    /// Room for bytes of a new blob, made by eviction if need be.
    pub(super) async fn make_room(&self, bytes: u64) -> Result<Room> {
        let shared = &self.shared;
        shared.check_open()?;
        if let Some(room) = shared.space.reserve(bytes, Purpose::Store) {
            return Ok(room);
        }
        if bytes > shared.space.most() {
            return Err(shared.full(bytes));
        }
        // The janitor reserves, so that nobody else takes what it frees for this one.
        let (ack, room) = oneshot::channel();
        self.threads
            .janitor
            .send(Request::Free { bytes, ack })
            .map_err(|_| stopped())?;
        let room = room.await.map_err(|_| stopped())?;
        room.ok_or_else(|| shared.full(bytes))
    }

    /// Hands verified blobs to the committer.
    async fn commit(&self, blobs: Vec<(Digest, Bytes)>) -> Result<Vec<Result<Stored>>> {
        let shared = &self.shared;
        let footprint: u64 = blobs
            .iter()
            .map(|(digest, _)| record_footprint(digest))
            .sum();
        let kib = (footprint / 1024 + 1).min(BACKLOG_KIB as u64) as u32;
        let backlog = Arc::clone(&shared.backlog);
        let permit = backlog
            .acquire_many_owned(kib)
            .await
            .map_err(|_| stopped())?;
        let room = self.make_room(footprint).await?;
        let (ack, outcome) = oneshot::channel();
        self.threads
            .committer
            .send(Job::Put {
                trace: Waiting::new(footprint),
                blobs,
                room,
                permit,
                since: shared.options.observer.as_ref().map(|_| Instant::now()),
                ack,
            })
            .map_err(|_| stopped())?;
        outcome.await.map_err(|_| stopped())
    }

    /// As [`commit`](Self::commit). When the file system is full although the cap
    /// is not reached, room is made and it is tried once more.
    async fn commit_evicting(&self, blobs: Vec<(Digest, Bytes)>) -> Result<Vec<Result<Stored>>> {
        let mut outcomes = self.commit(blobs.clone()).await?;
        let full: Vec<usize> = (0..outcomes.len())
            .filter(|&at| matches!(&outcomes[at], Err(error) if error.kind() == ErrorKind::NoSpace))
            .collect();
        if !full.is_empty() {
            let again = full.iter().map(|&at| blobs[at].clone()).collect();
            for (at, outcome) in full.into_iter().zip(self.commit(again).await?) {
                outcomes[at] = outcome;
            }
        }
        Ok(outcomes)
    }

    /// As [`commit_evicting`](Self::commit_evicting), for any number of them.
    pub(super) async fn commit_in_steps(
        &self,
        mut blobs: Vec<(Digest, Bytes)>,
    ) -> Vec<Result<Stored>> {
        let mut outcomes = Vec::with_capacity(blobs.len());
        // Room is reserved for a step at once: for more of them together, more would
        // be evicted than is needed.
        while !blobs.is_empty() {
            let mut bytes = 0;
            let fits = |(digest, _): &&(Digest, Bytes)| {
                bytes += record_footprint(digest);
                bytes <= BATCH_STEP
            };
            let count = blobs.iter().take_while(fits).count().max(1);
            let rest = blobs.split_off(count);
            let step = std::mem::replace(&mut blobs, rest);
            match self.commit_evicting(step).await {
                Ok(stored) => outcomes.extend(stored),
                Err(error) => outcomes.extend((0..count).map(|_| Err(error.clone()))),
            }
        }
        outcomes
    }

    /// Stores a blob in a file of its own; its bytes are hashed unless they are `known`
    /// to be the blob's.
    pub(super) async fn put_large(
        &self,
        digest: &Digest,
        data: Bytes,
        known: bool,
    ) -> Result<Stored> {
        self.check_size(digest.size())
            .map_err(|error| error.with_digest(*digest))?;
        let mut writer = LargeWriter::of_memory(self, digest, known).await?;
        match writer.write(data).await {
            Ok(()) => Box::new(writer).commit().await,
            Err(error) => Err(error),
        }
    }

    /// Refuses a blob that the store could not hold if it were empty.
    pub(super) fn check_size(&self, size: u64) -> Result<()> {
        if size > MOST_BLOB || disk_bytes(size) > self.shared.space.most() {
            return Err(self.shared.full(size));
        }
        Ok(())
    }

    /// Hides a damaged blob and keeps its bytes aside.
    pub(super) async fn quarantine(
        &self,
        digest: &Digest,
        place: Place,
        data: Bytes,
    ) -> Result<()> {
        let (shared, name) = (Arc::clone(&self.shared), *digest);
        match place {
            Place::Record { .. } => {
                // Of several that find the same damage, one keeps the bytes.
                if self.bury(name, Some(place)).await? {
                    self.shared.found_damaged(digest);
                    if !data.is_empty() {
                        blocking(move || shared.quarantine.keep(&name, &data)).await?;
                    }
                }
            }
            Place::File { number } => {
                blocking(move || shared.large.quarantine(&shared, &name, number)).await??;
            }
        }
        Ok(())
    }

    /// Removes a blob that lies in a record.
    async fn bury(&self, digest: Digest, only_at: Option<Place>) -> Result<bool> {
        let (ack, outcome) = oneshot::channel();
        let job = Job::Delete {
            digest,
            only_at,
            ack,
        };
        self.threads.committer.send(job).map_err(|_| stopped())?;
        outcome.await.map_err(|_| stopped())?
    }

    /// When a lease that is given now ends, in seconds of the store's clock; 0 for
    /// none. Rounded up to the minute, so that leasing a blob again and again
    /// changes nothing most of the time.
    fn lease_end(&self, lease: Lease, now: u32) -> u32 {
        let options = &self.shared.options;
        let length = match lease {
            Lease::None => return 0,
            Lease::Default => options.lease,
            Lease::For(length) => length,
        };
        if length.is_zero() {
            return 0;
        }
        let seconds = length
            .min(options.max_lease)
            .as_secs()
            .clamp(1, MOST_LEASE_SECONDS);
        // At most some days.
        now.saturating_add(seconds as u32)
            .checked_next_multiple_of(60)
            .unwrap_or(u32::MAX)
    }
}

fn check_bytes(digest: &Digest, data: &Bytes) -> Result<()> {
    let actual = zako_digest::hash::bytes(data);
    if actual == *digest {
        Ok(())
    } else {
        Err(CasError::mismatch(*digest, actual))
    }
}
