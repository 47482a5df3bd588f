//! What all parts of an open store share, and the changes that several make.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::appender::footprint;
use super::eviction::{Ghosts, Queues, Unit};
use super::index::{Index, Place};
use super::io::{Backend, Lock};
use super::large::LargeFiles;
use super::leases::LeaseLedger;
use super::opening::Opening;
use super::options::{Sizes, StoreOptions};
use super::partial::Partials;
use super::pool::BufferPool;
use super::quarantine::Quarantine;
use super::record::{Stream, record_len};
use super::segment::SegmentTable;
use super::space::Space;
use crate::Digest;
use crate::cas::{CasError, ErrorKind, Result};
use crate::observe::{Corruption, Eviction, EvictionReason};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) root: PathBuf,
    pub(super) options: StoreOptions,
    pub(super) sizes: Sizes,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) index: Index,
    pub(super) ledger: LeaseLedger,
    pub(super) segments: SegmentTable,
    pub(super) large: LargeFiles,
    pub(super) partials: Partials,
    pub(super) quarantine: Quarantine,
    pub(super) space: Arc<Space>,
    pub(super) queues: Mutex<Queues>,
    pub(super) ghosts: Mutex<Ghosts>,
    pub(super) pool: Arc<BufferPool>,
    /// Bounds the bytes that wait for the committer, in KiB.
    pub(super) backlog: Arc<Semaphore>,
    /// Bytes that uploads hold to write them in longer steps.
    pub(super) held_for_steps: Arc<AtomicU64>,
    /// The number of the next record.
    pub(super) sequence: AtomicU64,
    /// The number of the next large file.
    pub(super) file_number: AtomicU32,
    pub(super) closed: AtomicBool,
    /// Done when the index is whole.
    pub(super) opening: Opening,
    /// Re-hashes everything again and again.
    pub(super) scrubber: Mutex<Option<Scrubber>>,
    /// Keeps other processes out for as long as anything of the store is in use.
    pub(super) _lock: Box<dyn Lock>,
}

/// A task that re-hashes everything again and again.
#[derive(Debug)]
pub(super) struct Scrubber {
    /// In bytes a second.
    pub(super) rate: u64,
    pub(super) task: AbortHandle,
}

/// The most KiB that wait for the committer: a few groups.
pub(super) const BACKLOG_KIB: usize = 64 << 10;

/// When a store whose blobs are leased may have room again.
const RETRY_WHEN_LEASED: Duration = Duration::from_secs(60);

/// When one may have room again whose room is taken for uploads under way.
const RETRY_WHEN_TAKEN: Duration = Duration::from_secs(1);

impl Shared {
    /// Seconds of the store's clock; never 0, which means "no lease".
    pub(super) fn now(&self) -> u32 {
        let seconds = self.options.clock.monotonic().as_secs();
        u32::try_from(seconds).unwrap_or(u32::MAX - 1).max(1)
    }

    /// Bytes that wait for the committer, about.
    pub(super) fn queued(&self) -> u64 {
        let free = self.backlog.available_permits();
        (BACKLOG_KIB.saturating_sub(free) as u64) << 10
    }

    pub(super) fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(
                CasError::new(ErrorKind::Closed, "the store is closed").with_path(&self.root)
            );
        }
        Ok(())
    }

    /// Waits until the store can be used.
    pub(super) async fn ready(&self) -> Result<()> {
        self.opening.wait().await?;
        self.check_open()
    }

    /// If the file system is full, what the store has now is all that it may have,
    /// until that changes.
    pub(super) fn note_full(&self, error: &CasError) {
        if error.kind() == ErrorKind::NoSpace {
            self.space.squeeze();
        }
    }

    /// The stream that a new blob belongs to.
    pub(super) fn stream_of_new(&self, digest: &Digest) -> Stream {
        if self.ghosts.lock().take(digest) {
            Stream::Main
        } else {
            Stream::Probation
        }
    }

    /// Lets eviction see a unit.
    pub(super) fn enqueue(&self, stream: Stream, unit: Unit) {
        let bytes = match unit {
            Unit::Segment(id) => self
                .segments
                .by_id(id)
                .map_or(0, |segment| segment.length()),
            Unit::File { digest, .. } => digest.size(),
        };
        self.queues.lock().push(stream, unit, bytes);
    }

    /// Makes a blob visible that is stored at this place.
    pub(super) fn publish(&self, digest: &Digest, place: Place) {
        self.count_live(digest, place);
        if let Some(before) = self.index.insert(digest, place) {
            self.retire(digest, before);
        }
    }

    /// A blob was copied from one record to another; it counts where it is alive.
    pub(super) fn relocate(&self, digest: &Digest, from: Place, to: Place) {
        self.count_live(digest, to);
        if self.index.relocate(digest, from, to) {
            self.retire(digest, from);
        } else {
            self.retire(digest, to);
        }
    }

    /// Hides a blob that lies in this record.
    pub(super) fn forget(&self, digest: &Digest, place: Place) -> bool {
        let removed = self
            .index
            .remove_at(digest, place, self.now(), &self.ledger);
        if removed {
            self.retire(digest, place);
        }
        removed
    }

    /// The index doesn't point to this record any more.
    pub(super) fn retire(&self, digest: &Digest, place: Place) {
        self.space.note_garbage();
        if let Place::Record { segment, .. } = place
            && let Some(segment) = self.segments.by_id(segment)
        {
            segment.sub_live(record_len(digest.size()));
        }
    }

    fn count_live(&self, digest: &Digest, place: Place) {
        if let Place::Record { segment, .. } = place
            && let Some(segment) = self.segments.by_id(segment)
        {
            segment.add_live(record_len(digest.size()));
        }
    }

    /// Tells that blobs were given up.
    pub(super) fn gave_up(&self, reason: EvictionReason, blobs: u64, bytes: u64) {
        if let Some(observer) = &self.options.observer
            && blobs > 0
        {
            observer.evicted(&Eviction::new(reason, blobs, bytes));
        }
    }

    /// Tells that a blob was found damaged, and is hidden now.
    pub(super) fn found_damaged(&self, digest: &Digest) {
        if let Some(observer) = &self.options.observer {
            observer.corrupt(&Corruption::new(*digest));
        }
    }

    /// The error for bytes that no room can be made for.
    pub(super) fn full(&self, bytes: u64) -> CasError {
        let (used, limit) = (self.space.used(), self.space.limit());
        let refused = |text: String| CasError::new(ErrorKind::NoSpace, text);
        let leased = self.ledger.leased(self.now());
        // However little is leased, it may be what eviction stopped at.
        if leased > 0 && bytes <= self.space.most() {
            return refused(format!(
                "the store is full: {used} of {limit} bytes are used, and {leased} of them \
                 are leased to clients"
            ))
            .with_retry_after(RETRY_WHEN_LEASED);
        }
        let error = refused(format!(
            "the store has no room for {bytes} bytes: {used} of {limit} are used"
        ))
        .with_path(&self.root);
        // It would fit but for uploads under way, or for leases that have just ended.
        match bytes <= limit {
            true => error.with_retry_after(RETRY_WHEN_TAKEN),
            false => error,
        }
    }
}

/// The bytes that storing a blob in a record takes.
pub(super) fn record_footprint(digest: &Digest) -> u64 {
    footprint(digest.size())
}

/// The error of a store whose threads have ended.
pub(super) fn stopped() -> CasError {
    CasError::new(ErrorKind::Closed, "the store is closed")
}
