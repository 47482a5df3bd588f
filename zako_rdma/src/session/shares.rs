//! How the transfers of a session share the slots of a slab.
//!
//! Every transfer that may be gets one slot whenever it has none; the others go to who
//! comes first, in runs of as many as one READ goes over. So a transfer that nobody reads
//! holds up no other one, and a single one has nearly all.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::memory::{Slab, Slot};

/// The slots of a slab that transfers share.
#[derive(Debug)]
pub(super) struct Shares {
    /// Holders there can be at once, at most as many as there are slots.
    holders: usize,
    state: Mutex<Free>,
    /// For the one who was refused a share.
    returned: Notify,
    /// For those who wait for a share.
    freed: Notify,
}

#[derive(Debug)]
struct Free {
    slots: usize,
    /// Holders that have a share.
    holding: usize,
    /// One was refused since the last one came back.
    refused: bool,
}

/// One transfer's part in it. There may be as many as was said when they were made.
#[derive(Clone, Debug)]
pub(super) struct Holder(Arc<Held>);

#[derive(Debug)]
struct Held {
    shares: Arc<Shares>,
    /// Changed under the lock of `shares`.
    count: Mutex<usize>,
}

/// The right to slots, given back when dropped: after them.
#[derive(Debug)]
pub(super) struct Share {
    held: Arc<Held>,
    slots: usize,
}

/// Slots next to each other, with the right to them. They go back before it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) slot: Slot,
    pub(super) share: Share,
}

/// A slab has no slot for a share, which can't be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoSlot;

impl Shares {
    /// `slots` for `holders`, of which there are at least as many slots.
    pub(super) fn new(slots: usize, holders: usize) -> Arc<Self> {
        Arc::new(Self {
            holders: holders.min(slots),
            state: Mutex::new(Free {
                slots,
                holding: 0,
                refused: false,
            }),
            returned: Notify::new(),
            freed: Notify::new(),
        })
    }

    pub(super) fn holder(self: &Arc<Self>) -> Holder {
        Holder(Arc::new(Held {
            shares: Arc::clone(self),
            count: Mutex::new(0),
        }))
    }

    /// Waits until a share came back after one was refused. For one task only.
    pub(super) async fn returned(&self) {
        self.returned.notified().await;
    }
}

impl Holder {
    /// A share of `wanted` slots, 1 at least, if the others can do without them. Who has
    /// none gets fewer, if need be; who has some will get these back, and does better to wait
    /// than to go on with ever smaller ones.
    pub(super) fn try_take(&self, wanted: usize) -> Option<Share> {
        let shares = &self.0.shares;
        let mut free = shares.state.lock();
        let mut count = self.0.count.lock();
        let waiting = shares.holders.saturating_sub(free.holding);
        let wanted = wanted.max(1);
        // Each holder that has none can still get one.
        let slots = match *count {
            0 if free.slots > 0 => {
                free.holding += 1;
                let others = waiting.saturating_sub(1);
                free.slots.saturating_sub(others).clamp(1, wanted)
            }
            1.. if free.slots.saturating_sub(waiting) >= wanted => wanted,
            _ => {
                free.refused = true;
                return None;
            }
        };
        free.slots -= slots;
        *count += slots;
        let held = Arc::clone(&self.0);
        Some(Share { held, slots })
    }

    /// A share, when there is one.
    pub(super) async fn take(&self, wanted: usize) -> Share {
        loop {
            let freed = self.0.shares.freed.notified();
            tokio::pin!(freed);
            // From here on no notification is missed.
            freed.as_mut().enable();
            if let Some(share) = self.try_take(wanted) {
                return share;
            }
            freed.await;
        }
    }

    /// Waits until all that was taken has come back.
    pub(super) async fn idle(&self) {
        loop {
            let freed = self.0.shares.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if *self.0.count.lock() == 0 {
                return;
            }
            freed.await;
        }
    }
}

impl Share {
    /// Its slots out of their slab, and it with as many: fewer, where so many don't lie next
    /// to each other.
    ///
    /// # Errors
    /// The slab has none, which can't be.
    pub(super) fn of(mut self, slab: &Arc<Slab>) -> Result<Shared, NoSlot> {
        let slot = slab.take_run(self.slots).ok_or(NoSlot)?;
        let surplus = self.slots.saturating_sub(slot.slots());
        self.slots -= surplus;
        self.give(surplus);
        Ok(Shared { slot, share: self })
    }

    /// Gives so many back.
    fn give(&self, slots: usize) {
        if slots == 0 {
            return;
        }
        let shares = &self.held.shares;
        let refused = {
            let mut free = shares.state.lock();
            let mut count = self.held.count.lock();
            *count -= slots;
            free.slots += slots;
            if *count == 0 {
                free.holding -= 1;
            }
            std::mem::take(&mut free.refused)
        };
        shares.freed.notify_waiters();
        if refused {
            shares.returned.notify_one();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give(self.slots);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_alone_has_all_but_what_others_may_want() {
        let shares = Shares::new(8, 3);
        let (first, second) = (shares.holder(), shares.holder());
        let taken: Vec<Share> = std::iter::from_fn(|| first.try_take(1)).collect();
        assert_eq!(taken.len(), 6);
        let other = second.try_take(1).unwrap();
        assert!(second.try_take(1).is_none());
        assert!(first.try_take(1).is_none());
        drop(other);
        drop(taken);
        let taken: Vec<Share> = std::iter::from_fn(|| second.try_take(1)).collect();
        assert_eq!(taken.len(), 6);
    }

    #[test]
    fn slots_that_lie_apart_go_to_others() {
        let (shares, slab) = (Shares::new(4, 2), Slab::new(6, 4096).unwrap());
        let mut slots: Vec<Slot> = std::iter::from_fn(|| slab.take()).collect();
        // Left are the first one, two that lie together, and the last one.
        slots.retain(|slot| [1, 4].contains(&(slot.offset() / 4096)));
        let got = shares.holder().try_take(4).unwrap().of(&slab).unwrap();
        assert_eq!((got.slot.slots(), got.share.slots), (2, 2));
        assert_eq!((shares.state.lock().slots, slab.free()), (2, 2));
        drop(got);
        assert_eq!((shares.state.lock().slots, slab.free()), (4, 4));
    }

    #[tokio::test]
    async fn who_waits_gets_what_comes_back() {
        let shares = Shares::new(1, 1);
        let holder = shares.holder();
        let share = holder.take(1).await;
        let waits = tokio::spawn({
            let holder = holder.clone();
            async move { holder.take(1).await }
        });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        drop(share);
        drop(waits.await.unwrap());
        shares.returned().await;
    }

    proptest! {
        #[test]
        fn who_has_none_always_gets_one(
            slots in 1usize..12,
            holders in 1usize..6,
            moves in prop::collection::vec((any::<bool>(), 0usize..6, 1usize..6), 0..100),
        ) {
            let holders = holders.min(slots);
            let shares = Shares::new(slots, holders);
            let mut held: Vec<(Holder, Vec<Share>)> =
                (0..holders).map(|_| (shares.holder(), Vec::new())).collect();
            for (take, who, wanted) in moves {
                let (holder, mine) = &mut held[who % holders];
                match take {
                    true => match holder.try_take(wanted) {
                        Some(share) => {
                            let none = mine.is_empty();
                            prop_assert!(share.slots == wanted || none && share.slots < wanted);
                            prop_assert!(share.slots > 0);
                            mine.push(share);
                        }
                        None => prop_assert!(!mine.is_empty()),
                    },
                    false => drop(mine.pop()),
                }
                let shares_of = |mine: &Vec<Share>| mine.iter().map(|share| share.slots).sum::<usize>();
                let all: usize = held.iter().map(|(_, mine)| shares_of(mine)).sum();
                prop_assert!(all <= slots);
                prop_assert_eq!(shares.state.lock().slots, slots - all);
            }
        }
    }
}
