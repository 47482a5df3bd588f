//! What calls hold of what they have read, all together.
//!
//! Who gets no more is refused, not kept waiting: what a waiting call has not read takes room
//! in its connection's window, and those that have memory would wait for theirs behind it. So
//! that nobody is refused for long, who has some while it is short has to go on sending.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// A call gets at most this part of what it leaves: the more is taken, the less for one, so
/// that those who need little find some for long.
const PART: u64 = 2;

/// How long a call that holds memory may bring nothing while it is short.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// When a call that was refused may be tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The memory of all calls.
#[derive(Clone, Debug)]
pub(super) struct Memory(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    most: u64,
    taken: AtomicU64,
}

/// What a call has of it, until it is dropped.
#[derive(Debug)]
pub struct Share {
    pool: Arc<Pool>,
    bytes: u64,
}

impl Memory {
    /// So many bytes, of which nobody has any.
    pub(super) fn new(most: u64) -> Self {
        let taken = AtomicU64::new(0);
        Self(Arc::new(Pool { most, taken }))
    }

    /// A share that has to grow before it is one.
    pub(super) fn share(&self) -> Share {
        let pool = Arc::clone(&self.0);
        Share { pool, bytes: 0 }
    }
}

impl Share {
    /// Takes more.
    ///
    /// # Errors
    /// UNAVAILABLE if that is too much of what others leave.
    pub fn grow(&mut self, bytes: u64) -> Result<(), Status> {
        let Pool { most, taken } = &*self.pool;
        if bytes == 0 {
            return Ok(());
        }
        if bytes > *most {
            return Err(exhausted());
        }
        // Tried and undone, since it mostly succeeds. That others may be refused for what is
        // undone, and numbers beyond the most, do no harm.
        let all = taken.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let own = self.bytes + bytes;
        if own > most.saturating_sub(all) / PART {
            taken.fetch_sub(bytes, Ordering::Relaxed);
            return Err(exhausted());
        }
        self.bytes = own;
        Ok(())
    }

    /// Gives all of it back.
    pub(super) fn clear(&mut self) {
        if self.bytes > 0 {
            self.pool.taken.fetch_sub(self.bytes, Ordering::Relaxed);
            self.bytes = 0;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whether others may need it: half of all is taken.
    pub(super) fn is_short(&self) -> bool {
        !self.is_empty() && self.pool.taken.load(Ordering::Relaxed) > self.pool.most / 2
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What is answered who gets no more.
pub(super) fn exhausted() -> Status {
    let details = ErrorDetails::with_retry_info(Some(RETRY_AFTER));
    let text = "the calls under way hold all the memory that they may have together";
    Status::with_error_details(Code::Unavailable, text, details)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn shares_add_up_to_no_more_than_all() {
        let memory = Memory::new(256 * MIB);
        let taken = || memory.0.taken.load(Ordering::Relaxed);
        let mut large: Vec<Share> = Vec::new();
        loop {
            let mut share = memory.share();
            if share.grow(4 * MIB).is_err() {
                break;
            }
            large.push(share);
        }
        assert!(taken() <= 248 * MIB && large.len() > 50, "{}", large.len());
        assert!(large[0].is_short());
        let mut small = memory.share();
        assert!(!small.is_short(), "it has none");
        small.grow(MIB).unwrap();
        let error = small.grow(64 * MIB).unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        assert!(error.get_error_details().retry_info().is_some());
        assert!(small.grow(u64::MAX).is_err());
        large.clear();
        small.grow(32 * MIB).unwrap();
        assert!(!small.is_short());
        small.clear();
        assert_eq!(taken(), 0);
    }

    #[test]
    fn however_small_they_are_all_are_counted() {
        let memory = Memory::new(4096);
        let mut shares: Vec<Share> = (0..8192).map(|_| memory.share()).collect();
        let got = shares.iter_mut().filter_map(|share| share.grow(1).ok());
        assert!((4090..4096).contains(&got.count()));
    }
}
