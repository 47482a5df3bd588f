//! What happened in a few seconds.

use std::time::Duration;

use zako_core::observe::{CallEnd, CallKind, EvictionReason, GroupCommit, Lookup};

use super::histogram::Histogram;

/// What happened in one span of time.
#[derive(Clone, Debug, Default)]
pub(super) struct Slot {
    pub(super) calls: u64,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) hits: u64,
    pub(super) misses: u64,
    /// Of calls with one short answer.
    pub(super) latency: Histogram,
    pub(super) commits: u64,
    pub(super) committed_blobs: u64,
    pub(super) sync: Histogram,
    pub(super) evicted: ByReason,
}

/// Blobs and bytes that were given up, by the number of the reason.
pub(super) type ByReason = [(u64, u64); REASONS.len()];

/// The reasons, in their order.
pub(super) const REASONS: [EvictionReason; 3] = [
    EvictionReason::Capacity,
    EvictionReason::Expired,
    EvictionReason::Deleted,
];

impl Slot {
    /// Counts a call, without its bytes.
    pub(super) fn call(&mut self, call: &CallEnd<'_>) {
        self.calls += 1;
        if call.kind == CallKind::Short {
            self.latency.count(call.duration);
        }
    }

    pub(super) fn lookup(&mut self, lookup: &Lookup) {
        self.hits += lookup.hits;
        self.misses += lookup.misses;
    }

    pub(super) fn commit(&mut self, commit: &GroupCommit) {
        self.commits += 1;
        self.committed_blobs += commit.blobs;
        if commit.sync > Duration::ZERO {
            self.sync.count(commit.sync);
        }
    }

    pub(super) fn evicted(&mut self, reason: EvictionReason, blobs: u64, bytes: u64) {
        if let Some(at) = REASONS.iter().position(|known| *known == reason) {
            self.evicted[at].0 += blobs;
            self.evicted[at].1 += bytes;
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.received += other.received;
        self.sent += other.sent;
        self.hits += other.hits;
        self.misses += other.misses;
        self.latency.add(&other.latency);
        self.commits += other.commits;
        self.committed_blobs += other.committed_blobs;
        self.sync.add(&other.sync);
        add_reasons(&mut self.evicted, &other.evicted);
    }
}

pub(super) fn add_reasons(own: &mut ByReason, other: &ByReason) {
    for (own, other) in own.iter_mut().zip(other) {
        own.0 += other.0;
        own.1 += other.1;
    }
}
