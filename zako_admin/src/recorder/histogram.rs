//! Durations, counted by their size.

use std::time::Duration;

/// Parts of each doubling.
const PARTS: usize = 4;

/// Buckets: up to 2^27 µs, which are two minutes.
const BUCKETS: usize = 26 * PARTS;

/// Durations from a microsecond to two minutes, known to a quarter of their doubling.
#[derive(Clone, Debug)]
pub(super) struct Histogram([u32; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Histogram {
    pub(super) fn count(&mut self, duration: Duration) {
        let bucket = &mut self.0[bucket(duration.as_micros().try_into().unwrap_or(u64::MAX))];
        *bucket = bucket.saturating_add(1);
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (own, other) in self.0.iter_mut().zip(&other.0) {
            *own = own.saturating_add(*other);
        }
    }

    /// The duration that this share of all is not longer than, in seconds; `None` of
    /// nothing.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let total: u64 = self.0.iter().map(|count| u64::from(*count)).sum();
        if total == 0 {
            return None;
        }
        let wanted = ((total as f64 * share).ceil() as u64).clamp(1, total);
        let mut seen = 0;
        let found = self.0.iter().position(|count| {
            seen += u64::from(*count);
            seen >= wanted
        });
        // The middle of the bucket.
        let at = found.unwrap_or(BUCKETS - 1);
        Some((floor(at) + floor(at + 1)) / 2.0 / 1e6)
    }
}

/// The bucket of so many microseconds.
fn bucket(micros: u64) -> usize {
    if micros < PARTS as u64 {
        return micros as usize;
    }
    let doubling = micros.ilog2() as usize;
    // The two bits behind the first.
    let part = (micros >> (doubling - 2)) as usize & (PARTS - 1);
    ((doubling - 1) * PARTS + part).min(BUCKETS - 1)
}

/// Where a bucket begins, in microseconds.
fn floor(bucket: usize) -> f64 {
    if bucket < PARTS {
        return bucket as f64;
    }
    let (doubling, part) = (bucket / PARTS + 1, bucket % PARTS);
    (1.0 + part as f64 / PARTS as f64) * (1u64 << doubling) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_have_no_gaps() {
        for micros in 0..200_000u64 {
            let at = bucket(micros);
            assert!(floor(at) <= micros as f64, "{micros}");
            assert!(floor(at + 1) > micros as f64, "{micros}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_near() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for micros in 1..=1000 {
            histogram.count(Duration::from_micros(micros));
        }
        let near = |share, expected: f64| {
            let found = histogram.quantile(share).unwrap() * 1e6;
            assert!((found / expected - 1.0).abs() < 0.15, "{share}: {found}");
        };
        near(0.5, 500.0);
        near(0.99, 990.0);
        let mut twice = histogram.clone();
        twice.add(&histogram);
        assert_eq!(twice.quantile(0.9), histogram.quantile(0.9));
    }
}
