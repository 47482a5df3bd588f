//! Trying again.

use std::time::Duration;

use super::TransferOptions;
use crate::cas::{CasError, Result};

/// Counts the tries of one thing and waits between them.
pub(crate) struct Retry {
    options: TransferOptions,
    used: u32,
}

impl Retry {
    pub(crate) fn new(options: &TransferOptions) -> Self {
        Self {
            options: options.clone(),
            used: 0,
        }
    }

    /// There was progress: the next error is the first one again.
    pub(crate) fn progressed(&mut self) {
        self.used = 0;
    }

    /// Waits until the next try.
    ///
    /// # Errors
    /// `error` itself, if it isn't transient or was seen too often.
    pub(crate) async fn wait(&mut self, error: CasError) -> Result<()> {
        if !error.is_transient() {
            return Err(error);
        }
        self.wait_anyway(error).await
    }

    /// [`wait`](Self::wait), even though the error isn't transient as such.
    pub(crate) async fn wait_anyway(&mut self, error: CasError) -> Result<()> {
        let asked = error.retry_after().unwrap_or_default();
        if self.used >= self.options.retries || asked > self.options.max_backoff {
            return Err(error);
        }
        let doubled = self.options.backoff.saturating_mul(1 << self.used.min(20));
        self.used += 1;
        let delay = doubled.min(self.options.max_backoff);
        let delay = delay.mul_f64(0.5 + rand::random::<f64>() / 2.0).max(asked);
        tracing::debug!(%error, ?delay, "trying again");
        if delay > Duration::ZERO {
            tokio::time::sleep(delay).await;
        }
        Ok(())
    }
}
