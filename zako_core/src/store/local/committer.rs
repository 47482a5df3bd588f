//! The one thread that appends to segments: group commit.
//!
//! It takes all that waits in its queue, writes it with one call a segment, syncs
//! once, publishes to the index, and acknowledges. Since it alone appends, moves
//! and buries records, the order of its work is the order of the log.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::Span;

use super::appender::{Appender, Record, Staged, footprint};
use super::index::Place;
use super::job::Job;
use super::options::Durability;
use super::record::Stream;
use super::shared::Shared;
use super::space::{Purpose, Room};
use super::tally::Tally;
use super::waiting::steps_of;
use crate::cas::{CasError, Result, Stored};
use crate::observe::trace;
use crate::{Digest, Hash};

pub(super) struct Committer {
    shared: Arc<Shared>,
    queue: Receiver<Job>,
    probation: Appender,
    main: Appender,
    group: Group,
    tally: Tally,
    /// When the oldest bytes that are acknowledged and not synced were written.
    unsynced_since: Option<Instant>,
}

/// What is staged for one write and one sync.
#[derive(Default)]
struct Group {
    pending: Vec<Pending>,
    /// The spans that its puts are parts of.
    traces: Vec<Span>,
    /// What the staged records are about.
    touched: HashMap<Digest, Touch>,
    bytes: u64,
}

#[derive(Clone, Copy)]
enum Touch {
    Put(Stream, Staged),
    /// Moved or buried: other jobs about it wait for the next group.
    Other,
}

/// A job whose records are staged.
enum Pending {
    Put {
        outcomes: Vec<PutOutcome>,
        room: Room,
        _permit: OwnedSemaphorePermit,
        ack: oneshot::Sender<Vec<Result<Stored>>>,
    },
    Move {
        moved: Vec<(Digest, Place, Staged)>,
        buried: Vec<Staged>,
        failure: Option<CasError>,
        stream: Stream,
        room: Room,
        ack: Sender<Result<()>>,
    },
    Delete {
        digest: Digest,
        /// Where it was, if it was there.
        place: Option<Place>,
        tombstone: Staged,
        ack: oneshot::Sender<Result<bool>>,
    },
}

enum PutOutcome {
    Done(Result<Stored>),
    Staged(Digest, Stream, Staged),
    /// An earlier put of this group has the record.
    Twin(Digest, Stream, Staged),
}

/// A group is closed when it has so many bytes: more would not be faster, only
/// later.
const MOST_GROUP_BYTES: u64 = 8 << 20;

/// Tombstones of deletes go here, whichever stream the record is in.
const TOMBSTONE_STREAM: Stream = Stream::Probation;

impl Committer {
    pub(super) fn new(
        shared: Arc<Shared>,
        queue: Receiver<Job>,
        probation: Appender,
        main: Appender,
    ) -> Self {
        Self {
            tally: Tally::new(shared.options.observer.clone()),
            shared,
            queue,
            probation,
            main,
            group: Group::default(),
            unsynced_since: None,
        }
    }

    /// Works until the store is closed or all its handles are dropped.
    pub(super) fn run(mut self) {
        while let Ok(job) = self.next_job() {
            let mut next = job;
            while let Some(job) = next {
                if let Job::Close = job {
                    self.flush();
                    self.seal();
                    return;
                }
                self.stage(job);
                if self.group.bytes >= MOST_GROUP_BYTES {
                    self.flush();
                }
                next = self.queue.try_recv().ok();
            }
            self.flush();
        }
        self.seal();
    }

    /// The next job; `None` when it was time to sync instead. An error when there
    /// won't be any more.
    fn next_job(&mut self) -> std::result::Result<Option<Job>, ()> {
        let (Some(since), Durability::Interval(interval)) =
            (self.unsynced_since, self.shared.options.durability)
        else {
            return self.queue.recv().map(Some).map_err(|_| ());
        };
        match self
            .queue
            .recv_timeout(interval.saturating_sub(since.elapsed()))
        {
            Ok(job) => Ok(Some(job)),
            Err(RecvTimeoutError::Disconnected) => Err(()),
            Err(RecvTimeoutError::Timeout) => {
                self.sync_acknowledged();
                Ok(None)
            }
        }
    }

    fn stage(&mut self, job: Job) {
        match job {
            Job::Put {
                trace,
                blobs,
                room,
                permit,
                since,
                ack,
            } => {
                let contested = |(digest, _): &(Digest, Bytes)| {
                    matches!(self.group.touched.get(digest), Some(Touch::Other))
                };
                if blobs.iter().any(contested) {
                    self.flush();
                }
                self.group.traces.extend(trace.taken());
                self.tally.put(since);
                let outcomes = blobs
                    .into_iter()
                    .map(|(digest, data)| self.stage_put(digest, data))
                    .collect();
                self.group.pending.push(Pending::Put {
                    outcomes,
                    room,
                    _permit: permit,
                    ack,
                });
            }
            Job::Move {
                blobs,
                tombstones,
                stream,
                room,
                ack,
            } => self.stage_move(blobs, tombstones, stream, room, ack),
            Job::Delete {
                digest,
                only_at,
                ack,
            } => self.stage_delete(digest, only_at, ack),
            Job::Roll { ack } => {
                self.flush();
                self.seal();
                let _ = ack.send(());
            }
            // `run` takes these out.
            Job::Close => {}
        }
    }

    fn stage_put(&mut self, digest: Digest, data: Bytes) -> PutOutcome {
        if let Some(Touch::Put(stream, staged)) = self.group.touched.get(&digest) {
            return PutOutcome::Twin(digest, *stream, *staged);
        }
        if self.shared.index.contains(&digest) {
            return PutOutcome::Done(Ok(Stored::Existing));
        }
        let stream = self.shared.stream_of_new(&digest);
        self.tally.blob(digest.size());
        match self.append(stream, Record::blob(&digest, data)) {
            Ok(staged) => {
                self.group
                    .touched
                    .insert(digest, Touch::Put(stream, staged));
                PutOutcome::Staged(digest, stream, staged)
            }
            Err(error) => PutOutcome::Done(Err(error.with_digest(digest))),
        }
    }

    fn stage_move(
        &mut self,
        blobs: Vec<(Digest, Bytes, Place)>,
        tombstones: Vec<(Hash, u64)>,
        stream: Stream,
        room: Room,
        ack: Sender<Result<()>>,
    ) {
        if blobs
            .iter()
            .any(|(digest, ..)| self.group.touched.contains_key(digest))
        {
            self.flush();
        }
        let mut moved = Vec::with_capacity(blobs.len());
        let mut buried = Vec::with_capacity(tombstones.len());
        let mut failure = None;
        for (digest, data, from) in blobs {
            // Deleted or replaced since it was chosen: it must not come back.
            if self.shared.index.find(&digest).map(|found| found.place) != Some(from) {
                continue;
            }
            match self.append(stream, Record::blob(&digest, data)) {
                Ok(staged) => {
                    self.group.touched.insert(digest, Touch::Other);
                    moved.push((digest, from, staged));
                }
                Err(error) => failure = Some(error),
            }
        }
        for (hash, sequence) in tombstones {
            match self.append(stream, Record::tombstone(hash, Some(sequence))) {
                Ok(staged) => buried.push(staged),
                Err(error) => failure = Some(error),
            }
        }
        self.group.pending.push(Pending::Move {
            moved,
            buried,
            failure,
            stream,
            room,
            ack,
        });
    }

    fn stage_delete(
        &mut self,
        digest: Digest,
        only_at: Option<Place>,
        ack: oneshot::Sender<Result<bool>>,
    ) {
        if self.group.touched.contains_key(&digest) {
            self.flush();
        }
        let place = match self.shared.index.find(&digest).map(|found| found.place) {
            Some(place @ Place::Record { .. }) if only_at.is_none_or(|only| only == place) => {
                Some(place)
            }
            // It was evicted, and a crash would bring it back.
            None if only_at.is_none() && self.shared.segments.have_strays() => None,
            _ => {
                let _ = ack.send(Ok(false));
                return;
            }
        };
        match self.append(TOMBSTONE_STREAM, Record::tombstone(*digest.hash(), None)) {
            Ok(tombstone) => {
                self.group.touched.insert(digest, Touch::Other);
                self.group.pending.push(Pending::Delete {
                    digest,
                    place,
                    tombstone,
                    ack,
                });
            }
            Err(error) => {
                let _ = ack.send(Err(error.with_digest(digest)));
            }
        }
    }

    fn append(&mut self, stream: Stream, record: Record) -> Result<Staged> {
        self.group.bytes += footprint(record.data.len() as u64);
        self.appender(stream).stage(record)
    }

    /// Writes, syncs, publishes and acknowledges the group.
    fn flush(&mut self) {
        let group = std::mem::take(&mut self.group);
        if group.pending.is_empty() && group.bytes == 0 {
            return;
        }
        let began = self.tally.now();
        let writing = steps_of(&group.traces, || trace::step!("disk write"));
        self.probation.write();
        self.main.write();
        drop(writing);
        let written = self.tally.now();
        let mut synced = None;
        // A moved record's old copy is removed next, so it is synced whatever the
        // durability.
        let moves = group
            .pending
            .iter()
            .any(|pending| matches!(pending, Pending::Move { .. }));
        if moves || self.shared.options.durability == Durability::Immediate {
            let syncing = steps_of(&group.traces, || trace::step!("disk sync"));
            self.probation.sync();
            self.main.sync();
            drop(syncing);
            synced = self.tally.now();
        } else {
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
        self.tally.committed(began, written, synced);
        for pending in group.pending {
            self.publish(pending);
        }
        self.probation.end_group();
        self.main.end_group();
        // Under steady load the queue never runs dry, and the time has to be kept
        // all the same.
        if let (Some(since), Durability::Interval(interval)) =
            (self.unsynced_since, self.shared.options.durability)
            && since.elapsed() >= interval
        {
            self.sync_acknowledged();
        }
    }

    fn publish(&mut self, pending: Pending) {
        match pending {
            Pending::Put {
                outcomes,
                mut room,
                _permit,
                ack,
            } => {
                let outcomes = outcomes
                    .into_iter()
                    .map(|outcome| self.publish_put(outcome, &mut room))
                    .collect();
                let _ = ack.send(outcomes);
            }
            Pending::Move {
                moved,
                buried,
                mut failure,
                stream,
                mut room,
                ack,
            } => {
                for (digest, from, staged) in moved {
                    match self.failure(stream, staged, &digest) {
                        Some(error) => failure = Some(error),
                        None => {
                            self.settle(staged, digest.size(), &mut room);
                            self.shared.relocate(&digest, from, staged.place());
                        }
                    }
                }
                for staged in buried {
                    match self.appender(stream).failure(staged.segment) {
                        Some(error) => failure = Some(error.clone()),
                        None => self.settle(staged, 0, &mut room),
                    }
                }
                let _ = ack.send(failure.map_or(Ok(()), Err));
            }
            Pending::Delete {
                digest,
                place,
                tombstone,
                ack,
            } => {
                let outcome = match self.failure(TOMBSTONE_STREAM, tombstone, &digest) {
                    Some(error) => {
                        // Nobody knows whether the tombstone is on disk. Hidden, the
                        // blob is stored anew when it comes again, behind it.
                        if let Some(place) = place {
                            self.shared.forget(&digest, place);
                        }
                        Err(error)
                    }
                    None => {
                        // Not reserved before: a full store can be emptied.
                        let room = self.shared.space.reserve(footprint(0), Purpose::Move);
                        if let Some(mut room) = room {
                            self.settle(tombstone, 0, &mut room);
                        }
                        Ok(place.is_some_and(|place| self.shared.forget(&digest, place)))
                    }
                };
                let _ = ack.send(outcome);
            }
        }
    }

    fn publish_put(&mut self, outcome: PutOutcome, room: &mut Room) -> Result<Stored> {
        match outcome {
            PutOutcome::Done(outcome) => outcome,
            PutOutcome::Staged(digest, stream, staged) => {
                if let Some(error) = self.failure(stream, staged, &digest) {
                    return Err(error);
                }
                self.settle(staged, digest.size(), room);
                self.shared.publish(&digest, staged.place());
                Ok(Stored::New)
            }
            PutOutcome::Twin(digest, stream, staged) => {
                match self.failure(stream, staged, &digest) {
                    Some(error) => Err(error),
                    None => Ok(Stored::Existing),
                }
            }
        }
    }

    /// Counts a record that is in its segment now.
    fn settle(&self, staged: Staged, payload: u64, room: &mut Room) {
        let footprint = footprint(payload);
        room.take(footprint);
        if let Some(segment) = self.shared.segments.by_id(staged.segment) {
            segment.set_length(segment.length() + footprint);
        }
    }

    fn failure(&mut self, stream: Stream, staged: Staged, digest: &Digest) -> Option<CasError> {
        self.appender(stream)
            .failure(staged.segment)
            .map(|error| error.clone().with_digest(*digest))
    }

    /// Makes durable what was acknowledged before it was.
    fn sync_acknowledged(&mut self) {
        self.unsynced_since = None;
        let began = self.tally.now();
        self.probation.sync();
        self.main.sync();
        self.tally.synced(began);
        self.probation.end_group();
        self.main.end_group();
    }

    fn seal(&mut self) {
        self.probation.seal();
        self.main.seal();
        self.probation.end_group();
        self.main.end_group();
    }

    fn appender(&mut self, stream: Stream) -> &mut Appender {
        match stream {
            Stream::Probation => &mut self.probation,
            Stream::Main => &mut self.main,
        }
    }
}
