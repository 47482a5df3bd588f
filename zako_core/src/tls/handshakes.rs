//! The handshakes that are under way.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Handshakes under way, at most so many. One more ends that which has taken the longest:
/// who holds connections open and says nothing keeps nobody out, as honest handshakes
/// take a round trip or two.
#[derive(Debug)]
pub(super) struct Handshakes {
    most: usize,
    under_way: Mutex<UnderWay>,
}

#[derive(Debug, Default)]
struct UnderWay {
    next: u64,
    /// By when they began.
    tokens: BTreeMap<u64, CancellationToken>,
}

/// One of them, until this is dropped.
#[derive(Debug)]
pub(super) struct Handshake {
    number: u64,
    of: Arc<Handshakes>,
    /// Cancelled when another took its place.
    pub(super) displaced: CancellationToken,
}

impl Handshakes {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            under_way: Mutex::default(),
        })
    }

    pub(super) fn begin(self: &Arc<Self>) -> Handshake {
        let displaced = CancellationToken::new();
        let mut under_way = self.under_way.lock();
        let number = under_way.next;
        under_way.next += 1;
        if under_way.tokens.len() >= self.most
            && let Some((_, oldest)) = under_way.tokens.pop_first()
        {
            oldest.cancel();
        }
        under_way.tokens.insert(number, displaced.clone());
        Handshake {
            number,
            of: Arc::clone(self),
            displaced,
        }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.of.under_way.lock().tokens.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let handshakes = Handshakes::new(2);
        let (first, second) = (handshakes.begin(), handshakes.begin());
        assert!(!first.displaced.is_cancelled());
        let third = handshakes.begin();
        assert!(first.displaced.is_cancelled() && !second.displaced.is_cancelled());
        drop(third);
        let _fourth = handshakes.begin();
        assert!(!second.displaced.is_cancelled());
        drop((first, second));
        assert_eq!(handshakes.under_way.lock().tokens.len(), 1);
    }
}
