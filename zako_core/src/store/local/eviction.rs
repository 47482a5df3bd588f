//! What may go when room is needed: two streams of units in their order of
//! arrival, and the ghosts of what went.
//!
//! This is S3-FIFO (Yang et al., SOSP '23) over segments: new blobs are on
//! probation in a tenth of the store; what was used there moves to the main
//! stream, the rest goes. Whole segments are freed, so eviction costs one file
//! removal for thousands of blobs.

use std::collections::{HashSet, VecDeque};

use super::record::{Stream, u64_at};
use crate::Digest;

/// What eviction frees at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// A sealed segment.
    Segment(u32),
    /// A large blob's file.
    File { digest: Digest, number: u32 },
}

/// The units of both streams, oldest first.
#[derive(Debug, Default)]
pub(super) struct Queues {
    probation: VecDeque<(Unit, u64)>,
    main: VecDeque<(Unit, u64)>,
    probation_bytes: u64,
}

/// Blobs that were evicted from probation a while ago: one that comes back has
/// shown its use and goes to the main stream at once.
#[derive(Debug)]
pub(super) struct Ghosts {
    order: VecDeque<u64>,
    set: HashSet<u64>,
    most: usize,
}

impl Queues {
    /// Adds a unit of so many bytes behind all others of the stream.
    pub(super) fn push(&mut self, stream: Stream, unit: Unit, bytes: u64) {
        match stream {
            Stream::Probation => {
                self.probation.push_back((unit, bytes));
                self.probation_bytes += bytes;
            }
            Stream::Main => self.main.push_back((unit, bytes)),
        }
    }

    /// Takes the unit that eviction looks at next: the oldest on probation while
    /// that stream has more than `probation_share` bytes, else the oldest of all
    /// others.
    pub(super) fn pop(&mut self, probation_share: u64) -> Option<(Stream, Unit)> {
        if self.probation_bytes > probation_share || self.main.is_empty() {
            let (unit, bytes) = self.probation.pop_front()?;
            self.probation_bytes -= bytes;
            return Some((Stream::Probation, unit));
        }
        let (unit, _) = self.main.pop_front()?;
        Some((Stream::Main, unit))
    }

    /// The number of units.
    pub(super) fn len(&self) -> usize {
        self.probation.len() + self.main.len()
    }

    /// Forgets the units that are gone.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Unit) -> bool) {
        self.main.retain(|(unit, _)| keep(unit));
        self.probation.retain(|(unit, bytes)| {
            let keep = keep(unit);
            if !keep {
                self.probation_bytes -= bytes;
            }
            keep
        });
    }
}

impl Ghosts {
    pub(super) fn new(most: usize) -> Self {
        Self {
            order: VecDeque::new(),
            set: HashSet::new(),
            most,
        }
    }

    pub(super) fn add(&mut self, digest: &Digest) {
        let ghost = ghost(digest);
        if self.set.insert(ghost) {
            self.order.push_back(ghost);
            if self.order.len() > self.most
                && let Some(oldest) = self.order.pop_front()
            {
                self.set.remove(&oldest);
            }
        }
    }

    /// Whether this blob went a while ago; it is no ghost any more then.
    pub(super) fn take(&mut self, digest: &Digest) -> bool {
        // Its place in the order stays until it is the oldest.
        self.set.remove(&ghost(digest))
    }
}

/// Eight bytes of the hash: a collision only puts a blob into the other stream.
fn ghost(digest: &Digest) -> u64 {
    u64_at(digest.hash().as_bytes(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probation_is_kept_small() {
        let mut queues = Queues::default();
        queues.push(Stream::Main, Unit::Segment(1), 100);
        queues.push(Stream::Probation, Unit::Segment(2), 10);
        queues.push(Stream::Probation, Unit::Segment(3), 10);
        assert_eq!(queues.pop(15), Some((Stream::Probation, Unit::Segment(2))));
        assert_eq!(queues.pop(15), Some((Stream::Main, Unit::Segment(1))));
        assert_eq!(queues.pop(15), Some((Stream::Probation, Unit::Segment(3))));
        assert_eq!(queues.pop(15), None);
    }

    #[test]
    fn gone_units_are_forgotten() {
        let mut queues = Queues::default();
        for id in 0..10 {
            queues.push(Stream::Probation, Unit::Segment(id), 10);
        }
        queues.retain(|unit| *unit == Unit::Segment(4));
        assert_eq!((queues.len(), queues.probation_bytes), (1, 10));
    }

    #[test]
    fn ghosts_are_bounded() {
        let mut ghosts = Ghosts::new(2);
        let digests: Vec<Digest> = (0u8..3).map(|n| zako_digest::hash::bytes(&[n])).collect();
        for digest in &digests {
            ghosts.add(digest);
        }
        assert!(!ghosts.take(&digests[0]));
        assert!(ghosts.take(&digests[1]));
        assert!(!ghosts.take(&digests[1]));
        assert!(ghosts.take(&digests[2]));
    }
}
