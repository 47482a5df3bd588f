//! SIEVE (Zhang et al., NSDI '24): one queue; a hand goes from old to new, spares
//! what was used since it came by, and stays where it found a victim.

use super::Policy;
use crate::list::List;
use crate::trace::Request;

pub struct Sieve {
    left: u64,
    capacity: u64,
    /// Sizes, and whether they were used.
    list: List<(u64, bool)>,
    hand: Option<u64>,
}

impl Sieve {
    pub fn new(capacity: u64) -> Self {
        Self {
            left: capacity,
            capacity,
            list: List::default(),
            hand: None,
        }
    }

    fn evict(&mut self) -> Option<()> {
        let mut at = self.hand.or_else(|| self.list.oldest())?;
        while let Some((_, used @ true)) = self.list.get_mut(at) {
            *used = false;
            at = self.list.newer(at).or_else(|| self.list.oldest())?;
        }
        self.hand = self.list.newer(at);
        let (size, _) = self.list.remove(at)?;
        self.left += size;
        Some(())
    }
}

impl Policy for Sieve {
    fn request(&mut self, request: Request) -> bool {
        let Request { key, size, .. } = request;
        if let Some((_, used)) = self.list.get_mut(key) {
            *used = true;
            return true;
        }
        if size > self.capacity {
            return false;
        }
        while self.left < size && self.evict().is_some() {}
        self.left -= size;
        self.list.push_front(key, (size, false));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::hits;

    #[test]
    fn the_hand_stays_where_it_was() {
        // D: the hand spares A, takes B, and rests at C. E: takes C, rests at D.
        // F: takes D, rests at E; A is still there, unmarked, behind the hand.
        let mut sieve = Sieve::new(3);
        assert_eq!(hits(&mut sieve, "abcadef"), "a");
        assert_eq!(hits(&mut sieve, "aef"), "aef");
        // All are marked: the hand goes round, clears E, F and A, and takes E.
        assert_eq!(hits(&mut sieve, "gaf"), "af");
        assert_eq!(hits(&mut sieve, "e"), "");
    }
}
