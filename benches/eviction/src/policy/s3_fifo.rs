//! S3-FIFO (Yang et al., SOSP '23), object by object: a tenth for the new, a main
//! queue, and the names of as many bytes of the new that went.

use std::collections::VecDeque;

use super::Policy;
use crate::keys::{KeyMap, KeySet};
use crate::trace::Request;

pub struct S3Fifo {
    capacity: u64,
    small: Queue,
    main: Queue,
    present: KeyMap<u8>,
    ghosts: Queue,
    ghost_set: KeySet,
}

#[derive(Default)]
struct Queue {
    order: VecDeque<(u64, u64)>,
    bytes: u64,
}

/// What was used so often since it came is taken over by the main queue, as in the
/// authors' code.
const PROMOTED_FROM: u8 = 2;

impl S3Fifo {
    pub fn new(capacity: u64) -> Self {
        Self {
            capacity,
            small: Queue::default(),
            main: Queue::default(),
            present: KeyMap::default(),
            ghosts: Queue::default(),
            ghost_set: KeySet::default(),
        }
    }

    fn evict(&mut self) {
        if self.small.bytes > self.capacity / 10 || self.main.order.is_empty() {
            while let Some((key, size)) = self.small.pop() {
                if self.present[&key] >= PROMOTED_FROM {
                    self.present.insert(key, 0);
                    self.main.push(key, size);
                    continue;
                }
                self.present.remove(&key);
                self.ghosts.push(key, size);
                self.ghost_set.insert(key);
                while self.ghosts.bytes > self.capacity / 10 * 9
                    && let Some((key, _)) = self.ghosts.pop()
                {
                    self.ghost_set.remove(&key);
                }
                return;
            }
        }
        while let Some((key, size)) = self.main.pop() {
            match self.present.get_mut(&key) {
                Some(uses @ 1..) => {
                    *uses -= 1;
                    self.main.push(key, size);
                }
                _ => {
                    self.present.remove(&key);
                    return;
                }
            }
        }
    }
}

impl Queue {
    fn push(&mut self, key: u64, size: u64) {
        self.order.push_back((key, size));
        self.bytes += size;
    }

    fn pop(&mut self) -> Option<(u64, u64)> {
        let (key, size) = self.order.pop_front()?;
        self.bytes -= size;
        Some((key, size))
    }
}

impl Policy for S3Fifo {
    fn request(&mut self, request: Request) -> bool {
        let Request { key, size, .. } = request;
        if let Some(uses) = self.present.get_mut(&key) {
            *uses = (*uses + 1).min(3);
            return true;
        }
        if size > self.capacity {
            return false;
        }
        while self.small.bytes + self.main.bytes + size > self.capacity {
            self.evict();
        }
        match self.ghost_set.remove(&key) {
            true => self.main.push(key, size),
            false => self.small.push(key, size),
        }
        self.present.insert(key, 0);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::hits;

    #[test]
    fn a_scan_leaves_what_was_used_twice() {
        // A moves to the main queue when room is needed first; the scan goes through
        // the small one. B was used once only.
        let mut cache = S3Fifo::new(10);
        assert_eq!(hits(&mut cache, "aaabbcdefghij"), "aab");
        assert_eq!(hits(&mut cache, "klmnopqrstuvwxyz"), "");
        assert_eq!(hits(&mut cache, "ab"), "a");
    }

    #[test]
    fn a_ghost_comes_back_to_the_main_queue() {
        let mut cache = S3Fifo::new(10);
        // K drives out A, A comes back as a ghost did, and outlives the scan.
        hits(&mut cache, "abcdefghijk");
        assert_eq!(hits(&mut cache, "a"), "");
        assert_eq!(hits(&mut cache, "lmnopqrstuvw"), "");
        assert_eq!(hits(&mut cache, "a"), "a");
    }
}
