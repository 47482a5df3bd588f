//! Who calls, and how much: the largest, in bounded memory whatever comes.

use std::collections::hash_map::RandomState;
use std::hash::{Hash, Hasher};

use hashbrown::{Equivalent, HashMap};

/// The longest part of a name that is kept, in bytes.
const LONGEST_NAME: usize = 80;

/// What some callers did. Holds twice as many as it keeps when it is pruned.
#[derive(Clone, Debug)]
pub(super) struct PeerTable {
    most: usize,
    peers: HashMap<PeerKey, Traffic, RandomState>,
    /// All that isn't in the table.
    rest: Traffic,
}

/// A caller: an address, and who called from there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PeerKey {
    pub(super) host: Box<str>,
    pub(super) identity: Option<Box<str>>,
}

/// A key that is looked for.
struct Asked<'a>(&'a str, Option<&'a str>);

/// What a caller did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) calls: u64,
    pub(super) received: u64,
    pub(super) sent: u64,
}

impl PeerTable {
    /// Keeps the `most` largest.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            peers: HashMap::default(),
            rest: Traffic::default(),
        }
    }

    pub(super) fn count(&mut self, host: &str, identity: Option<&str>, traffic: Traffic) {
        let (host, identity) = (shortened(host), identity.map(shortened));
        if let Some(known) = self.peers.get_mut(&Asked(host, identity)) {
            known.add(traffic);
        } else {
            let key = PeerKey {
                host: host.into(),
                identity: identity.map(Into::into),
            };
            self.insert(key, traffic);
        }
    }

    /// Whether the next new caller would make it prune.
    pub(super) fn is_full(&self) -> bool {
        self.peers.len() >= 2 * self.most
    }

    /// Adds all of `other`, and empties it.
    pub(super) fn take(&mut self, other: &mut Self) {
        for (key, traffic) in other.peers.drain() {
            match self.peers.get_mut(&key) {
                Some(known) => known.add(traffic),
                None => self.insert(key, traffic),
            }
        }
        self.rest.add(std::mem::take(&mut other.rest));
    }

    /// Those with the most bytes or calls, and all others in one.
    pub(super) fn into_largest(mut self) -> (Vec<(PeerKey, Traffic)>, Traffic) {
        if self.peers.len() > self.most {
            self.prune();
        }
        (self.peers.into_iter().collect(), self.rest)
    }

    fn insert(&mut self, key: PeerKey, traffic: Traffic) {
        if self.is_full() {
            self.prune();
        }
        self.peers.insert(key, traffic);
    }

    /// Keeps the larger half: by bytes one half of that, by calls the other.
    fn prune(&mut self) {
        let mut all: Vec<_> = self.peers.drain().collect();
        let half = self.most / 2;
        all.sort_unstable_by_key(|(_, traffic)| std::cmp::Reverse(traffic.bytes()));
        all[half..].sort_unstable_by_key(|(_, traffic)| std::cmp::Reverse(traffic.calls));
        for (_, traffic) in all.drain(self.most..) {
            self.rest.add(traffic);
        }
        self.peers.extend(all);
    }
}

impl Traffic {
    pub(super) fn bytes(self) -> u64 {
        self.received.saturating_add(self.sent)
    }

    pub(super) fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.received += other.received;
        self.sent += other.sent;
    }
}

fn shortened(name: &str) -> &str {
    &name[..name.floor_char_boundary(LONGEST_NAME)]
}

impl Hash for PeerKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Asked(&self.host, self.identity.as_deref()).hash(state);
    }
}

impl Hash for Asked<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
        self.1.hash(state);
    }
}

impl Equivalent<PeerKey> for Asked<'_> {
    fn equivalent(&self, key: &PeerKey) -> bool {
        *self.0 == *key.host && self.1 == key.identity.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(calls: u64, sent: u64) -> Traffic {
        Traffic {
            calls,
            received: 0,
            sent,
        }
    }

    #[test]
    fn the_largest_stay_whatever_comes() {
        let mut table = PeerTable::new(16);
        for number in 0..100_000u32 {
            table.count(&format!("10.0.0.{number}"), None, traffic(1, 10));
            if number % 100 == 0 {
                table.count("heavy", Some("ci"), traffic(1, 1 << 20));
                table.count("busy", None, traffic(50, 0));
            }
            assert!(table.peers.len() <= 32);
        }
        let (largest, rest) = table.into_largest();
        assert!(largest.len() <= 16);
        let of = |host: &str| largest.iter().find(|(key, _)| *key.host == *host);
        let (key, heavy) = of("heavy").unwrap();
        assert_eq!(key.identity.as_deref(), Some("ci"));
        assert_eq!(*heavy, traffic(1000, 1000 << 20));
        assert_eq!(of("busy").unwrap().1, traffic(50_000, 0));
        // Nothing is lost, and nothing counted twice.
        let listed: u64 = largest.iter().map(|(_, traffic)| traffic.calls).sum();
        assert_eq!(listed + rest.calls, 100_000 + 1000 + 50_000);
    }

    #[test]
    fn identities_at_one_address_are_apart_and_tables_add_up() {
        let (mut one, mut other) = (PeerTable::new(4), PeerTable::new(4));
        one.count("h", Some("a"), traffic(1, 1));
        other.count("h", Some("a"), traffic(2, 2));
        other.count("h", Some("b"), traffic(4, 4));
        other.count("h", None, traffic(8, 8));
        one.take(&mut other);
        let (mut largest, rest) = one.into_largest();
        largest.sort_by_key(|(_, traffic)| traffic.calls);
        let calls: Vec<_> = largest.iter().map(|(_, traffic)| traffic.calls).collect();
        assert_eq!((calls, rest), (vec![3, 4, 8], Traffic::default()));
        assert!(other.into_largest().0.is_empty());
    }

    #[test]
    fn long_names_are_cut_at_a_character() {
        let mut table = PeerTable::new(4);
        table.count(&"ä".repeat(1000), Some(&"€".repeat(1000)), traffic(1, 0));
        table.count(&"ä".repeat(1001), Some(&"€".repeat(999)), traffic(1, 0));
        let (largest, _) = table.into_largest();
        assert_eq!(largest.len(), 1);
        assert!(largest[0].0.host.len() <= LONGEST_NAME);
        assert_eq!(largest[0].1.calls, 2);
    }
}
