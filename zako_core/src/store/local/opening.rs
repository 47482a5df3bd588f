//! Waiting for a store whose index is still being rebuilt.

use std::sync::OnceLock;

use tokio::sync::Notify;

use crate::cas::{CasError, ErrorKind, Result};

#[derive(Debug, Default)]
pub(super) struct Opening {
    outcome: OnceLock<Result<()>>,
    done: Notify,
}

impl Opening {
    /// The index is whole, or it can't be rebuilt.
    pub(super) fn finish(&self, outcome: Result<()>) {
        let _ = self.outcome.set(outcome);
        self.done.notify_waiters();
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
