//! How many streams a client should run at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long the store takes for a mebibyte: a moving average over all streams.
#[derive(Debug, Default)]
pub struct ServiceTime {
    /// Nanoseconds a MiB; 0 until something was measured.
    average: AtomicU64,
}

const MIB: u64 = 1024 * 1024;

/// What a core spends on a MiB's way between socket and store (hashing, copies in
/// the kernel, framing).
const CPU_PER_MIB: Duration = Duration::from_micros(500);

/// A step smaller than this costs as much as one of this size.
const SMALLEST_STEP: u64 = 64 * 1024;

/// More streams than this for each core only take memory.
const MOST_A_CORE: u64 = 32;

impl ServiceTime {
    /// Takes a step into account: the store needed `time` for `bytes`.
    pub fn record(&self, bytes: usize, time: Duration) {
        let bytes = u128::from((bytes as u64).max(SMALLEST_STEP));
        let sample = time.as_nanos() * u128::from(MIB) / bytes;
        let sample = u64::try_from(sample).unwrap_or(u64::MAX).max(1);
        let average = self.average.load(Ordering::Relaxed);
        // A lost update among racing streams is one sample less.
        let next = match average {
            0 => sample,
            _ => average - average / 8 + sample / 8,
        };
        self.average.store(next.max(1), Ordering::Relaxed);
    }

    /// The average so far, for a MiB.
    pub fn per_mib(&self) -> Duration {
        Duration::from_nanos(self.average.load(Ordering::Relaxed))
    }

    /// The streams that one session should run.
    ///
    /// A core is kept busy by `1 + wait / cpu` streams, when each waits `wait` for
    /// the store for every `cpu` that it computes. All sessions share the cores'
    /// streams; each gets at least one, and at most `most`.
    pub fn recommend(&self, cores: usize, sessions: usize, most: u32) -> u32 {
        let wait = self.average.load(Ordering::Relaxed);
        let busy = 1 + wait.div_ceil(CPU_PER_MIB.as_nanos() as u64);
        // Two streams a core at least: one sends while the other reads.
        let a_core = busy.clamp(2, MOST_A_CORE);
        let share = (cores as u64 * a_core).div_ceil(sessions.max(1) as u64);
        u32::try_from(share)
            .unwrap_or(u32::MAX)
            .clamp(1, most.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_cores_and_slower_stores_mean_more_streams_and_more_sessions_fewer() {
        let fast = ServiceTime::default();
        let slow = ServiceTime::default();
        for _ in 0..100 {
            fast.record(1 << 20, Duration::from_micros(100));
            slow.record(1 << 20, Duration::from_millis(5));
        }
        assert_eq!(fast.recommend(2, 1, 256), 4);
        assert_eq!(slow.recommend(2, 1, 256), 22);
        assert_eq!(slow.recommend(8, 1, 256), 88);
        assert_eq!(slow.recommend(8, 1, 16), 16);
        assert_eq!(slow.recommend(2, 4, 256), 6);
        assert_eq!(slow.recommend(2, 10_000, 256), 1);
    }

    #[test]
    fn the_average_follows_and_never_overflows() {
        let time = ServiceTime::default();
        time.record(1, Duration::MAX);
        assert_eq!(time.recommend(2, 1, 1000), 64);
        for _ in 0..1000 {
            time.record(1 << 20, Duration::from_micros(10));
        }
        assert!(time.per_mib() < Duration::from_micros(20), "{time:?}");
        time.record(0, Duration::ZERO);
    }
}
