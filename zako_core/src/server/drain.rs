//! How long an end may take.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// How long a shutdown waits for what runs. Can be changed until the shutdown begins.
#[derive(Clone, Debug)]
pub struct DrainLimit(Arc<Mutex<Duration>>);

impl DrainLimit {
    pub(super) fn new(limit: Duration) -> Self {
        Self(Arc::new(Mutex::new(limit)))
    }

    /// Another one from now on.
    pub fn set(&self, limit: Duration) {
        *self.0.lock() = limit;
    }

    pub(super) fn get(&self) -> Duration {
        *self.0.lock()
    }
}
