//! First in, first out.

use std::collections::VecDeque;

use super::Policy;
use crate::keys::KeySet;
use crate::trace::Request;

pub struct Fifo {
    left: u64,
    capacity: u64,
    order: VecDeque<(u64, u64)>,
    present: KeySet,
}

impl Fifo {
    pub fn new(capacity: u64) -> Self {
        Self {
            left: capacity,
            capacity,
            order: VecDeque::new(),
            present: KeySet::default(),
        }
    }
}

impl Policy for Fifo {
    fn request(&mut self, request: Request) -> bool {
        let Request { key, size, .. } = request;
        if self.present.contains(&key) {
            return true;
        }
        if size > self.capacity {
            return false;
        }
        while self.left < size
            && let Some((key, size)) = self.order.pop_front()
        {
            self.present.remove(&key);
            self.left += size;
        }
        self.left -= size;
        self.order.push_back((key, size));
        self.present.insert(key);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::hits;

    #[test]
    fn a_use_saves_nothing() {
        // D drives out A, which was used most; A drives out B, B drives out C.
        assert_eq!(hits(&mut Fifo::new(3), "abcaabdabd"), "aabd");
    }
}
