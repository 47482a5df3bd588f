//! What every key names: a hash table in memory, in shards.
//!
//! Built as the store's index: a look-up takes one shard's read lock and no system call;
//! a shard is a table of 4-byte numbers over a slab of 76-byte slots, so that growing
//! moves 4 bytes an alias.

mod batch;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use hashbrown::HashTable;
use parking_lot::RwLock;

use super::record::{MOST_SIZE, Record};
use super::{Alias, AliasKey};
use crate::store::keyed_hash::KeyedHash;
use crate::store::slab::Slab;
use crate::{Digest, Hash};

#[derive(Debug)]
pub(super) struct Index {
    shards: Box<[RwLock<Shard>]>,
    hash: KeyedHash,
    aliases: AtomicUsize,
}

/// A place between the slots, for walks that pause.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    shard: usize,
    slot: usize,
}

/// Says which question an alias was last part of. Questions that are under way at once
/// have different ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(u16);

#[derive(Debug, Default)]
struct Shard {
    /// Numbers of slots.
    table: HashTable<u32>,
    slots: Slab<Slot>,
    free: Vec<u32>,
}

/// 76 bytes. The atomic changes under a shard's read lock.
#[derive(Debug)]
struct Slot {
    key: AliasKey,
    hash: Hash,
    /// Bits 0–31 of the size.
    size: u32,
    /// Bits 0–15: bits 32–47 of the size. Bits 16–31: the mark, 0 for none.
    size_and_mark: AtomicU32,
    /// In seconds since 1970; 0: never.
    expires: u32,
}

const SHARDS: usize = 64;

/// The size of a slot that is free.
const FREE: u64 = MOST_SIZE + 1;

impl Mark {
    /// The mark of the n-th question.
    pub(super) fn of(question: u32) -> Self {
        // Never 0, which is none.
        Self((question % u32::from(u16::MAX)) as u16 + 1)
    }
}

impl Index {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hash: KeyedHash::random(),
            aliases: AtomicUsize::new(0),
        }
    }

    /// The number of aliases.
    pub(super) fn len(&self) -> usize {
        self.aliases.load(Ordering::Relaxed)
    }

    /// The hash by which the other methods find a key.
    pub(super) fn hash(&self, key: &AliasKey) -> u64 {
        self.hash.of(&key.0)
    }

    /// Makes room in the tables for so many aliases more: growing again and again would
    /// leave holes in the heap.
    pub(super) fn reserve(&mut self, aliases: usize) {
        for shard in &mut self.shards {
            let Shard { table, slots, .. } = shard.get_mut();
            table.reserve(aliases / SHARDS, |&number| {
                self.hash.of(&slots.get(number).key.0)
            });
        }
    }

    pub(super) fn find(&self, key: &AliasKey, hash: u64) -> Option<Alias> {
        let shard = self.shard(hash).read();
        shard.slot(key, hash).map(Slot::alias)
    }

    /// Whether the key names this alias, and no question about it is open.
    pub(super) fn is_settled(&self, key: &AliasKey, alias: &Alias) -> bool {
        let hash = self.hash(key);
        let shard = self.shard(hash).read();
        let slot = shard.slot(key, hash);
        slot.is_some_and(|slot| slot.alias() == *alias && slot.mark().is_none())
    }

    /// The mark that the key's alias has.
    pub(super) fn mark(&self, key: &AliasKey, hash: u64) -> Option<Mark> {
        let shard = self.shard(hash).read();
        shard.slot(key, hash)?.mark()
    }

    /// Takes the mark off.
    pub(super) fn unmark(&self, key: &AliasKey, hash: u64) {
        if let Some(slot) = self.shard(hash).read().slot(key, hash) {
            slot.set_mark(0);
        }
    }

    /// Lets a key name this, or nothing.
    pub(super) fn set(&self, record: &Record, hash: u64) {
        let mut shard = self.shard(hash).write();
        let change = shard.set(record, hash, &self.hash);
        self.count(change);
    }

    /// As [`set`](Self::set), for who has the index alone.
    pub(super) fn set_mut(&mut self, record: &Record) {
        let hash = self.hash(&record.key);
        let shard = self.shards[shard_of(hash)].get_mut();
        let change = shard.set(record, hash, &self.hash);
        self.count(change);
    }

    /// Gives some aliases from `cursor` on, and moves it behind them; none at the end.
    /// Marks them, if so asked.
    pub(super) fn walk(
        &self,
        cursor: &mut Cursor,
        most: usize,
        mark: Option<Mark>,
        mut each: impl FnMut(AliasKey, Alias),
    ) -> usize {
        let mut seen = 0;
        while let Some(shard) = self.shards.get(cursor.shard) {
            let shard = shard.read();
            let mut slots = shard.slots.iter_from(cursor.slot);
            for slot in slots.by_ref().take(most - seen) {
                cursor.slot += 1;
                seen += 1;
                if slot.is_free() {
                    continue;
                }
                if let Some(mark) = mark {
                    slot.set_mark(mark.0);
                }
                each(slot.key, slot.alias());
            }
            if slots.next().is_some() {
                break;
            }
            *cursor = Cursor {
                shard: cursor.shard + 1,
                slot: 0,
            };
        }
        seen
    }

    fn shard(&self, hash: u64) -> &RwLock<Shard> {
        &self.shards[shard_of(hash)]
    }

    fn count(&self, change: Change) {
        match change {
            Change::Added => self.aliases.fetch_add(1, Ordering::Relaxed),
            Change::Removed => self.aliases.fetch_sub(1, Ordering::Relaxed),
            Change::None => return,
        };
    }
}

/// What a change did to the number of aliases.
enum Change {
    Added,
    Removed,
    None,
}

/// The table takes its bits from both ends of the hash; these are others.
fn shard_of(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS
}

impl Shard {
    fn slot(&self, key: &AliasKey, hash: u64) -> Option<&Slot> {
        let is = |number: &u32| self.slots.get(*number).key == *key;
        let number = self.table.find(hash, is)?;
        Some(self.slots.get(*number))
    }

    fn set(&mut self, record: &Record, hash: u64, keyed: &KeyedHash) -> Change {
        let Self { table, slots, free } = self;
        let found = table.find_entry(hash, |&number| slots.get(number).key == record.key);
        match (found, &record.alias) {
            (Ok(entry), Some(alias)) => {
                *slots.get_mut(*entry.get()) = Slot::new(record.key, alias);
                Change::None
            }
            (Ok(entry), None) => {
                let (number, _) = entry.remove();
                slots.get_mut(number).set_size(FREE);
                free.push(number);
                Change::Removed
            }
            (Err(_), Some(alias)) => {
                let slot = Slot::new(record.key, alias);
                let number = match free.pop() {
                    Some(number) => {
                        *slots.get_mut(number) = slot;
                        number
                    }
                    None => slots.push(slot),
                };
                let hash_of = |&number: &u32| keyed.of(&slots.get(number).key.0);
                table.insert_unique(hash, number, hash_of);
                Change::Added
            }
            (Err(_), None) => Change::None,
        }
    }
}

impl Slot {
    fn new(key: AliasKey, alias: &Alias) -> Self {
        let mut slot = Self {
            key,
            hash: *alias.digest.hash(),
            size: 0,
            size_and_mark: AtomicU32::new(0),
            // Later times are none: `AliasTable::insert` sees to that.
            expires: alias.expires.map_or(0, |expires| expires as u32),
        };
        slot.set_size(alias.digest.size());
        slot
    }

    /// Takes the mark off, too.
    fn set_size(&mut self, size: u64) {
        debug_assert!(size <= FREE);
        self.size = size as u32;
        *self.size_and_mark.get_mut() = (size >> 32) as u32;
    }

    fn size(&self) -> u64 {
        let high = self.size_and_mark.load(Ordering::Relaxed) & 0xffff;
        u64::from(high) << 32 | u64::from(self.size)
    }

    fn is_free(&self) -> bool {
        self.size() == FREE
    }

    fn alias(&self) -> Alias {
        Alias {
            digest: Digest::new(self.hash, self.size()),
            expires: (self.expires > 0).then_some(u64::from(self.expires)),
        }
    }

    fn mark(&self) -> Option<Mark> {
        let mark = (self.size_and_mark.load(Ordering::Relaxed) >> 16) as u16;
        (mark > 0).then_some(Mark(mark))
    }

    fn set_mark(&self, mark: u16) {
        let size = self.size_and_mark.load(Ordering::Relaxed) & 0xffff;
        // Only marks change under a read lock, so the size is still that.
        self.size_and_mark
            .store(size | u32::from(mark) << 16, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    pub(super) fn key(number: u16) -> AliasKey {
        // Some have the same bits for the table.
        let mut key = [0; 32];
        key[..2].copy_from_slice(&(number / 4).to_le_bytes());
        key[31] = (number % 4) as u8;
        AliasKey(key)
    }

    pub(super) fn alias(number: u64) -> Alias {
        Alias {
            digest: Digest::new(Hash::from_bytes([number as u8; 32]), number << 13),
            expires: number.is_multiple_of(3).then_some(number + 1),
        }
    }

    #[test]
    fn a_slot_is_76_bytes() {
        assert_eq!(size_of::<Slot>(), 76);
    }

    #[test]
    fn the_largest_blob_has_an_alias() {
        let index = Index::new();
        let largest = Alias {
            digest: Digest::new(Hash::from_bytes([255; 32]), MOST_SIZE),
            expires: Some(u64::from(u32::MAX)),
        };
        let hash = index.hash(&key(1));
        let record = Record {
            key: key(1),
            alias: Some(largest),
        };
        index.set(&record, hash);
        assert_eq!(index.find(&key(1), hash), Some(largest));
        let mut seen = Vec::new();
        let mark = Some(Mark::of(u32::MAX));
        index.walk(&mut Cursor::default(), 10, mark, |_, alias| {
            seen.push(alias);
        });
        assert_eq!(seen, [largest]);
        assert_eq!(index.mark(&key(1), hash), mark);
        assert!(!index.is_settled(&key(1), &largest));
        index.unmark(&key(1), hash);
        assert!(index.is_settled(&key(1), &largest));
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(
            steps in prop::collection::vec((0..300u16, prop::option::of(0..1u64 << 30)), 0..600),
            step in 1..40usize,
        ) {
            let index = Index::new();
            let mut model = HashMap::new();
            for (number, value) in steps {
                let record = Record { key: key(number), alias: value.map(alias) };
                index.set(&record, index.hash(&record.key));
                match record.alias {
                    Some(alias) => model.insert(record.key, alias),
                    None => model.remove(&record.key),
                };
            }
            prop_assert_eq!(index.len(), model.len());
            for number in 0..300 {
                let key = key(number);
                prop_assert_eq!(index.find(&key, index.hash(&key)), model.get(&key).copied());
            }
            let mut walked = HashMap::new();
            let mut cursor = Cursor::default();
            while index.walk(&mut cursor, step, None, |key, alias| {
                assert!(walked.insert(key, alias).is_none());
            }) > 0 {}
            prop_assert_eq!(walked, model);
        }
    }
}
