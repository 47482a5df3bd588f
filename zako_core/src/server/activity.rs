//! Connections that make no calls.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What a connection does.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<Mutex<Calls>>);

/// A call under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Busy(Activity);

#[derive(Debug)]
struct Calls {
    running: usize,
    /// When the last one ended.
    rests: Instant,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Calls {
            running: 0,
            rests: Instant::now(),
        })))
    }

    /// A call begins.
    pub(super) fn begin(&self) -> Busy {
        self.0.lock().running += 1;
        Busy(self.clone())
    }

    /// Ends when no call has run for `idle`.
    pub(super) async fn over(&self, idle: Duration) {
        loop {
            let now = Instant::now();
            let due = {
                let calls = self.0.lock();
                match calls.running {
                    0 => calls.rests + idle,
                    _ => now + idle,
                }
            };
            if due <= now {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut calls = self.0.0.lock();
        calls.running -= 1;
        if calls.running == 0 {
            calls.rests = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_rest_without_calls_counts() {
        const IDLE: Duration = Duration::from_secs(600);
        let (activity, began) = (Activity::new(), Instant::now());
        let first = activity.begin();
        let second = activity.begin();
        let over = activity.clone();
        let over = tokio::spawn(async move { over.over(IDLE).await });
        tokio::time::sleep(3 * IDLE).await;
        drop(first);
        tokio::time::sleep(IDLE / 2).await;
        assert!(!over.is_finished());
        drop(second);
        over.await.unwrap();
        assert!(began.elapsed() >= 4 * IDLE + IDLE / 2);
    }
}
