//! The least recently used goes.

use super::Policy;
use crate::list::List;
use crate::trace::Request;

pub struct Lru {
    left: u64,
    capacity: u64,
    list: List<u64>,
}

impl Lru {
    pub fn new(capacity: u64) -> Self {
        Self {
            left: capacity,
            capacity,
            list: List::default(),
        }
    }
}

impl Policy for Lru {
    fn request(&mut self, request: Request) -> bool {
        let Request { key, size, .. } = request;
        if let Some(size) = self.list.remove(key) {
            self.list.push_front(key, size);
            return true;
        }
        if size > self.capacity {
            return false;
        }
        while self.left < size
            && let Some(oldest) = self.list.oldest()
        {
            self.left += self.list.remove(oldest).unwrap_or(0);
        }
        self.left -= size;
        self.list.push_front(key, size);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::hits;

    #[test]
    fn the_least_recently_used_goes() {
        // D drives out B, B drives out C, C drives out A.
        assert_eq!(hits(&mut Lru::new(3), "abcadbdca"), "ad");
    }

    #[test]
    fn many_make_room_for_one() {
        let mut lru = Lru::new(4);
        hits(&mut lru, "abcd");
        let big = Request {
            time: 0,
            key: 1,
            size: 3,
        };
        assert!(!lru.request(big));
        assert!(lru.request(big));
        assert_eq!(hits(&mut lru, "d"), "d");
        let too_big = Request {
            size: 5,
            key: 2,
            ..big
        };
        assert!(!lru.request(too_big) && !lru.request(too_big));
        assert!(lru.request(big));
    }
}
