//! Read buffers that are used again.
//!
//! A fresh buffer of this size costs its page faults, which is more than reading
//! into it; these are handed out as `Bytes` and come back when the last clone drops.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// The step in which files are read, and the size of a small buffer, in bytes.
pub(super) const STEP: usize = 256 << 10;

const LARGE: usize = 1 << 20;

/// Smaller buffers are cheap to make anew. And a kept buffer is at least half full,
/// so that `Bytes` that live on don't hold much more memory than they show.
const POOL_FROM: usize = STEP / 2;

#[derive(Debug, Default)]
pub(super) struct BufferPool {
    steps: Mutex<Vec<Box<[u8]>>>,
    large: Mutex<Vec<Box<[u8]>>>,
}

/// So many of each size are kept: 12 MiB in all.
const MOST_STEPS: usize = 32;
const MOST_LARGE: usize = 4;

/// A buffer of the length asked for; derefs to it.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    length: usize,
    pool: Arc<BufferPool>,
}

impl BufferPool {
    /// A buffer of this length with whatever content.
    pub(super) fn take(self: &Arc<Self>, length: usize) -> Buffer {
        let kept = if (POOL_FROM..=STEP).contains(&length) {
            Some(self.steps.lock().pop().unwrap_or_else(|| zeroed(STEP)))
        } else if (LARGE / 2..=LARGE).contains(&length) {
            Some(self.large.lock().pop().unwrap_or_else(|| zeroed(LARGE)))
        } else {
            None
        };
        Buffer {
            bytes: kept.unwrap_or_else(|| zeroed(length)),
            length,
            pool: Arc::clone(self),
        }
    }
}

fn zeroed(length: usize) -> Box<[u8]> {
    vec![0; length].into_boxed_slice()
}

impl Buffer {
    pub(super) fn freeze(self) -> Bytes {
        if !matches!(self.bytes.len(), STEP | LARGE) {
            let mut this = self;
            return Bytes::from(std::mem::take(&mut this.bytes));
        }
        Bytes::from_owner(self)
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let (kept, most) = match self.bytes.len() {
            STEP => (&self.pool.steps, MOST_STEPS),
            LARGE => (&self.pool.large, MOST_LARGE),
            _ => return,
        };
        let mut kept = kept.lock();
        if kept.len() < most {
            kept.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back() {
        let pool = Arc::new(BufferPool::default());
        let mut buffer = pool.take(200_000);
        buffer[199_999] = 7;
        let bytes = buffer.freeze();
        assert_eq!((bytes.len(), bytes[199_999]), (200_000, 7));
        let clone = bytes.slice(10..20);
        drop(bytes);
        assert_eq!(pool.steps.lock().len(), 0);
        drop(clone);
        assert_eq!(pool.steps.lock().len(), 1);
        assert_eq!(pool.take(10).freeze().len(), 10);
        assert_eq!(pool.take(LARGE + 1).len(), LARGE + 1);
    }
}
