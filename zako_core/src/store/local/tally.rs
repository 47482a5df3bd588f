//! What the observer is told of a group.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::observe::{GroupCommit, Observer, Synced};

/// Counts the puts of a group; without an observer it does nothing.
#[derive(Debug)]
pub(super) struct Tally {
    observer: Option<Arc<dyn Observer>>,
    group: GroupCommit,
    /// When the first of its puts was handed over.
    since: Option<Instant>,
}

impl Tally {
    pub(super) fn new(observer: Option<Arc<dyn Observer>>) -> Self {
        Self {
            observer,
            group: GroupCommit::default(),
            since: None,
        }
    }

    /// A put came that was handed over then.
    pub(super) fn put(&mut self, since: Option<Instant>) {
        self.since = self.since.or(since);
    }

    /// A blob was staged.
    pub(super) fn blob(&mut self, bytes: u64) {
        self.group.blobs += 1;
        self.group.bytes += bytes;
    }

    /// The time, if anyone wants to know.
    pub(super) fn now(&self) -> Option<Instant> {
        self.observer.as_ref().map(|_| Instant::now())
    }

    /// The group was written from `began` to `written`, and synced, if it was, until
    /// `synced`. Moves and deletes alone are no group.
    pub(super) fn committed(
        &mut self,
        began: Option<Instant>,
        written: Option<Instant>,
        synced: Option<Instant>,
    ) {
        let group = std::mem::take(&mut self.group);
        let since = self.since.take();
        let Some(observer) = &self.observer else {
            return;
        };
        let between = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.saturating_duration_since(from),
            _ => Duration::ZERO,
        };
        let sync = between(written, synced);
        if group.blobs == 0 {
            if synced.is_some() {
                observer.synced(Synced::Segment, sync);
            }
            return;
        }
        observer.committed(&GroupCommit {
            write: between(began, written),
            sync,
            waited: between(since, began),
            ..group
        });
    }

    /// What was acknowledged before was synced since `began`.
    pub(super) fn synced(&self, began: Option<Instant>) {
        if let (Some(observer), Some(began)) = (&self.observer, began) {
            observer.synced(Synced::Segment, began.elapsed());
        }
    }
}
