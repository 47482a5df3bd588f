//! A rate of bytes. What has moved is booked even where it is more than there was room
//! for: governor's own limiters refuse then, and bytes that came can't be sent back.

use std::convert::Infallible;
use std::num::NonZeroU64;
use std::time::Duration;

use governor::clock::{Clock, Reference};
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed, StateStore};

/// What may move at once after a rest, in time at the rate.
const BURST: Duration = Duration::from_secs(1);

const SECOND: u128 = 1_000_000_000;

/// The generic cell rate algorithm whose theoretical arrival time may run ahead.
#[derive(Debug)]
pub(super) struct Pacer<C: Clock> {
    per_second: NonZeroU64,
    state: InMemoryState,
    clock: C,
    start: C::Instant,
}

impl<C: Clock> Pacer<C> {
    pub(super) fn new(per_second: NonZeroU64, clock: C) -> Self {
        Self {
            per_second,
            state: InMemoryState::default(),
            start: clock.now(),
            clock,
        }
    }

    fn now(&self) -> Nanos {
        self.clock.now().duration_since(self.start)
    }

    /// Books bytes.
    pub(super) fn book(&self, bytes: u64) {
        let cost = u128::from(bytes) * SECOND / u128::from(self.per_second.get());
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        let now = self.now();
        let booked = self.state.measure_and_replace(&NotKeyed::NonKey, |until| {
            let from = until.unwrap_or(now).max(now);
            let until = Nanos::new(from.as_u64().saturating_add(cost));
            Ok::<_, Infallible>(((), until))
        });
        let Ok(()) = booked;
    }

    /// For how long nothing more should move.
    pub(super) fn debt(&self) -> Duration {
        Duration::from(self.ahead()).saturating_sub(BURST)
    }

    /// Whether it is as if nothing had ever moved.
    pub(super) fn rests(&self) -> bool {
        self.ahead() == Nanos::default()
    }

    fn ahead(&self) -> Nanos {
        // A decision to change nothing is how the state is read.
        let read = self.state.measure_and_replace(&NotKeyed::NonKey, |until| {
            Err::<(Infallible, Nanos), _>(until.unwrap_or_default())
        });
        let until = read.err().unwrap_or_default();
        until.saturating_sub(self.now())
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn pacer(per_second: u64) -> (Pacer<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        clock.advance(Duration::from_secs(5));
        (
            Pacer::new(NonZeroU64::new(per_second).unwrap(), clock.clone()),
            clock,
        )
    }

    #[test]
    fn a_second_is_free_and_the_rest_is_waited_out() {
        let (pacer, clock) = pacer(1000);
        pacer.book(1000);
        assert_eq!(pacer.debt(), Duration::ZERO);
        pacer.book(500);
        assert_eq!(pacer.debt(), Duration::from_millis(500));
        clock.advance(Duration::from_millis(500));
        assert_eq!(pacer.debt(), Duration::ZERO);
        assert!(!pacer.rests());
        clock.advance(Duration::from_secs(1));
        assert!(pacer.rests());
        // A rest of an hour is worth a second.
        clock.advance(Duration::from_secs(3600));
        pacer.book(3000);
        assert_eq!(pacer.debt(), Duration::from_secs(2));
    }

    #[test]
    fn a_long_stream_gets_its_rate_at_any_speed() {
        for rate in [64 << 10, 1_000_000_007, 100_000_000_000] {
            let (pacer, clock) = pacer(rate);
            let (mut moved, mut took) = (0u64, Duration::ZERO);
            while took < Duration::from_secs(100) {
                pacer.book(1 << 18);
                moved += 1 << 18;
                // More pieces than a test should take make one.
                pacer.book(rate / 100);
                moved += rate / 100;
                let debt = pacer.debt();
                clock.advance(debt);
                took += debt;
            }
            let fair = u128::from(rate) * (took + BURST).as_nanos() / SECOND;
            let off = u128::from(moved).abs_diff(fair);
            assert!(off <= fair / 1000 + (1 << 18), "{rate}: {moved} of {fair}");
        }
    }
}
