//! What is staged for one write and one sync.

use hashbrown::HashTable;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::record::{RECORD_LEN, Record};
use super::{Alias, AliasKey};
use crate::cas::Result;

/// Records that are written together, and who waits for that.
#[derive(Default)]
pub(super) struct Group {
    changes: Vec<(Record, u64)>,
    /// The last change of each key, by its hash.
    latest: HashTable<u32>,
    waiting: Vec<(OwnedSemaphorePermit, Answer)>,
}

/// How to answer when the group is stored.
pub(super) enum Answer {
    Insert(oneshot::Sender<Result<()>>),
    Remove(Vec<bool>, oneshot::Sender<Result<Vec<bool>>>),
}

/// A group is closed when it has so many records: more would not be faster, only later.
const MOST_RECORDS: usize = 1 << 15;

/// Room for so many records is kept between groups.
const KEPT_RECORDS: usize = 1 << 12;

impl Group {
    pub(super) fn stage(&mut self, record: Record, hash: u64) {
        let number = self.changes.len() as u32;
        let changes = &mut self.changes;
        let is = |at: &u32| changes[*at as usize].0.key == record.key;
        match self.latest.find_mut(hash, is) {
            Some(latest) => *latest = number,
            None => {
                let hash_of = |at: &u32| changes[*at as usize].1;
                self.latest.insert_unique(hash, number, hash_of);
            }
        }
        changes.push((record, hash));
    }

    /// What the key names after the group; `None` if the group doesn't change it.
    pub(super) fn latest(&self, key: &AliasKey, hash: u64) -> Option<Option<Alias>> {
        let is = |at: &u32| self.changes[*at as usize].0.key == *key;
        let at = *self.latest.find(hash, is)?;
        Some(self.changes[at as usize].0.alias)
    }

    /// Answers so when the group is stored.
    pub(super) fn answer(&mut self, permit: OwnedSemaphorePermit, answer: Answer) {
        self.waiting.push((permit, answer));
    }

    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.changes.len() >= MOST_RECORDS
    }

    /// The changes, in their order, with the hashes of their keys.
    pub(super) fn changes(&self) -> &[(Record, u64)] {
        &self.changes
    }

    /// The records of the changes for a log of this epoch.
    pub(super) fn records(&self, epoch: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.changes.len() * RECORD_LEN);
        for (record, _) in &self.changes {
            record.encode(epoch, &mut bytes);
        }
        bytes
    }

    /// Tells all how it went; what is left is an empty group.
    pub(super) fn end(mut self, outcome: &Result<()>) -> Self {
        for (permit, answer) in self.waiting.drain(..) {
            // Before whoever waits for it goes on to ask for the next.
            drop(permit);
            match answer {
                Answer::Insert(ack) => drop(ack.send(outcome.clone())),
                Answer::Remove(removed, ack) => {
                    drop(ack.send(outcome.clone().map(|()| removed)));
                }
            }
        }
        self.changes.clear();
        self.latest.clear();
        // A rare large group must not keep its memory for ever.
        self.changes.shrink_to(KEPT_RECORDS);
        self.latest.shrink_to(KEPT_RECORDS, |_| 0);
        self
    }
}
