//! Time as tokens and sessions see it.

use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Tells the time. Tests set their own.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// A moment that never lies before one told earlier.
    fn now(&self) -> Instant;
}

/// The machine's monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct ManualClock(Mutex<Instant>);

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }
}

impl ManualClock {
    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        *self.0.lock() += by;
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        *self.0.lock()
    }
}
