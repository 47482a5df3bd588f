//! Where every blob lies: a hash table in memory, in shards.
//!
//! A look-up takes one shard's read lock and no system call. A shard is a table
//! of 4-byte numbers over a slab of 48-byte slots, so that growing the table
//! moves 4 bytes an entry. The slab grows by chunks, which never move and leave no
//! holes in the heap: 54 to 60 bytes a blob.

mod batch;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub(super) use batch::Until;
use hashbrown::HashTable;
use parking_lot::RwLock;

use super::leases::LeaseLedger;
use super::record::{ALIGN, MOST_PAYLOAD};
use crate::store::keyed_hash::KeyedHash;
use crate::store::slab::Slab;
use crate::{Digest, Hash};

#[derive(Debug)]
pub(super) struct Index {
    shards: Box<[RwLock<Shard>]>,
    hash: KeyedHash,
    blobs: AtomicU64,
    bytes: AtomicU64,
}

/// Where a blob lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// In a record.
    Record {
        segment: u32,
        /// Of the record's header, in bytes.
        offset: u32,
    },
    /// In a file of its own. The number tells two files of one blob apart that
    /// came one after the other.
    File { number: u32 },
}

/// What the index knows of a blob.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) place: Place,
    /// Whether its bytes have been hashed since the store was opened.
    pub(super) verified: bool,
    /// When its lease ends, in seconds of the store's clock; 0 if it never had one.
    pub(super) leased_until: u32,
    /// How often it was used lately, 0 to 3.
    pub(super) uses: u8,
}

#[derive(Debug, Default)]
struct Shard {
    /// Numbers of slots.
    table: HashTable<u32>,
    slots: Slab<Slot>,
    free: Vec<u32>,
}

/// 48 bytes. The atomics change under a shard's read lock.
#[derive(Debug)]
struct Slot {
    hash: Hash,
    leased_until: AtomicU32,
    /// A segment's number, or a file's.
    unit: u32,
    /// Record: bits 0–23 offset / 16, bits 24–47 length. File: bits 0–47 size.
    /// Both: flags from bit 48 on.
    place: AtomicU64,
}

const SHARDS: usize = 64;

const SIZE_MASK: u64 = (1 << 48) - 1;
const OFFSET_MASK: u64 = (1 << 24) - 1;
const IS_FILE: u64 = 1 << 48;
const VERIFIED: u64 = 1 << 49;
const USES_SHIFT: u32 = 50;
const USES_MASK: u64 = 3 << USES_SHIFT;

/// The largest blob that the index can hold: 256 TiB less one byte.
pub(super) const MOST_BLOB: u64 = SIZE_MASK;

impl Index {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hash: KeyedHash::random(),
            blobs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// The number of blobs.
    pub(super) fn blobs(&self) -> u64 {
        self.blobs.load(Ordering::Relaxed)
    }

    /// The sum of their sizes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The memory that it takes.
    pub(super) fn memory(&self) -> u64 {
        let of = |shard: &RwLock<Shard>| {
            let shard = shard.read();
            let free = shard.free.capacity() * size_of::<u32>();
            shard.table.allocation_size() + shard.slots.memory() + free
        };
        self.shards.iter().map(of).sum::<usize>() as u64
    }

    /// Makes room in the tables for so many blobs more: growing again and again
    /// would leave holes in the heap.
    pub(super) fn reserve(&self, blobs: usize) {
        for shard in &self.shards {
            let Shard { table, slots, .. } = &mut *shard.write();
            table.reserve(blobs / SHARDS, |&number| self.mix(&slots.get(number).hash));
        }
    }

    pub(super) fn find(&self, digest: &Digest) -> Option<Found> {
        let (shard, hash) = self.shard(digest);
        let shard = shard.read();
        shard.slot(digest, hash).map(Slot::found)
    }

    pub(super) fn contains(&self, digest: &Digest) -> bool {
        let (shard, hash) = self.shard(digest);
        shard.read().slot(digest, hash).is_some()
    }

    /// Counts a use of the blob, if it is still there.
    pub(super) fn count_use(&self, digest: &Digest) {
        let (shard, hash) = self.shard(digest);
        if let Some(slot) = shard.read().slot(digest, hash) {
            slot.count_use();
        }
    }

    /// Notes that the blob's bytes at this place were hashed and found right.
    pub(super) fn set_verified(&self, digest: &Digest, place: Place) {
        let (shard, hash) = self.shard(digest);
        if let Some(slot) = shard.read().slot(digest, hash)
            && slot.found().place == place
        {
            slot.place.fetch_or(VERIFIED, Ordering::Relaxed);
        }
    }

    /// Adds a blob, or gives it another place; returns the place that it had.
    /// A lease it has stays; it counts as not verified.
    pub(super) fn insert(&self, digest: &Digest, place: Place) -> Option<Place> {
        let (shard, hash) = self.shard(digest);
        let mut shard = shard.write();
        if let Some(slot) = shard.slot_mut(digest, hash) {
            let before = slot.found().place;
            slot.set_place(digest, place);
            return Some(before);
        }
        self.add(&mut shard, hash, digest, place);
        None
    }

    /// Adds a blob that isn't there; false if it is.
    pub(super) fn insert_absent(&self, digest: &Digest, place: Place) -> bool {
        let (shard, hash) = self.shard(digest);
        let mut shard = shard.write();
        let is_absent = shard.slot(digest, hash).is_none();
        if is_absent {
            self.add(&mut shard, hash, digest, place);
        }
        is_absent
    }

    /// Gives a blob another place if it still has the place `from`.
    pub(super) fn relocate(&self, digest: &Digest, from: Place, to: Place) -> bool {
        let (shard, hash) = self.shard(digest);
        let mut shard = shard.write();
        match shard.slot_mut(digest, hash) {
            Some(slot) if slot.found().place == from => {
                let uses = slot.found().uses;
                slot.set_place(digest, to);
                // What was used is moved for that; it has to be used again.
                slot.set_uses(uses.saturating_sub(1));
                true
            }
            _ => false,
        }
    }

    /// Takes one from the uses of a blob that eviction passes over.
    pub(super) fn age(&self, digest: &Digest) {
        let (shard, hash) = self.shard(digest);
        if let Some(slot) = shard.read().slot(digest, hash) {
            slot.set_uses(slot.found().uses.saturating_sub(1));
        }
    }

    /// Removes a blob if it still has this place.
    pub(super) fn remove_at(
        &self,
        digest: &Digest,
        place: Place,
        now: u32,
        ledger: &LeaseLedger,
    ) -> bool {
        self.remove_when(digest, now, ledger, |found| found.place == place)
            .is_some()
    }

    /// Removes a blob if it still has this place and nobody has a lease on it.
    pub(super) fn evict(
        &self,
        digest: &Digest,
        place: Place,
        now: u32,
        ledger: &LeaseLedger,
    ) -> bool {
        self.remove_when(digest, now, ledger, |found| {
            found.place == place && found.leased_until <= now
        })
        .is_some()
    }

    /// All blobs as they are while each shard is looked at.
    pub(super) fn all(&self) -> Vec<(Digest, Place)> {
        let mut all = Vec::with_capacity(self.blobs() as usize);
        for shard in &self.shards {
            let shard = shard.read();
            all.extend(shard.table.iter().map(|&number| {
                let slot = shard.slots.get(number);
                (slot.digest(), slot.found().place)
            }));
        }
        all
    }

    fn add(&self, shard: &mut Shard, hash: u64, digest: &Digest, place: Place) {
        shard.add(Slot::new(digest, place), hash, |hash| self.mix(hash));
        self.blobs.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(digest.size(), Ordering::Relaxed);
    }

    fn remove_when(
        &self,
        digest: &Digest,
        now: u32,
        ledger: &LeaseLedger,
        condition: impl FnOnce(&Found) -> bool,
    ) -> Option<Place> {
        let (shard, hash) = self.shard(digest);
        let mut shard = shard.write();
        let Shard { table, slots, free } = &mut *shard;
        let entry = table
            .find_entry(hash, |&number| slots.get(number).is(digest))
            .ok()?;
        let number = *entry.get();
        let found = slots.get(number).found();
        if !condition(&found) {
            return None;
        }
        entry.remove();
        free.push(number);
        ledger.end(found.leased_until, now, digest.size());
        self.blobs.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(digest.size(), Ordering::Relaxed);
        Some(found.place)
    }

    fn shard(&self, digest: &Digest) -> (&RwLock<Shard>, u64) {
        let (shard, hash) = self.shard_of(digest);
        (&self.shards[usize::from(shard)], hash)
    }

    fn shard_of(&self, digest: &Digest) -> (u8, u64) {
        let hash = self.mix(digest.hash());
        // The table takes its bits from both ends of the hash; these are others.
        ((hash >> 32) as u8 % SHARDS as u8, hash)
    }

    fn mix(&self, hash: &Hash) -> u64 {
        self.hash.of(hash.as_bytes())
    }
}

impl Shard {
    fn slot(&self, digest: &Digest, hash: u64) -> Option<&Slot> {
        let number = self
            .table
            .find(hash, |&number| self.slots.get(number).is(digest))?;
        Some(self.slots.get(*number))
    }

    fn slot_mut(&mut self, digest: &Digest, hash: u64) -> Option<&mut Slot> {
        let number = *self
            .table
            .find(hash, |&number| self.slots.get(number).is(digest))?;
        Some(self.slots.get_mut(number))
    }

    fn add(&mut self, slot: Slot, hash: u64, mix: impl Fn(&Hash) -> u64) {
        let number = match self.free.pop() {
            Some(number) => {
                *self.slots.get_mut(number) = slot;
                number
            }
            None => self.slots.push(slot),
        };
        let slots = &self.slots;
        self.table
            .insert_unique(hash, number, |&number| mix(&slots.get(number).hash));
    }
}

impl Slot {
    fn new(digest: &Digest, place: Place) -> Self {
        let mut slot = Self {
            hash: *digest.hash(),
            leased_until: AtomicU32::new(0),
            unit: 0,
            place: AtomicU64::new(0),
        };
        slot.set_place(digest, place);
        slot
    }

    fn set_place(&mut self, digest: &Digest, place: Place) {
        let uses = *self.place.get_mut() & USES_MASK;
        let place = match place {
            Place::Record { segment, offset } => {
                debug_assert!(digest.size() < u64::from(MOST_PAYLOAD));
                self.unit = segment;
                (u64::from(offset) / ALIGN) | (digest.size() << 24)
            }
            Place::File { number } => {
                debug_assert!(digest.size() <= MOST_BLOB);
                self.unit = number;
                digest.size() | IS_FILE
            }
        };
        *self.place.get_mut() = place | uses;
    }

    fn is(&self, digest: &Digest) -> bool {
        self.hash == *digest.hash() && self.size() == digest.size()
    }

    fn size(&self) -> u64 {
        let place = self.place.load(Ordering::Relaxed);
        if place & IS_FILE == 0 {
            (place & SIZE_MASK) >> 24
        } else {
            place & SIZE_MASK
        }
    }

    fn digest(&self) -> Digest {
        Digest::new(self.hash, self.size())
    }

    fn found(&self) -> Found {
        let place = self.place.load(Ordering::Relaxed);
        Found {
            place: if place & IS_FILE == 0 {
                Place::Record {
                    segment: self.unit,
                    // At most 2^24 - 1 times 16.
                    offset: ((place & OFFSET_MASK) * ALIGN) as u32,
                }
            } else {
                Place::File { number: self.unit }
            },
            verified: place & VERIFIED != 0,
            leased_until: self.leased_until.load(Ordering::Relaxed),
            uses: ((place & USES_MASK) >> USES_SHIFT) as u8,
        }
    }

    /// Two uses that race may count as one; it is a hint.
    fn count_use(&self) {
        let uses = self.found().uses;
        if uses < 3 {
            self.set_uses(uses + 1);
        }
    }

    fn set_uses(&self, uses: u8) {
        let _ = self
            .place
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |place| {
                Some(place & !USES_MASK | u64::from(uses) << USES_SHIFT)
            });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn digest(number: u16) -> Digest {
        let content = number.to_le_bytes().repeat(usize::from(number % 50));
        let hash = *zako_digest::hash::bytes(&number.to_le_bytes()).hash();
        Digest::new(hash, content.len() as u64)
    }

    fn place(number: u32) -> Place {
        if number.is_multiple_of(3) {
            Place::File { number }
        } else {
            Place::Record {
                segment: number,
                offset: (number % (1 << 20)) * 16,
            }
        }
    }

    #[test]
    fn a_slot_is_48_bytes() {
        assert_eq!(size_of::<Slot>(), 48);
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(
            steps in prop::collection::vec((0..4u8, 0..200u16, any::<u32>()), 0..400)
        ) {
            let (index, ledger) = (Index::new(), LeaseLedger::new());
            let mut model: HashMap<Digest, Place> = HashMap::new();
            for (step, number, at) in steps {
                let digest = digest(number);
                let at = place(at);
                match step {
                    0 => prop_assert_eq!(index.insert(&digest, at), model.insert(digest, at)),
                    1 => {
                        let from = model.remove(&digest);
                        let removed = index.remove_at(&digest, from.unwrap_or(at), 0, &ledger);
                        prop_assert_eq!(removed, from.is_some());
                    }
                    2 => {
                        let from = model.get(&digest).copied().unwrap_or(at);
                        let moved = index.relocate(&digest, from, at);
                        prop_assert_eq!(moved, model.contains_key(&digest));
                        if moved {
                            model.insert(digest, at);
                        }
                    }
                    _ => prop_assert_eq!(index.find(&digest).map(|f| f.place), model.get(&digest).copied()),
                }
            }
            prop_assert_eq!(index.blobs(), model.len() as u64);
            prop_assert_eq!(index.bytes(), model.keys().map(Digest::size).sum::<u64>());
            let all: HashMap<Digest, Place> = index.all().into_iter().collect();
            prop_assert_eq!(all, model);
        }
    }

    #[test]
    fn a_leased_blob_is_not_evicted() {
        let (index, ledger) = (Index::new(), LeaseLedger::new());
        let (blob, at) = (digest(7), place(7));
        index.insert(&blob, at);
        let until = |end, now| Until {
            end,
            now,
            ledger: &ledger,
        };
        assert!(index.missing(&[blob], until(100, 40)).is_empty());
        assert_eq!(ledger.leased(40), blob.size());
        assert!(!index.evict(&blob, at, 99, &ledger));
        assert!(!index.evict(&blob, place(8), 100, &ledger));
        assert!(index.evict(&blob, at, 100, &ledger));
        assert_eq!(index.missing(&[blob], until(200, 100)), [blob]);
        assert_eq!(ledger.leased(100), 0);
    }
}
