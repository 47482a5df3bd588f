//! Small writes of HTTP/2, gathered until the connection has nothing more to say.
//!
//! The library below flushes after each payload, so that the end of a small answer, or
//! the next answer, would be a system call and a packet of its own: about 5 µs at
//! either end, where the copy of 8 KiB costs less than one.

use std::io::IoSlice;

/// Writes of at most so many bytes are gathered; longer ones aren't worth a copy.
const SMALL: usize = 16 << 10;

/// No more than this waits.
const ROOM: usize = 64 << 10;

/// Bytes that were taken and are not written yet.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    /// Those before were written.
    next: usize,
    /// Something came since the last flush.
    fresh: bool,
}

impl Outbox {
    /// Takes what a call wants to write, if it is little and there is room; how many
    /// bytes.
    pub(crate) fn take(&mut self, slices: &[IoSlice<'_>]) -> Option<usize> {
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        if bytes > SMALL || self.bytes.len() + bytes > ROOM {
            return None;
        }
        self.bytes.reserve(bytes);
        for slice in slices {
            self.bytes.extend_from_slice(slice);
        }
        self.fresh = true;
        Some(bytes)
    }

    /// What is to be written.
    pub(crate) fn waiting(&self) -> &[u8] {
        &self.bytes[self.next..]
    }

    /// Notes that so many bytes of it were written.
    pub(crate) fn written(&mut self, bytes: usize) {
        self.next += bytes;
        if self.waiting().is_empty() {
            // An idle connection keeps no memory.
            *self = Self::default();
        }
    }

    /// Whether a flush can wait for another one: more may come before that. Who is told
    /// so must have the connection polled again at once.
    pub(crate) fn postpones(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_taken_while_there_is_room() {
        let mut outbox = Outbox::default();
        let piece = [1; SMALL];
        let taken = std::iter::from_fn(|| outbox.take(&[IoSlice::new(&piece)])).count();
        assert_eq!(taken * SMALL, ROOM);
        assert_eq!(outbox.take(&[IoSlice::new(&[1])]), None);
        outbox.written(ROOM - 1);
        assert_eq!(outbox.waiting(), [1]);
        outbox.written(1);
        let both = [IoSlice::new(&piece), IoSlice::new(&[1])];
        assert_eq!(outbox.take(&both), None, "that is much");
        let both = [IoSlice::new(&[2, 3]), IoSlice::new(&[4])];
        assert_eq!(outbox.take(&both), Some(3));
        assert_eq!(outbox.waiting(), [2, 3, 4]);
    }

    #[test]
    fn the_flush_after_nothing_came_is_not_postponed() {
        let mut outbox = Outbox::default();
        assert!(!outbox.postpones());
        outbox.take(&[IoSlice::new(&[1])]);
        assert!(outbox.postpones());
        assert!(!outbox.postpones());
        outbox.take(&[IoSlice::new(&[2])]);
        assert!(outbox.postpones());
        assert_eq!(outbox.waiting(), [1, 2]);
    }
}
