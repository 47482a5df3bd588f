//! Looking up many keys at once.
//!
//! As in the store's index: keys are sorted by shard, a shard is locked once, and the
//! reads of its table go before those of its slots, so that they overlap.

use super::{Index, SHARDS, Shard, Slot, shard_of};
use crate::alias::{Alias, AliasKey};

/// Keys that are sorted at once: what is kept of them stays in the core's cache.
const STEP: usize = 8 << 10;

/// Look-ups whose reads of memory go together.
const TOGETHER: usize = 32;

impl Index {
    /// What each key names, in their order, behind what `out` has.
    pub(in super::super) fn find_many(&self, keys: &[AliasKey], out: &mut Vec<Option<Alias>>) {
        let begin = out.len();
        out.resize(begin + keys.len(), None);
        let mut found = &mut out[begin..];
        for step in keys.chunks(STEP) {
            let (some, rest) = found.split_at_mut(step.len());
            self.find_step(step, some);
            found = rest;
        }
    }

    fn find_step(&self, keys: &[AliasKey], found: &mut [Option<Alias>]) {
        let hashes: Vec<u64> = keys.iter().map(|key| self.hash(key)).collect();
        // Where each shard's keys begin; then, where the next one of them goes.
        let mut next = [0; SHARDS + 1];
        for hash in &hashes {
            next[shard_of(*hash) + 1] += 1;
        }
        for shard in 0..SHARDS {
            next[shard + 1] += next[shard];
        }
        let mut sorted = vec![(0, 0); keys.len()];
        for (at, hash) in hashes.iter().enumerate() {
            let to = &mut next[shard_of(*hash)];
            sorted[*to] = (at, *hash);
            *to += 1;
        }
        let mut from = 0;
        for (shard, to) in self.shards.iter().zip(next) {
            if from < to {
                let shard = shard.read();
                for some in sorted[from..to].chunks(TOGETHER) {
                    shard.find_some(keys, some, found);
                }
            }
            from = to;
        }
    }
}

impl Shard {
    /// Finds some of `keys`, by their places there and their hashes.
    fn find_some(&self, keys: &[AliasKey], some: &[(usize, u64)], found: &mut [Option<Alias>]) {
        let mut likely = [None; TOGETHER];
        for ((_, hash), likely) in some.iter().zip(&mut likely) {
            *likely = self.table.iter_hash(*hash).next().copied();
        }
        for ((at, hash), likely) in some.iter().zip(likely) {
            let Some(likely) = likely else { continue };
            let key = &keys[*at];
            found[*at] = match self.slots.get(likely) {
                slot if slot.key == *key => Some(slot.alias()),
                // Another one whose hash is alike.
                _ => self.slot(key, *hash).map(Slot::alias),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{alias, key};
    use super::*;
    use crate::alias::record::Record;

    proptest! {
        #[test]
        fn tells_what_single_look_ups_tell(
            there in prop::collection::hash_set(0u16..400, 0..300),
            asked in prop::collection::vec(0u16..400, 0..600),
        ) {
            let index = Index::new();
            for &number in &there {
                let record = Record { key: key(number), alias: Some(alias(number.into())) };
                index.set(&record, index.hash(&record.key));
            }
            let asked: Vec<AliasKey> = asked.into_iter().map(key).collect();
            let mut found = vec![Some(alias(1))];
            index.find_many(&asked, &mut found);
            prop_assert_eq!(found.len(), asked.len() + 1);
            for (key, found) in asked.iter().zip(&found[1..]) {
                prop_assert_eq!(*found, index.find(key, index.hash(key)));
            }
        }
    }
}
