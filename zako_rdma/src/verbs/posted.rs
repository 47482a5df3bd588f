//! Work that a card has, and the slots that it owns meanwhile.

use crate::memory::Slot;

/// Work by the number that the card knows it by.
#[derive(Default)]
pub(super) struct Posted {
    entries: Vec<Entry>,
    /// Places in `entries` that hold nothing.
    free: Vec<u32>,
    sends: u32,
    receives: u32,
}

/// What is kept about a piece of work.
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) slot: Slot,
    /// What it moves, unless that is only known at its end.
    pub(super) length: u32,
    pub(super) kind: Kind,
}

/// The kinds of work that differ in how they end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// READ and WRITE.
    OneSided,
    Send,
    Receive,
}

struct Entry {
    job: Option<Job>,
    /// How often the place was used, so that no number comes twice in a long time.
    uses: u32,
}

impl Posted {
    /// Keeps a job; gives its number.
    pub(super) fn insert(&mut self, job: Job) -> u64 {
        *self.count(job.kind) += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { job: None, uses: 0 });
            // There are as many as were outstanding at once, each with a slot.
            (self.entries.len() - 1) as u32
        });
        let entry = &mut self.entries[place as usize];
        entry.uses = entry.uses.wrapping_add(1);
        entry.job = Some(job);
        number(place, entry.uses)
    }

    /// Takes the job of a number, if there is one.
    pub(super) fn remove(&mut self, wanted: u64) -> Option<Job> {
        let place = wanted as u32;
        let entry = self.entries.get_mut(place as usize)?;
        if number(place, entry.uses) != wanted {
            return None;
        }
        let job = entry.job.take()?;
        self.free.push(place);
        *self.count(job.kind) -= 1;
        Some(job)
    }

    /// Sends, READs and WRITEs.
    pub(super) fn sends(&self) -> u32 {
        self.sends
    }

    /// Receives.
    pub(super) fn receives(&self) -> u32 {
        self.receives
    }

    /// All jobs.
    pub(super) fn len(&self) -> usize {
        (self.sends + self.receives) as usize
    }

    fn count(&mut self, kind: Kind) -> &mut u32 {
        match kind {
            Kind::Receive => &mut self.receives,
            Kind::OneSided | Kind::Send => &mut self.sends,
        }
    }
}

impl Drop for Posted {
    /// What is here still may be touched by the card: its slots never go back.
    fn drop(&mut self) {
        let kept: Vec<Slot> = self
            .entries
            .drain(..)
            .filter_map(|entry| entry.job)
            .map(|job| job.slot)
            .collect();
        if !kept.is_empty() {
            let bytes: usize = kept.iter().map(|slot| slot.len()).sum();
            tracing::error!(
                slots = kept.len(),
                bytes,
                "work of a card never ended; its memory is kept for good"
            );
            kept.into_iter().for_each(std::mem::forget);
        }
    }
}

fn number(place: u32, uses: u32) -> u64 {
    u64::from(uses) << 32 | u64::from(place)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::memory::{PAGE, Slab};

    fn job(slot: Slot, id: u64, kind: Kind) -> Job {
        Job {
            id,
            slot,
            length: 1,
            kind,
        }
    }

    #[test]
    fn a_number_is_good_once() {
        let slab = Slab::new(2, PAGE).unwrap();
        let mut posted = Posted::default();
        let first = posted.insert(job(slab.take().unwrap(), 7, Kind::Send));
        let second = posted.insert(job(slab.take().unwrap(), 7, Kind::Receive));
        assert_ne!(first, second);
        assert_eq!((posted.sends(), posted.receives(), posted.len()), (1, 1, 2));
        assert_eq!(posted.remove(first).unwrap().id, 7);
        assert!(posted.remove(first).is_none());
        let third = posted.insert(job(slab.take().unwrap(), 8, Kind::OneSided));
        assert!(posted.remove(first).is_none(), "its place has another job");
        assert_eq!(posted.remove(third).unwrap().id, 8);
        assert!(posted.remove(u64::MAX).is_none());
        drop(posted.remove(second));
        assert_eq!((posted.len(), slab.free()), (0, 2));
    }

    #[test]
    fn slots_of_work_that_never_ended_are_kept() {
        let slab = Slab::new(2, PAGE).unwrap();
        let mut posted = Posted::default();
        posted.insert(job(slab.take().unwrap(), 1, Kind::Send));
        let ended = posted.insert(job(slab.take().unwrap(), 2, Kind::Send));
        drop(posted.remove(ended));
        drop(posted);
        assert_eq!(slab.free(), 1);
        assert!(
            std::sync::Arc::strong_count(&slab) == 2,
            "so it stays mapped"
        );
    }
}
