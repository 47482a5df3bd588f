//! How many bytes are leased: a ring of buckets, one a minute of lease ends.
//!
//! The leases themselves stand in the index. Counting them here costs an atomic
//! addition for each that changes its minute, and a sum when somebody asks.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

/// Ends of leases lie less than this many minutes ahead.
const MINUTES: u32 = 2048;

/// The longest lease that the ledger can count, in seconds.
pub(super) const MOST_LEASE_SECONDS: u64 = (MINUTES as u64 - 2) * 60;

#[derive(Debug)]
pub(super) struct LeaseLedger {
    /// Bytes whose lease ends in the minute, modulo [`MINUTES`]. May wrap below
    /// zero between two racing changes of one lease; sums come out right.
    buckets: Box<[AtomicU64]>,
    /// All minutes before this one are cleared.
    cleared: AtomicU32,
    /// Held while buckets are cleared, once a minute.
    clearing: Mutex<()>,
}

impl LeaseLedger {
    pub(super) fn new() -> Self {
        Self {
            buckets: (0..MINUTES).map(|_| AtomicU64::new(0)).collect(),
            cleared: AtomicU32::new(0),
            clearing: Mutex::new(()),
        }
    }

    /// A lease on `size` bytes that ended at `before` now ends at `until`; times
    /// in seconds.
    pub(super) fn extend(&self, before: u32, until: u32, now: u32, size: u64) {
        let now = self.clear(now);
        let counted = is_counted(before, now);
        if counted && before / 60 == until / 60 {
            return;
        }
        if counted {
            self.bucket(before).fetch_sub(size, Ordering::Relaxed);
        }
        self.bucket(until).fetch_add(size, Ordering::Relaxed);
    }

    /// A leased blob of `size` bytes is gone.
    pub(super) fn end(&self, until: u32, now: u32, size: u64) {
        let now = self.clear(now);
        if is_counted(until, now) {
            self.bucket(until).fetch_sub(size, Ordering::Relaxed);
        }
    }

    /// The bytes under a lease, to the minute.
    pub(super) fn leased(&self, now: u32) -> u64 {
        self.clear(now);
        let sum = self.buckets.iter().fold(0u64, |sum, bucket| {
            sum.wrapping_add(bucket.load(Ordering::Relaxed))
        });
        // Two threads that change one lease may be seen between their steps.
        if sum > i64::MAX as u64 { 0 } else { sum }
    }

    fn bucket(&self, until: u32) -> &AtomicU64 {
        &self.buckets[(until / 60 % MINUTES) as usize]
    }

    /// Empties the buckets of the minutes that have passed, for reuse. The time by
    /// which buckets are empty: another thread's clock reading may be later.
    fn clear(&self, now: u32) -> u32 {
        let minute = now / 60;
        let cleared = self.cleared.load(Ordering::Acquire);
        if cleared >= minute {
            return now.max(cleared.saturating_mul(60));
        }
        let _clearing = self.clearing.lock();
        let cleared = self.cleared.load(Ordering::Relaxed);
        for passed in (cleared..minute).rev().take(MINUTES as usize) {
            self.buckets[(passed % MINUTES) as usize].store(0, Ordering::Relaxed);
        }
        self.cleared.fetch_max(minute, Ordering::Release);
        now
    }
}

/// Whether a lease that ends then stands in a bucket: those of this very minute
/// do, even if they have ended by the second.
fn is_counted(until: u32, now: u32) -> bool {
    until > 0 && until / 60 >= now / 60
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_until_the_minute_has_passed() {
        let ledger = LeaseLedger::new();
        ledger.extend(0, 130, 10, 100);
        ledger.extend(0, 3600, 10, 7);
        assert_eq!(ledger.leased(10), 107);
        assert_eq!(ledger.leased(179), 107);
        assert_eq!(ledger.leased(180), 7);
        assert_eq!(ledger.leased(1_000_000), 0);
    }

    #[test]
    fn an_extended_lease_counts_once() {
        let ledger = LeaseLedger::new();
        ledger.extend(0, 130, 10, 100);
        ledger.extend(130, 150, 20, 100);
        ledger.extend(150, 600, 30, 100);
        assert_eq!(ledger.leased(30), 100);
        assert_eq!(ledger.leased(500), 100);
        ledger.end(600, 500, 100);
        assert_eq!(ledger.leased(500), 0);
    }

    #[test]
    fn an_ended_lease_is_not_taken_off_twice() {
        let ledger = LeaseLedger::new();
        ledger.extend(0, 130, 10, 100);
        ledger.extend(0, 900, 10, 1);
        assert_eq!(ledger.leased(400), 1);
        ledger.end(130, 400, 100);
        assert_eq!(ledger.leased(400), 1);
        // A lease that ended in an earlier minute begins anew.
        ledger.extend(130, 900, 400, 100);
        assert_eq!(ledger.leased(400), 101);
    }

    #[test]
    fn a_lease_renewed_in_the_minute_of_its_end_counts_once() {
        let ledger = LeaseLedger::new();
        ledger.extend(0, 130, 10, 100);
        ledger.extend(130, 900, 150, 100);
        assert_eq!(ledger.leased(150), 100);
    }
}
