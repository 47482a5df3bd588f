//! What all connections together may have sent without it being read.

use std::sync::Arc;

use parking_lot::Mutex;

/// The window that every connection of HTTP/2 begins with, in bytes: there is no smaller
/// one.
const LEAST: u32 = 65_535;

/// The longest frame that every peer may send.
const LEAST_FRAME: u32 = 16_384;

/// A connection gets at most this part of what is left.
const PART: u64 = 64;

/// The memory for what was received and isn't read, shared out as windows.
#[derive(Debug)]
pub(super) struct Windows {
    left: Arc<Mutex<u64>>,
}

/// A connection's window, until it is dropped.
#[derive(Debug)]
pub(super) struct Window {
    left: Arc<Mutex<u64>>,
    bytes: u32,
    /// What it took of that.
    charged: u64,
}

impl Windows {
    pub(super) fn new(bytes: u64) -> Self {
        let left = Arc::new(Mutex::new(bytes));
        Self { left }
    }

    /// A window of `most` bytes while there is plenty, of less and less when there isn't.
    pub(super) fn take(&self, most: u32) -> Window {
        let mut left = self.left.lock();
        let part = u32::try_from(*left / PART).unwrap_or(u32::MAX);
        let bytes = part.min(most).max(LEAST);
        // The least window is there for everyone, whose number is bounded elsewhere.
        let charged = u64::from(bytes).min(*left);
        *left -= charged;
        drop(left);
        Window {
            left: Arc::clone(&self.left),
            bytes,
            charged,
        }
    }
}

impl Window {
    pub(super) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// The longest frame, where `most` are allowed: a part of one that never becomes whole
    /// is outside the window.
    pub(super) fn frame_bytes(&self, most: u32) -> u32 {
        most.min(self.bytes / 4).max(LEAST_FRAME)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        *self.left.lock() += self.charged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_shrink_so_that_their_sum_is_bounded() {
        const MOST: u32 = 4 << 20;
        let windows = Windows::new(1 << 30);
        let all: Vec<Window> = (0..4096).map(|_| windows.take(MOST)).collect();
        assert_eq!(all[100].bytes(), MOST);
        assert_eq!(all[100].frame_bytes(1 << 18), 1 << 18);
        assert_eq!(all[4095].bytes(), LEAST);
        assert_eq!(all[4095].frame_bytes(1 << 18), LEAST_FRAME);
        let sum: u64 = all.iter().map(|window| u64::from(window.bytes())).sum();
        assert!(sum <= (1 << 30) + 4096 * u64::from(LEAST), "{sum}");
        drop(all);
        assert_eq!(*windows.left.lock(), 1 << 30);
        assert_eq!(windows.take(MOST).bytes(), MOST);
    }
}
