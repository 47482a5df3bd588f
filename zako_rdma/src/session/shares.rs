//! How the transfers of a session share the slots of a slab.
//!
//! Every transfer that may be gets one slot whenever it wants one; the others go to who
//! comes first. So a transfer that nobody reads holds up no other one, and a single one
//! has nearly all.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

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

/// The right to one slot, given back when dropped: after the slot.
#[derive(Debug)]
pub(super) struct Share(Arc<Held>);

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
    /// A share, if the others can do without it.
    pub(super) fn try_take(&self) -> Option<Share> {
        let shares = &self.0.shares;
        let mut free = shares.state.lock();
        let mut count = self.0.count.lock();
        let waiting = shares.holders.saturating_sub(free.holding);
        match *count {
            0 if free.slots > 0 => free.holding += 1,
            // Each holder that has none can still get one.
            1.. if free.slots > waiting => {}
            _ => {
                free.refused = true;
                return None;
            }
        }
        free.slots -= 1;
        *count += 1;
        Some(Share(Arc::clone(&self.0)))
    }

    /// A share, when there is one.
    pub(super) async fn take(&self) -> Share {
        loop {
            let freed = self.0.shares.freed.notified();
            tokio::pin!(freed);
            // From here on no notification is missed.
            freed.as_mut().enable();
            if let Some(share) = self.try_take() {
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

impl Drop for Share {
    fn drop(&mut self) {
        let shares = &self.0.shares;
        let refused = {
            let mut free = shares.state.lock();
            let mut count = self.0.count.lock();
            *count -= 1;
            free.slots += 1;
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_alone_has_all_but_what_others_may_want() {
        let shares = Shares::new(8, 3);
        let (first, second) = (shares.holder(), shares.holder());
        let taken: Vec<Share> = std::iter::from_fn(|| first.try_take()).collect();
        assert_eq!(taken.len(), 6);
        let other = second.try_take().unwrap();
        assert!(second.try_take().is_none());
        assert!(first.try_take().is_none());
        drop(other);
        drop(taken);
        let taken: Vec<Share> = std::iter::from_fn(|| second.try_take()).collect();
        assert_eq!(taken.len(), 6);
    }

    #[tokio::test]
    async fn who_waits_gets_what_comes_back() {
        let shares = Shares::new(1, 1);
        let holder = shares.holder();
        let share = holder.take().await;
        let waits = tokio::spawn({
            let holder = holder.clone();
            async move { holder.take().await }
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
            moves in prop::collection::vec((any::<bool>(), 0usize..6), 0..100),
        ) {
            let holders = holders.min(slots);
            let shares = Shares::new(slots, holders);
            let mut held: Vec<(Holder, Vec<Share>)> =
                (0..holders).map(|_| (shares.holder(), Vec::new())).collect();
            for (take, who) in moves {
                let (holder, mine) = &mut held[who % holders];
                match take {
                    true => match holder.try_take() {
                        Some(share) => mine.push(share),
                        None => prop_assert!(!mine.is_empty()),
                    },
                    false => drop(mine.pop()),
                }
                let all: usize = held.iter().map(|(_, mine)| mine.len()).sum();
                prop_assert!(all <= slots);
                prop_assert_eq!(shares.state.lock().slots, slots - all);
            }
        }
    }
}
