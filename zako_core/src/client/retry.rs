//! Trying again what failed in passing.

use std::time::Duration;

use rand::Rng;

use crate::cas::{CasError, ErrorKind};

/// When what failed in passing is tried again: after a random time between 0 and
/// `base · 2^n` (at most `cap`), and not before the time that the server named.
///
/// What moved bytes starts counting anew: a long transfer over a bad line comes
/// through as long as each attempt gets further.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often something is tried in all; 1 is never again.
    pub attempts: u32,
    /// The longest first pause.
    pub base: Duration,
    /// The longest pause. A server that asks for a longer one is not waited for:
    /// its error goes to the caller.
    pub cap: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 8,
            base: Duration::from_millis(50),
            cap: Duration::from_secs(5),
        }
    }
}

impl RetryPolicy {
    /// Nothing is tried again.
    pub const NEVER: Self = Self {
        attempts: 1,
        base: Duration::ZERO,
        cap: Duration::ZERO,
    };

    /// A policy of so many attempts with pauses between `base` and `cap`.
    pub const fn new(attempts: u32, base: Duration, cap: Duration) -> Self {
        Self {
            attempts,
            base,
            cap,
        }
    }
}

/// Where one operation stands with its attempts.
#[derive(Debug)]
pub(super) struct Backoff {
    policy: RetryPolicy,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(policy: RetryPolicy) -> Self {
        Self {
            policy,
            failures: 0,
        }
    }

    /// Says that the operation got further: its failures so far don't count.
    pub(super) fn progressed(&mut self) {
        self.failures = 0;
    }

    /// Counts a failure and waits until it is time for another attempt.
    ///
    /// # Errors
    /// `error` itself, if it may not be tried again or was often enough.
    pub(super) async fn pause(&mut self, error: CasError) -> Result<(), CasError> {
        let Some(pause) = self.next_pause(&error) else {
            return Err(error);
        };
        tracing::debug!(%error, ?pause, failures = self.failures, "trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }

    fn next_pause(&mut self, error: &CasError) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.policy.attempts || !may_retry(error) {
            return None;
        }
        let asked = error.retry_after().unwrap_or_default();
        if asked > self.policy.cap {
            return None;
        }
        let doubled = 1u32.checked_shl(self.failures - 1).unwrap_or(u32::MAX);
        let most = self
            .policy
            .base
            .saturating_mul(doubled)
            .min(self.policy.cap);
        let jitter = rand::rng().random_range(Duration::ZERO..=most);
        // Those who were told the same time must not come back at once.
        Some(asked + jitter)
    }
}

/// Whether the same call may succeed when it is made again as it was.
fn may_retry(error: &CasError) -> bool {
    match error.kind() {
        ErrorKind::Unavailable | ErrorKind::Stale => true,
        ErrorKind::NoSpace => error.retry_after().is_some(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    fn unavailable() -> CasError {
        CasError::new(ErrorKind::Unavailable, "gone")
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_up_to_the_cap_and_attempts_end() {
        let policy = RetryPolicy::new(6, Duration::from_secs(1), Duration::from_secs(5));
        let mut longest = [Duration::ZERO; 5];
        for _ in 0..200 {
            let mut backoff = Backoff::new(policy);
            for longest in &mut longest {
                let begin = Instant::now();
                backoff.pause(unavailable()).await.unwrap();
                *longest = begin.elapsed().max(*longest);
            }
            let error = backoff.pause(unavailable()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
        }
        let bounds = [1, 2, 4, 5, 5].map(Duration::from_secs);
        let rounding = Duration::from_millis(2);
        for (longest, bound) in longest.into_iter().zip(bounds) {
            // Of 200 draws one is in the upper half, but for one time in 2^200.
            assert!(longest > bound / 2, "{longest:?} of {bound:?}");
            assert!(longest <= bound + rounding, "{longest:?} of {bound:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_servers_time_is_kept_unless_it_is_too_long() {
        let policy = RetryPolicy::new(3, Duration::from_millis(10), Duration::from_secs(2));
        let asked = Duration::from_secs(1);
        let full = || CasError::new(ErrorKind::NoSpace, "full");
        let mut backoff = Backoff::new(policy);
        let begin = Instant::now();
        backoff.pause(full().with_retry_after(asked)).await.unwrap();
        assert!(begin.elapsed() >= asked);
        let long = full().with_retry_after(Duration::from_secs(3));
        assert!(backoff.pause(long).await.is_err());
        assert!(Backoff::new(policy).pause(full()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn progress_starts_the_count_anew() {
        let mut backoff = Backoff::new(RetryPolicy::new(2, Duration::ZERO, Duration::ZERO));
        for _ in 0..10 {
            backoff.pause(unavailable()).await.unwrap();
            backoff.progressed();
        }
        backoff.pause(unavailable()).await.unwrap();
        assert!(backoff.pause(unavailable()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_only_fail_again_is_not_repeated() {
        for kind in [
            ErrorKind::NotFound,
            ErrorKind::InvalidArgument,
            ErrorKind::Mismatch,
            ErrorKind::PermissionDenied,
            ErrorKind::Corrupt,
            ErrorKind::Internal,
        ] {
            let mut backoff = Backoff::new(RetryPolicy::default());
            let error = backoff.pause(CasError::new(kind, "no")).await.unwrap_err();
            assert_eq!(error.kind(), kind);
        }
    }
}
