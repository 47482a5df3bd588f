//! What may go when room is needed: two streams of units in their order of
//! arrival, and the ghosts of what went.
//!
//! This is S3-FIFO (Yang et al., SOSP '23) over segments: new blobs are on
//! probation in a tenth of the store; what was used there moves to the main
//! stream, the rest goes. Whole segments are freed, so eviction costs one file
//! removal for thousands of blobs.

use std::collections::{HashSet, VecDeque};

use super::record::{ALIGN, Stream, u32_at};
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
///
/// At most 28 bytes each when there are 131,072: 8 in the order, 5 in a table that is
/// a quarter full, as those that come and go make it.
#[derive(Debug)]
pub(super) struct Ghosts {
    order: VecDeque<Ghost>,
    names: HashSet<u32>,
    most: usize,
    /// Of those in the order, in units of [`ALIGN`].
    units: u64,
    most_units: u64,
}

/// An evicted blob, in 8 bytes.
#[derive(Clone, Copy, Debug)]
struct Ghost {
    /// Of the hash. One in 32,768 new blobs or fewer has the name of another's
    /// ghost, which only puts it into the other stream.
    name: u32,
    /// The size in units of [`ALIGN`]; what is larger counts as 64 GiB.
    units: u32,
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
            names: HashSet::new(),
            most,
            units: 0,
            most_units: u64::MAX,
        }
    }

    /// Bounds the sum of their sizes, too. Where few blobs fit, a number alone
    /// would be remembered for many times as long as a blob stays; then nearly all
    /// that comes back would be a ghost, and probation would sort nothing out.
    pub(super) fn with_most_bytes(self, bytes: u64) -> Self {
        Self {
            most_units: bytes / ALIGN,
            ..self
        }
    }

    pub(super) fn add(&mut self, digest: &Digest) {
        let ghost = Ghost::of(digest);
        let units = u64::from(ghost.units);
        // One that is too large itself must not drive all others out.
        if units > self.most_units || !self.names.insert(ghost.name) {
            return;
        }
        // Room is made first, so that the order never outgrows its power of two.
        while (self.order.len() >= self.most || self.units + units > self.most_units)
            && let Some(oldest) = self.order.pop_front()
        {
            self.names.remove(&oldest.name);
            self.units -= u64::from(oldest.units);
        }
        self.order.push_back(ghost);
        self.units += units;
    }

    /// Whether this blob went a while ago; it is no ghost any more then.
    pub(super) fn take(&mut self, digest: &Digest) -> bool {
        // Its place in the order stays until it is the oldest.
        self.names.remove(&Ghost::of(digest).name)
    }
}

impl Ghost {
    fn of(digest: &Digest) -> Self {
        let units = digest.size().div_ceil(ALIGN);
        Self {
            name: u32_at(digest.hash().as_bytes(), 0),
            units: u32::try_from(units).unwrap_or(u32::MAX),
        }
    }
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
    #[test]
    fn ghosts_are_bounded_by_bytes() {
        let sized = |name: u8, size| Digest::new(*zako_digest::hash::bytes(&[name]).hash(), size);
        let mut ghosts = Ghosts::new(100).with_most_bytes(1000);
        let [a, b, c] = [sized(0, 500), sized(1, 400), sized(2, 300)];
        for digest in [&a, &b, &c] {
            ghosts.add(digest);
        }
        assert!(!ghosts.take(&a));
        assert!(ghosts.take(&b));
        ghosts.add(&sized(3, 2000));
        assert!(ghosts.take(&c));
        assert!(!ghosts.take(&sized(3, 2000)));
    }

    #[test]
    fn bytes_of_forgotten_ghosts_are_given_back() {
        let sized = |name: u32| {
            let hash = *zako_digest::hash::bytes(&name.to_le_bytes()).hash();
            Digest::new(hash, u64::from(name % 300))
        };
        let mut ghosts = Ghosts::new(50).with_most_bytes(5000);
        for name in 0..1000 {
            ghosts.add(&sized(name));
            if name % 3 == 0 {
                ghosts.take(&sized(name));
            }
            let units: u64 = ghosts.order.iter().map(|it| u64::from(it.units)).sum();
            assert_eq!(ghosts.units, units);
            assert!(units * ALIGN <= 5000 && ghosts.order.len() <= 50);
            assert!(ghosts.names.len() <= ghosts.order.len());
        }
    }

    #[test]
    fn a_ghost_is_8_bytes() {
        assert_eq!(size_of::<Ghost>(), 8);
    }
}
