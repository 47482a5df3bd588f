//! Waiting for a store whose index is still being rebuilt.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::cas::{CasError, ErrorKind, Result};

#[derive(Debug, Default)]
pub(super) struct Opening {
    outcome: OnceLock<Result<()>>,
    done: Notify,
    /// Parts of the work that are done, of how many: 0 until that is known.
    parts: (AtomicU64, AtomicU64),
}

impl Opening {
    /// The index is whole, or it can't be rebuilt.
    pub(super) fn finish(&self, outcome: Result<()>) {
        let _ = self.outcome.set(outcome);
        self.done.notify_waiters();
    }

    /// The work has this many parts.
    pub(super) fn expect(&self, parts: u64) {
        self.parts.1.store(parts, Ordering::Relaxed);
    }

    /// One more of them is done.
    pub(super) fn part(&self) {
        self.parts.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The share that is done; `None` once it is finished.
    pub(super) fn share(&self) -> Option<f64> {
        let of = self.parts.1.load(Ordering::Relaxed).max(1);
        let done = self.parts.0.load(Ordering::Relaxed).min(of);
        (self.outcome.get().is_none()).then(|| done as f64 / of as f64)
    }

    /// Finishes with an error when it drops, unless it is finished before: whoever
    /// waits must not wait for a thread that has panicked.
    pub(super) fn guard(&self) -> impl Drop + '_ {
        struct Guard<'a>(&'a Opening);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                self.0.finish(Err(CasError::new(
                    ErrorKind::Internal,
                    "the thread that opened the store has panicked",
                )));
            }
        }
        Guard(self)
    }

    /// Waits until then. One atomic load when it has been.
    pub(super) async fn wait(&self) -> Result<()> {
        loop {
            let done = self.done.notified();
            if let Some(outcome) = self.outcome.get() {
                return outcome.clone();
            }
            done.await;
        }
    }

    /// As [`wait`](Self::wait), for a thread.
    pub(super) fn wait_blocking(&self) -> Result<()> {
        self.outcome.wait().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_until_it_is_finished() {
        let opening = Opening::default();
        assert_eq!(opening.share(), Some(0.0));
        opening.expect(4);
        opening.part();
        assert_eq!(opening.share(), Some(0.25));
        // Files that came in between.
        (0..9).for_each(|_| opening.part());
        assert_eq!(opening.share(), Some(1.0));
        opening.finish(Ok(()));
        assert_eq!(opening.share(), None);
    }
}
