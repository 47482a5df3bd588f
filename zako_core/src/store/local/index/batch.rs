//! Looking up many blobs at once.
//!
//! One look-up waits for two reads of memory, the table's and the slot's, and the locked
//! instructions of its lock let the core begin no other meanwhile. So a batch is sorted by
//! shard, a shard is locked once, and all of its tables' reads come before those of slots.

use std::sync::atomic::Ordering;

use super::{Index, SHARDS, Shard, Slot};
use crate::Digest;
use crate::store::local::leases::LeaseLedger;

/// Digests that are sorted at once: what is kept of them stays in the core's cache.
const STEP: usize = 8 << 10;

/// Look-ups whose reads of memory go together.
const TOGETHER: usize = 32;

/// Until when what is found is leased.
#[derive(Clone, Copy)]
pub(in super::super) struct Until<'a> {
    /// In seconds of the store's clock; 0: not at all.
    pub(in super::super) end: u32,
    pub(in super::super) now: u32,
    pub(in super::super) ledger: &'a LeaseLedger,
}

impl Index {
    /// Those of `digests` that are absent, in their order. Leases all others, and counts
    /// that as a use of them.
    ///
    /// A lease is taken under the shard's lock, and eviction removes under it, so what
    /// this reports as present can't have been chosen for eviction already.
    pub(in super::super) fn missing(&self, digests: &[Digest], until: Until<'_>) -> Vec<Digest> {
        let mut missing = Vec::new();
        for step in digests.chunks(STEP) {
            let present = self.present(step, until);
            let absent = step.iter().zip(present).filter(|(_, present)| !present);
            missing.extend(absent.map(|(digest, _)| *digest));
        }
        missing
    }

    fn present(&self, digests: &[Digest], until: Until<'_>) -> Vec<bool> {
        let shards: Vec<(u8, u64)> = digests.iter().map(|digest| self.shard_of(digest)).collect();
        // Where each shard's digests begin; then, where the next one of them goes.
        let mut next = [0; SHARDS + 1];
        for (shard, _) in &shards {
            next[usize::from(*shard) + 1] += 1;
        }
        for shard in 0..SHARDS {
            next[shard + 1] += next[shard];
        }
        let mut sorted = vec![(0, 0); digests.len()];
        for (at, (shard, hash)) in shards.iter().enumerate() {
            let to = &mut next[usize::from(*shard)];
            sorted[*to] = (at, *hash);
            *to += 1;
        }
        let mut present = vec![false; digests.len()];
        let mut from = 0;
        for (shard, to) in self.shards.iter().zip(next) {
            if from < to {
                let shard = shard.read();
                for some in sorted[from..to].chunks(TOGETHER) {
                    shard.look_up(digests, some, until, &mut present);
                }
            }
            from = to;
        }
        present
    }
}

impl Shard {
    /// Tells of some digests, by their places in `digests` and their hashes, which are
    /// present.
    fn look_up(
        &self,
        digests: &[Digest],
        some: &[(usize, u64)],
        until: Until<'_>,
        present: &mut [bool],
    ) {
        let mut likely = [None; TOGETHER];
        for ((_, hash), likely) in some.iter().zip(&mut likely) {
            *likely = self.table.iter_hash(*hash).next().copied();
        }
        for ((at, hash), likely) in some.iter().zip(likely) {
            let Some(likely) = likely else { continue };
            let digest = &digests[*at];
            let slot = match self.slots.get(likely) {
                slot if slot.is(digest) => Some(slot),
                // Another one whose hash is alike.
                _ => self.slot(digest, *hash),
            };
            if let Some(slot) = slot {
                slot.lease(digest, until);
                present[*at] = true;
            }
        }
    }
}

impl Slot {
    fn lease(&self, digest: &Digest, until: Until<'_>) {
        let end = until.end;
        // Most are leased until then already, and a read is cheaper.
        if end <= self.leased_until.load(Ordering::Relaxed) {
            return;
        }
        let before = self.leased_until.fetch_max(end, Ordering::Relaxed);
        if end > before {
            until.ledger.extend(before, end, until.now, digest.size());
            self.count_use();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::Hash;
    use crate::store::local::index::Place;

    /// Digests of which some have the same bits for the table.
    fn digest(number: u16) -> Digest {
        let mut hash = [0; 32];
        hash[..2].copy_from_slice(&(number / 4).to_le_bytes());
        hash[31] = (number % 4) as u8;
        Digest::new(Hash::from_bytes(hash), 100)
    }

    proptest! {
        #[test]
        fn tells_what_single_look_ups_tell(
            there in prop::collection::hash_set(0u16..400, 0..300),
            asked in prop::collection::vec(0u16..400, 0..600),
        ) {
            let (index, ledger) = (Index::new(), LeaseLedger::new());
            for &number in &there {
                let place = Place::Record { segment: 1, offset: u32::from(number) * 16 };
                index.insert(&digest(number), place);
            }
            let asked: Vec<Digest> = asked.into_iter().map(digest).collect();
            let until = Until { end: 100, now: 40, ledger: &ledger };
            let missing = index.missing(&asked, until);
            let (present, absent): (Vec<Digest>, Vec<Digest>) =
                asked.iter().partition(|digest| index.contains(digest));
            prop_assert_eq!(missing, absent);
            for digest in &present {
                prop_assert_eq!(index.find(digest).map(|found| found.leased_until), Some(100));
            }
            let once: HashSet<&Digest> = present.iter().collect();
            prop_assert_eq!(ledger.leased(40), once.len() as u64 * 100);
        }
    }
}
