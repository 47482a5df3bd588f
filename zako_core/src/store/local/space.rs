//! How much disk the store takes, and may take.
//!
//! Room is reserved before it is written, so that the cap holds at every moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub(super) struct Space {
    /// Bytes on disk and bytes promised, together.
    used: AtomicU64,
    cap: u64,
    /// Kept free for moving records when a segment is freed.
    reserve: u64,
    /// The cap that a full file system has taught; [`u64::MAX`] if none has.
    squeezed: AtomicU64,
    /// How often something was freed, or became garbage.
    frees: AtomicU64,
}

/// Room for bytes that will be written. What is not [`taken`](Self::take) is
/// given back when it drops.
#[derive(Debug)]
pub(super) struct Room {
    space: Arc<Space>,
    left: u64,
}

/// Who asks for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A new blob.
    Store,
    /// Moving a record to free a segment; may use the reserve.
    Move,
}

impl Space {
    pub(super) fn new(cap: u64, reserve: u64) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU64::new(0),
            cap,
            reserve,
            squeezed: AtomicU64::new(u64::MAX),
            frees: AtomicU64::new(0),
        })
    }

    /// Bytes on disk and bytes promised.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The most bytes that the store may take.
    pub(super) fn cap(&self) -> u64 {
        self.cap
    }

    /// The most bytes that new blobs may make it take.
    pub(super) fn limit(&self) -> u64 {
        self.cap
            .min(self.squeezed.load(Ordering::Relaxed))
            .saturating_sub(self.reserve)
    }

    /// The most bytes that one blob can take, in an empty store.
    pub(super) fn most(&self) -> u64 {
        self.cap.saturating_sub(self.reserve)
    }

    /// Whether so much more can be had now.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.used().saturating_add(bytes) <= self.limit()
    }

    /// Room for so many bytes, if there is.
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64, purpose: Purpose) -> Option<Room> {
        let limit = match purpose {
            Purpose::Store => self.limit(),
            Purpose::Move => u64::MAX,
        };
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|used| *used <= limit)
            })
            .ok()?;
        Some(Room {
            space: Arc::clone(self),
            left: bytes,
        })
    }

    /// Counts bytes that are on disk already.
    pub(super) fn add(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How often something was freed or became garbage so far: while that stays, so
    /// does what can't be had.
    pub(super) fn frees(&self) -> u64 {
        self.frees.load(Ordering::Relaxed)
    }

    /// Something on disk is of no use any more.
    pub(super) fn note_garbage(&self) {
        self.frees.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts bytes that are gone from disk.
    pub(super) fn free(&self, bytes: u64) {
        self.note_garbage();
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "freed {bytes} of {before}");
    }

    /// Others have filled the file system: what is used now is all there is.
    pub(super) fn squeeze(&self) {
        self.squeezed.store(self.used(), Ordering::Relaxed);
    }

    /// Lets the store grow to its cap again.
    pub(super) fn relax(&self) {
        self.squeezed.store(u64::MAX, Ordering::Relaxed);
    }
}

impl Room {
    /// Room for nothing, to be joined with more.
    pub(super) fn empty(space: &Arc<Space>) -> Self {
        Self {
            space: Arc::clone(space),
            left: 0,
        }
    }

    /// The bytes have been written; they count as used from now on.
    pub(super) fn take(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.left, "took {bytes} of {}", self.left);
        self.left = self.left.saturating_sub(bytes);
    }

    /// The bytes that are still promised.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Adds another promise to this one.
    pub(super) fn join(&mut self, mut other: Self) {
        self.left += other.left;
        other.left = 0;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.left > 0 {
            self.space.free(self.left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_holds() {
        let space = Space::new(1000, 100);
        let mut room = space.reserve(600, Purpose::Store).unwrap();
        assert!(space.reserve(301, Purpose::Store).is_none());
        assert!(space.reserve(301, Purpose::Move).is_some());
        room.take(500);
        drop(room);
        assert_eq!(space.used(), 500);
        space.squeeze();
        assert!(!space.has_room(1));
        space.free(200);
        assert!(space.has_room(100));
        space.relax();
        assert!(space.has_room(600));
        assert!(space.reserve(u64::MAX, Purpose::Move).is_none());
    }
}
