//! Holding off a road that fails.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The longest time for which RDMA is not tried.
const LONGEST: Duration = Duration::from_secs(60);

/// Holds RDMA off for a while after it failed, twice as long after each further failure
/// that no success came before.
#[derive(Debug)]
pub(super) struct Breaker {
    first: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Since the last success.
    failures: u32,
    /// The last session that failed. All transfers of one tell of the same failure.
    failed: u64,
    /// Until when, and why.
    held_off: Option<(Instant, String)>,
}

impl Breaker {
    /// One that holds it off for `first` at first.
    pub(super) fn new(first: Duration) -> Self {
        Self {
            first,
            state: Mutex::default(),
        }
    }

    /// Why RDMA should not be tried now, and for how long.
    pub(super) fn held_off(&self) -> Option<(String, Duration)> {
        let state = self.state.lock();
        let (until, reason) = state.held_off.as_ref()?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| (reason.clone(), left))
    }

    /// A session failed; sessions are numbered from 1 on.
    pub(super) fn failed(&self, session: u64, reason: &str) {
        let mut state = self.state.lock();
        if session <= state.failed {
            return;
        }
        state.failed = session;
        let doubled = 1u32.checked_shl(state.failures).unwrap_or(u32::MAX);
        let pause = self.first.saturating_mul(doubled).min(LONGEST);
        state.failures = state.failures.saturating_add(1);
        tracing::warn!(
            reason,
            ?pause,
            "RDMA failed: large blobs go by gRPC for a while"
        );
        state.held_off = Some((Instant::now() + pause, reason.to_owned()));
    }

    /// A transfer of a session went well to its end. Setting a session up proves less: its
    /// check moves a few bytes only.
    pub(super) fn succeeded(&self, session: u64) {
        let mut state = self.state.lock();
        if session > state.failed {
            state.failures = 0;
            state.held_off = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    /// For how long it is held off, to the second.
    fn seconds(breaker: &Breaker) -> u64 {
        let left = breaker.held_off().map(|(_, left)| left);
        left.map_or(0, |left| left.as_millis().div_ceil(1000) as u64)
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_doubles_up_to_a_minute_and_begins_anew_after_a_success() {
        let breaker = Breaker::new(Duration::from_secs(1));
        assert!(breaker.held_off().is_none());
        let mut session = 0;
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            session += 1;
            breaker.failed(session, "why");
            assert_eq!(seconds(&breaker), expected);
            assert_eq!(breaker.held_off().unwrap().0, "why");
            advance(Duration::from_secs(expected)).await;
            assert!(breaker.held_off().is_none());
        }
        breaker.succeeded(session + 1);
        breaker.failed(session + 2, "again");
        assert_eq!(seconds(&breaker), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_failure_of_many_transfers_counts_once() {
        let breaker = Breaker::new(Duration::from_secs(1));
        for _ in 0..10 {
            breaker.failed(1, "first");
        }
        assert_eq!(seconds(&breaker), 1);
        // One that ended well beside the others proves nothing.
        breaker.succeeded(1);
        assert_eq!(seconds(&breaker), 1);
        breaker.failed(2, "second");
        assert_eq!(seconds(&breaker), 2);
        // Late news of the first session.
        breaker.failed(1, "late");
        assert_eq!(breaker.held_off().unwrap().0, "second");
    }
}
