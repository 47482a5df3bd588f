//! Addresses that stand for parts of files.

use std::fmt;
use std::fs::File;
use std::io::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::cas::FileExtent;

/// The most bytes of a file that one slot stands for.
pub(in crate::server) const SLOT: usize = 256 * 1024;

/// As many frames of all connections can be on their way; more are copied. The
/// addresses take 64 MiB, of which no page is ever touched.
const SLOTS: usize = 256;

/// As many of one connection, whose peer may read nothing of them.
const SLOTS_EACH: usize = 16;

/// Zeros that stand for parts of files: who writes them to a socket finds out by
/// their address what to send.
pub(in crate::server) struct Slots {
    zeros: Box<[u8]>,
    parts: Box<[Mutex<Option<FileExtent>>]>,
    free: Mutex<Vec<usize>>,
}

/// A connection that can send parts of files.
#[derive(Debug)]
pub(in crate::server) struct Road {
    pub(super) slots: Arc<Slots>,
    /// How many slots it may have.
    most: usize,
    /// The slots that it has.
    taken: AtomicUsize,
    /// Something was framed that could not be read: nothing may follow.
    broken: AtomicBool,
}

/// A part of a file that has addresses, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    road: Arc<Road>,
    number: usize,
}

impl Slots {
    pub(in crate::server) fn new() -> Self {
        Self {
            zeros: vec![0; SLOT * SLOTS].into_boxed_slice(),
            parts: (0..SLOTS).map(|_| Mutex::new(None)).collect(),
            free: Mutex::new((0..SLOTS).collect()),
        }
    }

    /// What the bytes at this address stand for, if they stand for anything.
    ///
    /// # Errors
    /// If they did once: nothing may be sent in their place.
    pub(super) fn part(&self, bytes: &[u8]) -> Result<Option<FileExtent>> {
        let at = (bytes.as_ptr() as usize).wrapping_sub(self.zeros.as_ptr() as usize);
        if at >= self.zeros.len() || bytes.is_empty() {
            return Ok(None);
        }
        match &*self.parts[at / SLOT].lock() {
            Some(part) => Ok(Some(FileExtent {
                file: Arc::clone(&part.file),
                offset: part.offset + (at % SLOT) as u64,
            })),
            None => Err(Error::other(
                "a part of a blob was let go before it was sent",
            )),
        }
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots")
            .field("free", &self.free.lock().len())
            .finish_non_exhaustive()
    }
}

impl Road {
    pub(in crate::server) fn new(slots: Arc<Slots>) -> Self {
        Self {
            slots,
            most: SLOTS_EACH,
            taken: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
        }
    }

    /// One whose bytes are encrypted: the kernel can't give it files.
    pub(in crate::server) fn encrypted(slots: Arc<Slots>) -> Self {
        Self {
            most: 0,
            ..Self::new(slots)
        }
    }

    pub(super) fn sends_files(&self) -> bool {
        self.most > 0
    }

    pub(super) fn break_off(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }
}

impl Slot {
    /// `None` if all slots are taken, or too many by this connection.
    pub(super) fn take(road: &Arc<Road>, part: FileExtent) -> Option<Self> {
        // Two streams at once may get one more: it is no exact bound.
        if road.taken.load(Ordering::Relaxed) >= road.most {
            return None;
        }
        let number = road.slots.free.lock().pop()?;
        road.taken.fetch_add(1, Ordering::Relaxed);
        *road.slots.parts[number].lock() = Some(part);
        Some(Self {
            road: Arc::clone(road),
            number,
        })
    }

    pub(super) fn road(&self) -> &Road {
        &self.road
    }

    /// Bytes that stand for those from `start` to `end` of the part.
    pub(super) fn stand_in(&self, start: usize, end: usize) -> &[u8] {
        let begin = self.number * SLOT;
        &self.road.slots.zeros[begin + start..begin + end]
    }

    pub(super) fn file(&self) -> Option<(Arc<File>, u64)> {
        let part = self.road.slots.parts[self.number].lock();
        part.as_ref()
            .map(|part| (Arc::clone(&part.file), part.offset))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let slots = &self.road.slots;
        *slots.parts[self.number].lock() = None;
        slots.free.lock().push(self.number);
        self.road.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_tells_its_part_and_comes_back() {
        let slots = Arc::new(Slots::new());
        let road = Arc::new(Road::new(Arc::clone(&slots)));
        let file = Arc::new(tempfile::tempfile().unwrap());
        let part = |offset| FileExtent {
            file: Arc::clone(&file),
            offset,
        };
        let (first, second) = (
            Slot::take(&road, part(100)).unwrap(),
            Slot::take(&road, part(9_000)).unwrap(),
        );
        let offset = |bytes| slots.part(bytes).unwrap().unwrap().offset;
        assert_eq!(offset(first.stand_in(7, 20)), 107);
        assert_eq!(offset(second.stand_in(0, SLOT)), 9_000);
        assert!(slots.part(&[1, 2, 3]).unwrap().is_none());
        let gone = first.number * SLOT;
        drop(first);
        assert!(slots.part(&slots.zeros[gone..=gone]).is_err());
        let again: Vec<Slot> = std::iter::from_fn(|| Slot::take(&road, part(1))).collect();
        assert_eq!(again.len(), SLOTS_EACH - 1);
        assert!(again.iter().any(|slot| slot.number * SLOT == gone));
        let others: Vec<Slot> = std::iter::from_fn(|| {
            let other = Arc::new(Road::new(Arc::clone(&slots)));
            Slot::take(&other, part(1))
        })
        .collect();
        assert_eq!(others.len(), SLOTS - SLOTS_EACH);
        drop((again, second, others));
        assert_eq!(slots.free.lock().len(), SLOTS);
        assert_eq!(Arc::strong_count(&file), 1);
    }
}
