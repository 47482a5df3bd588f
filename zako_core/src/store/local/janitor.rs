//! The thread that makes room: eviction, compaction, expiry.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::emptying::Policy;
use super::eviction::Unit;
use super::index::Place;
use super::job::Job;
use super::record::Stream;
use super::segment::Segment;
use super::shared::{Shared, stopped};
use super::space::{Purpose, Room};
use crate::Digest;
use crate::cas::{GcReport, Result};
use crate::observe::EvictionReason;

/// Work for the janitor.
pub(super) enum Request {
    /// Make room for so many bytes and reserve it; `None` if that can't be.
    Free {
        bytes: u64,
        ack: oneshot::Sender<Option<Room>>,
    },
    /// Free what costs no blob.
    Collect {
        ack: oneshot::Sender<Result<GcReport>>,
    },
    /// End.
    Stop,
}

pub(super) struct Janitor {
    pub(super) shared: Arc<Shared>,
    requests: Receiver<Request>,
    /// Weak, since the committer lives as long as there is a strong one.
    committer: Weak<Sender<Job>>,
    /// What could not be freed, and when that was. It can't be now, either, if nothing
    /// has changed: looking at everything again for each of many writers would take
    /// long.
    refused: Option<(u64, Moment)>,
}

/// A moment in the life of the store, as far as room goes: nothing was freed and no
/// lease has ended within it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Moment {
    frees: u64,
    second: u32,
}

/// A segment is short below this part of what segments may have.
const SHORT: u64 = 8;

/// So many short segments are joined.
const MOST_SHORT: usize = 8;

/// How often the janitor looks after things unasked.
const TICK: Duration = Duration::from_secs(30);

impl Janitor {
    pub(super) fn new(
        shared: Arc<Shared>,
        requests: Receiver<Request>,
        committer: Weak<Sender<Job>>,
    ) -> Self {
        Self {
            shared,
            requests,
            committer,
            refused: None,
        }
    }

    /// Works until all who could ask are gone.
    pub(super) fn run(mut self) {
        if self.shared.opening.wait_blocking().is_err() {
            return;
        }
        let mut next_tick = Instant::now() + TICK;
        loop {
            let left = next_tick.saturating_duration_since(Instant::now());
            match self.requests.recv_timeout(left) {
                Ok(Request::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(request) => self.serve(request),
                Err(RecvTimeoutError::Timeout) => {}
            }
            // Also under steady requests.
            if Instant::now() >= next_tick {
                self.tick();
                next_tick = Instant::now() + TICK;
            }
        }
    }

    fn serve(&mut self, request: Request) {
        match request {
            // Whoever asked has gone.
            Request::Free { ack, .. } if ack.is_closed() && !self.is_over() => {}
            Request::Free { bytes, ack } => {
                let _ = ack.send(self.free_and_reserve(bytes));
            }
            Request::Collect { ack } => {
                let _ = ack.send(self.collect());
            }
            // `run` ends on it.
            Request::Stop => {}
        }
    }

    fn tick(&self) {
        let shared = &self.shared;
        self.expire();
        // Let a store that met a full file system grow again, to see.
        shared.space.relax();
        self.forget_gone_units();
        let compacted = self.compact(&mut GcReport::default(), 4);
        if let Err(error) = compacted.and_then(|()| self.merge(&mut GcReport::default())) {
            tracing::warn!(%error, "compaction failed");
        }
        // Stay ahead of the writers, so that they seldom wait.
        let ahead = 2 * shared.sizes.segment;
        if !shared.space.has_room(ahead) {
            self.free(ahead);
        }
    }

    /// Whether the store takes more than it may.
    fn is_over(&self) -> bool {
        !self.shared.space.has_room(0)
    }

    fn free_and_reserve(&mut self, bytes: u64) -> Option<Room> {
        let space = &self.shared.space;
        if let Some(room) = space.reserve(bytes, Purpose::Store) {
            return Some(room);
        }
        let same = |moment: Moment| moment == self.moment();
        if self
            .refused
            .is_some_and(|(least, moment)| bytes >= least && same(moment))
        {
            return None;
        }
        // Others may take what was freed; each try frees anew.
        const TRIES: usize = 8;
        for _ in 0..TRIES {
            if !self.free(bytes) {
                break;
            }
            if let Some(room) = space.reserve(bytes, Purpose::Store) {
                return Some(room);
            }
        }
        self.refused = Some((bytes, self.moment()));
        None
    }

    fn moment(&self) -> Moment {
        Moment {
            frees: self.shared.space.frees(),
            second: self.shared.now(),
        }
    }

    /// Makes room for so many bytes; whether there is.
    fn free(&self, bytes: u64) -> bool {
        let shared = &self.shared;
        if shared.space.has_room(bytes) {
            return true;
        }
        self.expire();
        if let Err(error) = self.compact(&mut GcReport::default(), 2) {
            tracing::warn!(%error, "compaction failed");
        }
        // Every unit gets its second chance, and no more: after that all is leased.
        let mut left = 4 * shared.queues.lock().len() + 4;
        let mut rolled = false;
        while !shared.space.has_room(bytes) {
            let next = shared.queues.lock().pop(shared.sizes.cap / 10);
            let Some((stream, unit)) = next.filter(|_| left > 0) else {
                // What is being written to may be all there is.
                if !rolled && left > 0 && self.roll() {
                    rolled = true;
                    continue;
                }
                let without = shared.space.used().saturating_sub(shared.partials.bytes());
                let would_do = without.saturating_add(bytes) <= shared.space.limit();
                if would_do && shared.partials.drop_oldest() {
                    continue;
                }
                // A full file system may have room again by now; the next write
                // finds out.
                shared.space.relax();
                return shared.space.has_room(bytes);
            };
            left -= 1;
            if let Err(error) = self.evict(stream, unit) {
                tracing::warn!(%error, ?unit, "a unit could not be evicted");
            }
        }
        true
    }

    fn evict(&self, stream: Stream, unit: Unit) -> Result<()> {
        match unit {
            Unit::Segment(id) => match self.shared.segments.by_id(id) {
                Some(segment) => self.empty(&segment, stream, Policy::Evict).map(|_| ()),
                None => Ok(()),
            },
            Unit::File { digest, number } => self.evict_file(stream, digest, number),
        }
    }

    fn evict_file(&self, stream: Stream, digest: Digest, number: u32) -> Result<()> {
        let shared = &self.shared;
        let unit = Unit::File { digest, number };
        let (now, place) = (shared.now(), Place::File { number });
        let Some(found) = shared
            .index
            .find(&digest)
            .filter(|found| found.place == place)
        else {
            return Ok(());
        };
        let leased = found.leased_until > now;
        if leased || found.uses > 0 {
            let stream = if leased { stream } else { Stream::Main };
            if !leased {
                shared.index.age(&digest);
            }
            shared.enqueue(stream, unit);
            return Ok(());
        }
        let evicted = shared.large.remove(shared, &digest, number, false, || {
            shared.index.evict(&digest, place, now, &shared.ledger)
        });
        let evicted = evicted.inspect_err(|_| shared.enqueue(stream, unit))?;
        if evicted {
            shared.gave_up(EvictionReason::Capacity, 1, digest.size());
            if stream == Stream::Probation {
                shared.ghosts.lock().add(&digest);
            }
        } else if shared.index.contains(&digest) {
            // Leased since we looked.
            shared.enqueue(stream, unit);
        }
        Ok(())
    }

    /// Frees the segments whose live part is less than one in `part`.
    fn compact(&self, report: &mut GcReport, part: u64) -> Result<()> {
        let mut sparse: Vec<_> = self
            .shared
            .segments
            .all()
            .into_iter()
            .filter(|segment| segment.is_sealed() && segment.in_use() < segment.length() / part)
            .collect();
        sparse.sort_by_key(|segment| segment.live());
        self.move_all(&sparse, Policy::Compact, report)
    }

    /// Joins sealed segments that are short: a full store seals what it writes to, to see
    /// whether that can go, and each segment keeps a file open.
    fn merge(&self, report: &mut GcReport) -> Result<()> {
        let shared = &self.shared;
        let mut short = shared.segments.all();
        short.retain(|it| it.is_sealed() && it.length() < shared.sizes.segment / SHORT);
        if short.len() < MOST_SHORT {
            return Ok(());
        }
        short.sort_by_key(|segment| segment.id);
        self.move_all(&short, Policy::Merge, report)
    }

    fn move_all(
        &self,
        segments: &[Arc<Segment>],
        policy: Policy,
        report: &mut GcReport,
    ) -> Result<()> {
        let mut outcome = Ok(());
        for segment in segments {
            let unit = Unit::Segment(segment.id);
            self.shared.queues.lock().retain(|other| *other != unit);
            let length = segment.length();
            match self.empty(segment, segment.stream, policy) {
                Ok(None) => {}
                Ok(Some(moved)) => {
                    report.segments_freed += 1;
                    report.bytes_freed += length.saturating_sub(moved);
                    report.bytes_moved += moved;
                }
                // One that can't be read must not keep the others from being freed.
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    fn collect(&self) -> Result<GcReport> {
        let shared = &self.shared;
        let partials = shared.partials.bytes();
        let mut report = GcReport {
            partials_expired: self.expire(),
            ..GcReport::default()
        };
        report.bytes_freed = partials.saturating_sub(shared.partials.bytes());
        // Deleted blobs may lie in the segments that are being written; and what was
        // in use of the tombstones may not be any more.
        self.roll();
        for segment in shared.segments.all() {
            segment.set_tombstones(0);
        }
        self.compact(&mut report, 2)?;
        self.merge(&mut report)?;
        self.forget_gone_units();
        Ok(report)
    }

    /// Drops the partial uploads past their time; how many those were.
    fn expire(&self) -> u64 {
        let shared = &self.shared;
        let (now, ttl) = (shared.options.clock.wall(), shared.options.partial_ttl);
        let (uploads, bytes) = shared.partials.expire(now, ttl);
        shared.gave_up(EvictionReason::Expired, uploads, bytes);
        uploads
    }

    fn forget_gone_units(&self) {
        let shared = &self.shared;
        shared.queues.lock().retain(|unit| match unit {
            Unit::Segment(id) => shared.segments.by_id(*id).is_some(),
            Unit::File { digest, number } => {
                shared.index.find(digest).map(|found| found.place)
                    == Some(Place::File { number: *number })
            }
        });
    }

    fn roll(&self) -> bool {
        let (ack, done) = channel();
        self.send(Job::Roll { ack }).is_ok() && done.recv().is_ok()
    }

    pub(super) fn send(&self, job: Job) -> Result<()> {
        let committer = self.committer.upgrade().ok_or_else(stopped)?;
        committer.send(job).map_err(|_| stopped())
    }
}
