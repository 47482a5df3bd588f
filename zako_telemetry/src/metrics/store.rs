//! What happens in a store.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{BoundCounter, BoundHistogram, Meter};
use zako_core::observe::{Corruption, Eviction, EvictionReason, GroupCommit, Synced};

use super::catalog;
use super::instrument::{SHORT_SECONDS, counter, seconds, sizes};

/// The instruments of a store's events.
pub(super) struct Events {
    commit_blobs: BoundHistogram<u64>,
    commit_size: BoundHistogram<u64>,
    write: BoundHistogram<f64>,
    sync_segment: BoundHistogram<f64>,
    sync_file: BoundHistogram<f64>,
    wait: BoundHistogram<f64>,
    capacity: Evicted,
    expired: Evicted,
    deleted: Evicted,
    corruptions: BoundCounter<u64>,
}

/// What went for one reason.
struct Evicted {
    blobs: BoundCounter<u64>,
    bytes: BoundCounter<u64>,
}

const BLOBS: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0,
];

const BYTES: &[f64] = &[
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];

impl Events {
    pub(super) fn new(meter: &Meter) -> Self {
        let (blobs, bytes) = (
            counter(meter, catalog::EVICTED_BLOBS),
            counter(meter, catalog::EVICTED_SIZE),
        );
        let evicted = |reason: EvictionReason| {
            let labels = [KeyValue::new("reason", reason.as_str())];
            Evicted {
                blobs: blobs.bind(&labels),
                bytes: bytes.bind(&labels),
            }
        };
        let short = |spec| seconds(meter, spec, SHORT_SECONDS);
        let what = |what: Synced| KeyValue::new("what", what.as_str());
        let sync = short(catalog::SYNC_DURATION);
        let corruptions = counter(meter, catalog::CORRUPTIONS).bind(&[]);
        // A series without labels is shown only once it was counted in.
        corruptions.add(0);
        Self {
            commit_blobs: sizes(meter, catalog::COMMIT_BLOBS, BLOBS).bind(&[]),
            commit_size: sizes(meter, catalog::COMMIT_SIZE, BYTES).bind(&[]),
            write: short(catalog::WRITE_DURATION).bind(&[]),
            sync_segment: sync.bind(&[what(Synced::Segment)]),
            sync_file: sync.bind(&[what(Synced::File)]),
            wait: short(catalog::QUEUE_WAIT).bind(&[]),
            capacity: evicted(EvictionReason::Capacity),
            expired: evicted(EvictionReason::Expired),
            deleted: evicted(EvictionReason::Deleted),
            corruptions,
        }
    }

    pub(super) fn committed(&self, commit: &GroupCommit) {
        self.commit_blobs.record(commit.blobs);
        self.commit_size.record(commit.bytes);
        self.write.record(commit.write.as_secs_f64());
        self.wait.record(commit.waited.as_secs_f64());
        if !commit.sync.is_zero() {
            self.sync_segment.record(commit.sync.as_secs_f64());
        }
    }

    pub(super) fn synced(&self, what: Synced, took: Duration) {
        let histogram = match what {
            Synced::File => &self.sync_file,
            _ => &self.sync_segment,
        };
        histogram.record(took.as_secs_f64());
    }

    pub(super) fn evicted(&self, eviction: &Eviction) {
        let evicted = match eviction.reason {
            EvictionReason::Expired => &self.expired,
            EvictionReason::Deleted => &self.deleted,
            _ => &self.capacity,
        };
        evicted.blobs.add(eviction.blobs);
        evicted.bytes.add(eviction.bytes);
    }

    pub(super) fn corrupt(&self, _: &Corruption) {
        self.corruptions.add(1);
    }
}
