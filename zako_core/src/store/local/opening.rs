//! Waiting for a store whose index is still being rebuilt.

use std::sync::OnceLock;

use tokio::sync::Notify;

use crate::cas::Result;

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
