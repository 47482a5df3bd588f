//! Memory that a card may touch, in slots that have one owner each.
//!
//! This file has `unsafe` code: it maps memory and gives out parts of it. The proofs
//! rest on one rule: a slot's number is unowned or in the run of one [`Slot`], never both.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::fabric::{FabricError, FailureKind};
use crate::runs::{Run, Unowned};

/// A slot's length is a multiple of this, and so is its address.
pub const PAGE: usize = 4096;
/// The length of [`Pages::Huge`].
const HUGE_PAGE: usize = 2 << 20;

/// Page-aligned memory of slots of one length.
pub struct Slab {
    start: NonNull<u8>,
    /// What is mapped: at least all slots.
    mapped: usize,
    pages: Pages,
    slot_bytes: usize,
    slots: usize,
    free: Mutex<Unowned>,
    /// A permit for each of them; given out before its number, given back after it.
    permits: Semaphore,
}

/// What memory is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// The system's pages, of 4 KiB.
    #[default]
    Plain,
    /// Pages of 2 MiB out of the pool that `vm.nr_hugepages` sets: a card translates
    /// fewer addresses.
    Huge,
    /// A file in memory (tmpfs), which counts as shared memory and can be swapped as
    /// long as it isn't registered.
    Tmpfs,
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Huge => "huge",
            Self::Tmpfs => "tmpfs",
        })
    }
}

impl FromStr for Pages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Plain, Self::Huge, Self::Tmpfs]
            .into_iter()
            .find(|pages| pages.to_string() == text)
            .ok_or_else(|| format!("{text:?} is no kind of pages: write plain, huge or tmpfs"))
    }
}

/// A slot of a slab, or several that lie next to each other and are as one: their one owner.
/// Goes back to the slab when dropped.
pub struct Slot {
    slab: Arc<Slab>,
    /// Within the slab, and unowned by any other one.
    run: Run,
}

// SAFETY: the memory belongs to the slab alone and no thread has a special right to it;
// the free list is behind a lock, and slots are reached through their one owner.
unsafe impl Send for Slab {}
// SAFETY: as above; `&Slab` gives no access to the memory.
unsafe impl Sync for Slab {}

impl Slab {
    /// A slab of plain pages.
    ///
    /// # Errors
    /// As [`with_pages`](Self::with_pages).
    pub fn new(slots: u32, slot_bytes: usize) -> Result<Arc<Self>, FabricError> {
        Self::with_pages(slots, slot_bytes, Pages::Plain)
    }

    /// Maps zeroed memory for `slots` slots of `slot_bytes`, rounded up to whole pages of
    /// 4 KiB. Where the system has no pages as asked for, they are plain, which is logged;
    /// [`pages`](Self::pages) says what was got.
    ///
    /// # Errors
    /// [`FailureKind::Bounds`] if that is nothing or more than can be,
    /// [`FailureKind::Resources`] if the system has no such memory.
    pub fn with_pages(
        slots: u32,
        slot_bytes: usize,
        pages: Pages,
    ) -> Result<Arc<Self>, FabricError> {
        let bounds = || {
            FabricError::new(
                FailureKind::Bounds,
                format!("no slab can have {slots} slots of {slot_bytes} bytes"),
            )
        };
        let slot_bytes = slot_bytes
            .checked_next_multiple_of(PAGE)
            .ok_or_else(bounds)?;
        let bytes = slot_bytes.checked_mul(slots as usize).ok_or_else(bounds)?;
        // What can't be of huge pages can't be of others, either.
        let whole = bytes
            .checked_next_multiple_of(HUGE_PAGE)
            .ok_or_else(bounds)?;
        if bytes == 0 || isize::try_from(whole).is_err() {
            return Err(bounds());
        }
        let (start, mapped, pages) = match (pages, mapped(pages, bytes, whole)) {
            (pages, Ok((start, mapped))) => (start, mapped, pages),
            (Pages::Plain, Err(error)) => return Err(no_memory(bytes, error)),
            (wanted, Err(error)) => {
                let hint = match wanted {
                    Pages::Huge => "; `sysctl vm.nr_hugepages=N` sets how many there are",
                    _ => "",
                };
                tracing::warn!("no {wanted:?} pages for {bytes} bytes ({error}{hint}): plain ones");
                let (start, mapped) =
                    mapped(Pages::Plain, bytes, whole).map_err(|error| no_memory(bytes, error))?;
                (start, mapped, Pages::Plain)
            }
        };
        Ok(Arc::new(Self {
            start,
            mapped,
            pages,
            slot_bytes,
            slots: slots as usize,
            free: Mutex::new(Unowned::new(slots as usize)),
            permits: Semaphore::new(slots as usize),
        }))
    }

    /// What it is made of.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// The address of its first byte.
    pub fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        self.slot_bytes * self.slots
    }

    /// The length of each slot in bytes.
    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Slots that nobody has.
    pub fn free(&self) -> usize {
        self.free.lock().len()
    }

    /// A slot that nobody has, if there is one. Its bytes are what its last owner left.
    pub fn take(self: &Arc<Self>) -> Option<Slot> {
        self.take_run(1)
    }

    /// Slots that nobody has, next to each other: `wanted`, or fewer where there are no so
    /// many; `None` if there is none. Their bytes are what their last owners left.
    pub fn take_run(self: &Arc<Self>, wanted: usize) -> Option<Slot> {
        let mut permits = self.permits.try_acquire().ok()?;
        while permits.num_permits() < wanted
            && let Ok(more) = self.permits.try_acquire()
        {
            permits.merge(more);
        }
        self.numbered(permits)
    }

    /// A slot, when there is one; `None` never comes as long as the slab is held.
    pub async fn taken(self: &Arc<Self>) -> Option<Slot> {
        let permit = self.permits.acquire().await.ok()?;
        self.numbered(permit)
    }

    /// Copies its bytes from `offset` on, whoever owns the slots there: as a peer's READ
    /// does, or out of memory that a peer may WRITE, where they may be mixed. `false` if it
    /// has no such bytes.
    pub(crate) fn read_at(&self, offset: usize, into: &mut [u8]) -> bool {
        let in_bounds = offset
            .checked_add(into.len())
            .is_some_and(|end| end <= self.bytes());
        if in_bounds {
            // SAFETY: within the mapping and initialised; no reference to the bytes is made,
            // so whatever a card writes meanwhile, they are bytes. For the fabric of tests:
            // an owner on another thread may write there at the same time only if it has not
            // granted the bytes or has taken them back, which is what tests provoke on one
            // thread only.
            unsafe {
                std::ptr::copy(
                    self.start.as_ptr().add(offset),
                    into.as_mut_ptr(),
                    into.len(),
                );
            }
        }
        in_bounds
    }

    /// Overwrites its bytes from `offset` on, as a peer's WRITE does, in a slab whose slots
    /// nobody relies on. `false` if it has no such bytes.
    pub(crate) fn write_at(&self, offset: usize, from: &[u8]) -> bool {
        let in_bounds = offset
            .checked_add(from.len())
            .is_some_and(|end| end <= self.bytes());
        if in_bounds {
            // SAFETY: within the mapping; no reference to the bytes is made. Only for slabs
            // that are registered for remote WRITE, whose slots nobody else relies on; as for
            // `read_at`, the tests that have both do it on one thread.
            unsafe {
                std::ptr::copy(from.as_ptr(), self.start.as_ptr().add(offset), from.len());
            }
        }
        in_bounds
    }

    /// As many as there are permits, or fewer; the others' go back.
    fn numbered(self: &Arc<Self>, mut permits: SemaphorePermit<'_>) -> Option<Slot> {
        let run = self.free.lock().take(permits.num_permits())?;
        let _back = permits.split(permits.num_permits() - run.slots);
        permits.forget();
        Some(Slot {
            slab: Arc::clone(self),
            run,
        })
    }
}

/// Maps zeroed memory of at least `bytes`; says where and how much. `whole` is that in
/// whole huge pages.
fn mapped(pages: Pages, bytes: usize, whole: usize) -> io::Result<(NonNull<u8>, usize)> {
    let (anywhere, access) = (std::ptr::null_mut(), ProtFlags::READ | ProtFlags::WRITE);
    let (start, mapped) = match pages {
        Pages::Plain => {
            // SAFETY: a new mapping at an address of the system's choice touches no other.
            let start = unsafe { mmap_anonymous(anywhere, bytes, access, MapFlags::PRIVATE) };
            (start, bytes)
        }
        Pages::Huge => {
            let flags = MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::HUGE_2MB;
            // SAFETY: as above.
            let start = unsafe { mmap_anonymous(anywhere, whole, access, flags) };
            (start, whole)
        }
        Pages::Tmpfs => {
            let file = memfd_create("zako-slab", MemfdFlags::CLOEXEC)?;
            ftruncate(&file, bytes as u64)?;
            // SAFETY: as above; nobody else has the file, so nobody shortens it.
            let start = unsafe { mmap(anywhere, bytes, access, MapFlags::SHARED, &file, 0) };
            (start, bytes)
        }
    };
    let start = NonNull::new(start?.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
    Ok((start, mapped))
}

fn no_memory(bytes: usize, error: io::Error) -> FabricError {
    FabricError::new(
        FailureKind::Resources,
        format!("the system has no {bytes} bytes of memory for a slab: {error}"),
    )
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: mapped by `with_pages` with this length; slots hold the slab, so none is left,
        // and an endpoint holds the slabs that it registered.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.mapped) };
        if let Err(error) = unmapped {
            tracing::error!(%error, "a slab could not be unmapped");
        }
    }
}

impl fmt::Debug for Slab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slab")
            .field("address", &format_args!("{:#x}", self.address()))
            .field("pages", &self.pages)
            .field("slots", &self.slots)
            .field("slot_bytes", &self.slot_bytes)
            .field("free", &self.free())
            .finish()
    }
}

impl Slot {
    /// Where it lies in its slab, in bytes from the slab's start.
    pub fn offset(&self) -> u64 {
        (self.run.first * self.slab.slot_bytes) as u64
    }

    /// Its slab.
    pub fn slab(&self) -> &Arc<Slab> {
        &self.slab
    }

    /// Its first `length` bytes, all of them if it has fewer; the slot goes back to the
    /// slab when the last slice of them is dropped.
    pub fn into_bytes(self, length: usize) -> Bytes {
        let length = length.min(self.len());
        Bytes::from_owner(self).split_to(length)
    }

    /// How many slots of the slab it is.
    pub fn slots(&self) -> usize {
        self.run.slots
    }

    fn bytes(&self) -> usize {
        self.run.slots * self.slab.slot_bytes
    }

    fn start(&self) -> *mut u8 {
        // SAFETY: the run is one of the slab's slots, so this is within the mapping.
        unsafe {
            self.slab
                .start
                .as_ptr()
                .add(self.run.first * self.slab.slot_bytes)
        }
    }
}

impl Deref for Slot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mapped and initialised (zeroed by the system), as all of the run is within
        // the slab; nobody else has a slot of it: work that makes a card write it owns it until
        // its completion.
        unsafe { std::slice::from_raw_parts(self.start(), self.bytes()) }
    }
}

impl DerefMut for Slot {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes it the only one here. A peer that READs
        // it meanwhile gets mixed bytes, which it will find by their hash; it can't write.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.bytes()) }
    }
}

impl AsRef<[u8]> for Slot {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slab.free.lock().give(self.run);
        self.slab.permits.add_permits(self.run.slots);
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("offset", &self.offset())
            .field("len", &self.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_slot_has_one_owner() {
        let slab = Slab::new(2, 5000).unwrap();
        assert_eq!(slab.slot_bytes(), 2 * PAGE);
        let mut first = slab.take().unwrap();
        let second = slab.take().unwrap();
        assert!(slab.take().is_none());
        first.fill(1);
        assert!(second.iter().all(|byte| *byte == 0));
        assert_ne!(first.offset(), second.offset());
        let bytes = first.into_bytes(3);
        assert_eq!(bytes.as_ref(), [1; 3]);
        let part = bytes.slice(1..);
        drop(bytes);
        assert_eq!(slab.free(), 0, "a slice still holds the slot");
        drop(part);
        assert_eq!(slab.free(), 1);
    }

    #[test]
    fn a_slab_that_cannot_be_is_refused() {
        for (slots, bytes) in [
            (0, PAGE),
            (1, 0),
            (1, usize::MAX),
            (u32::MAX, usize::MAX / 2),
        ] {
            let refused = Slab::new(slots, bytes).unwrap_err();
            assert_eq!(refused.kind(), FailureKind::Bounds);
        }
    }

    #[test]
    fn memory_of_any_pages_is_zeroed_and_works() {
        for pages in [Pages::Plain, Pages::Huge, Pages::Tmpfs] {
            let slab = Slab::with_pages(3, PAGE, pages).unwrap();
            // A machine may have no huge pages.
            assert!(slab.pages() == pages || pages == Pages::Huge);
            assert_eq!(slab.bytes(), 3 * PAGE);
            let mut slots: Vec<Slot> = std::iter::from_fn(|| slab.take()).collect();
            assert_eq!(slots.len(), 3);
            for slot in &mut slots {
                assert!(slot.iter().all(|byte| *byte == 0));
                slot.fill(7);
            }
        }
    }

    #[test]
    fn slots_next_to_each_other_are_as_one() {
        let slab = Slab::new(6, PAGE).unwrap();
        let one = slab.take().unwrap();
        let mut run = slab.take_run(3).unwrap();
        assert_eq!((run.slots(), run.len(), slab.free()), (3, 3 * PAGE, 2));
        assert_eq!(run.offset(), PAGE as u64);
        run.fill(1);
        let rest = slab.take_run(9).unwrap();
        assert_eq!((rest.slots(), rest.offset()), (2, 4 * PAGE as u64));
        assert!(slab.take_run(1).is_none());
        for other in [&one, &rest] {
            assert!(other.iter().all(|byte| *byte == 0));
        }
        drop((one, rest));
        // Only runs of 1 and of 2 are left.
        let two = slab.take_run(3).unwrap();
        assert_eq!((two.slots(), slab.free()), (2, 1));
        drop((run, two));
        assert_eq!(slab.take_run(7).unwrap().len(), slab.bytes());
        let all: Vec<Slot> = std::iter::from_fn(|| slab.take()).collect();
        assert_eq!(all.len(), 6, "as many permits as slots");
    }

    #[tokio::test]
    async fn who_waits_for_a_slot_gets_the_next_one() {
        let slab = Slab::new(1, PAGE).unwrap();
        let slot = slab.take().unwrap();
        let waits = tokio::spawn({
            let slab = Arc::clone(&slab);
            async move { slab.taken().await.unwrap().offset() }
        });
        tokio::task::yield_now().await;
        drop(slot);
        assert_eq!(waits.await.unwrap(), 0);
        assert_eq!(slab.free(), 1);
    }
}
