//! The last minutes.

use std::collections::VecDeque;

use super::failures::Failures;
use super::peers::{PeerKey, PeerTable, Traffic};
use super::slot::{ByReason, Slot, add_reasons};
use super::{INTERFACES, SLOTS};

/// Slots that share a table of callers.
const SLOTS_A_TABLE: u64 = 36;

/// Callers that are kept of each of those times.
const PEERS_A_TABLE: usize = 256;

/// What happened in the last minutes, and what is counted since the start.
#[derive(Debug)]
pub(super) struct Ring {
    /// With the number of its span.
    slots: Vec<(u64, Slot)>,
    /// The same, the oldest first.
    peers: VecDeque<(u64, PeerTable)>,
    pub(super) totals: Totals,
    pub(super) failures: Failures,
}

/// What is counted since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    /// By the number of the interface.
    pub(super) interfaces: [InterfaceTotals; INTERFACES.len()],
    pub(super) evicted: ByReason,
    pub(super) corrupt: u64,
}

/// What came by one interface.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InterfaceTotals {
    pub(super) traffic: Traffic,
    pub(super) failed: u64,
}

impl Default for Ring {
    fn default() -> Self {
        Self {
            slots: vec![(0, Slot::default()); SLOTS],
            peers: VecDeque::new(),
            totals: Totals::default(),
            failures: Failures::default(),
        }
    }
}

impl Ring {
    /// The slot of this span, unless that is long past.
    pub(super) fn slot(&mut self, number: u64) -> Option<&mut Slot> {
        let (known, slot) = &mut self.slots[number as usize % SLOTS];
        if *known < number {
            (*known, *slot) = (number, Slot::default());
        }
        (*known == number).then_some(slot)
    }

    /// The callers of the time that this span is of.
    pub(super) fn peers(&mut self, number: u64) -> &mut PeerTable {
        let time = number / SLOTS_A_TABLE;
        if self.peers.back().is_none_or(|(last, _)| *last < time) {
            self.peers.push_back((time, PeerTable::new(PEERS_A_TABLE)));
        }
        let oldest = time.saturating_sub(SLOTS as u64 / SLOTS_A_TABLE - 1);
        self.peers.retain(|(time, _)| *time >= oldest);
        // What comes late counts as of now.
        let last = self.peers.len() - 1;
        &mut self.peers[last].1
    }

    /// Counts bytes that moved over `spans` spans up to this one, evenly.
    pub(super) fn spread(&mut self, number: u64, spans: u64, received: u64, sent: u64) {
        let spans = spans.clamp(1, SLOTS as u64 - 1).min(number + 1);
        let part = |all: u64, at: u64| all * (at + 1) / spans - all * at / spans;
        for at in 0..spans {
            if let Some(slot) = self.slot(number + 1 - spans + at) {
                slot.received += part(received, at);
                slot.sent += part(sent, at);
            }
        }
    }

    /// The spans from `first` to `last`; those without a slot are empty.
    pub(super) fn range(&self, first: u64, last: u64) -> Vec<Slot> {
        (first..=last)
            .map(|number| {
                let (known, slot) = &self.slots[number as usize % SLOTS];
                if *known == number {
                    slot.clone()
                } else {
                    Slot::default()
                }
            })
            .collect()
    }

    /// The largest callers as of this span, and all others in one.
    pub(super) fn largest(&mut self, number: u64) -> (Vec<(PeerKey, Traffic)>, Traffic) {
        // Drops those of times that are past.
        self.peers(number);
        let mut all = PeerTable::new(PEERS_A_TABLE);
        for (_, table) in &self.peers {
            all.take(&mut table.clone());
        }
        all.into_largest()
    }
}

impl Totals {
    /// Adds all of `other`.
    pub(super) fn add(&mut self, other: &Self) {
        for (own, other) in self.interfaces.iter_mut().zip(&other.interfaces) {
            own.traffic.add(other.traffic);
            own.failed += other.failed;
        }
        add_reasons(&mut self.evicted, &other.evicted);
        self.corrupt += other.corrupt;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_slots_are_used_again_and_the_past_is_left_alone() {
        let mut ring = Ring::default();
        ring.slot(5).unwrap().calls = 7;
        assert_eq!(ring.range(4, 6)[1].calls, 7);
        let next = 5 + SLOTS as u64;
        assert_eq!(ring.slot(next).unwrap().calls, 0);
        assert!(ring.slot(5).is_none());
        assert_eq!(ring.range(5, 5)[0].calls, 0);
    }

    #[test]
    fn bytes_of_a_long_call_are_spread_over_its_time() {
        let mut ring = Ring::default();
        ring.spread(10, 4, 10, 1001);
        let slots = ring.range(6, 10);
        let received: Vec<_> = slots.iter().map(|slot| slot.received).collect();
        assert_eq!(received, [0, 2, 3, 2, 3]);
        assert_eq!(slots.iter().map(|slot| slot.sent).sum::<u64>(), 1001);
        // Longer than the server is up, or than the ring.
        ring.spread(1, 100, 100, 0);
        assert_eq!(ring.range(0, 1)[0].received, 50);
        ring.spread(10_000, 9_000, 0, 1 << 40);
        let sent = |slots: Vec<Slot>| slots.iter().map(|slot| slot.sent).sum::<u64>();
        assert_eq!(sent(ring.range(9_000, 10_000)), 1 << 40);
    }

    #[test]
    fn callers_of_long_ago_are_forgotten() {
        let mut ring = Ring::default();
        let one = Traffic {
            calls: 1,
            ..Traffic::default()
        };
        ring.peers(0).count("early", None, one);
        ring.peers(40).count("late", None, one);
        assert_eq!(ring.largest(41).0.len(), 2);
        assert_eq!(ring.largest(SLOTS as u64).0.len(), 1);
        assert_eq!(ring.largest(10 * SLOTS as u64).0.len(), 0);
    }
}
