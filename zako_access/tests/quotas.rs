//! Rates and quotas by a clock that only the tests move.
#![allow(clippy::unwrap_used, clippy::field_reassign_with_default, missing_docs)]

use std::net::{IpAddr, Ipv4Addr};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use governor::clock::FakeRelativeClock;
use zako_access::{LimitTable, Limits, Quotas};
use zako_core::access::{
    Account, Allowance, Consumer, Direction, Exceeded, Identity, Limit, Quota, Rights, Role,
};
use zako_core::cas::CasError;

const HOUR: u64 = 3600;

/// Quotas with so many accounts at once, and what moves their time.
struct Test {
    quotas: Quotas<FakeRelativeClock>,
    clock: FakeRelativeClock,
    wall: Arc<AtomicU64>,
}

impl Test {
    fn new(default: Limits, most: usize) -> Self {
        let mut table = LimitTable::default();
        table.default = default;
        Self::of(table, most)
    }

    fn of(table: LimitTable, most: usize) -> Self {
        let (clock, wall) = (FakeRelativeClock::default(), Arc::new(AtomicU64::new(0)));
        clock.advance(Duration::from_secs(1));
        wall.store(400_000 * HOUR, Ordering::Relaxed);
        let told = Arc::clone(&wall);
        let told = Arc::new(move || UNIX_EPOCH + Duration::from_secs(told.load(Ordering::Relaxed)));
        Self {
            quotas: Quotas::with_clocks(table, clock.clone(), told, most),
            clock,
            wall,
        }
    }

    fn begin(&self, host: u32) -> Result<Option<Allowance>, CasError> {
        let address = IpAddr::V4(Ipv4Addr::from_bits(host));
        Allowance::begin(&self.quotas, &Consumer::new(None, Some(address)))
    }

    fn account(&self, name: &str) -> Option<Arc<dyn Account>> {
        let identity = Identity::new(name, Rights::everywhere(Role::Write));
        self.quotas.account(&Consumer::new(Some(&identity), None))
    }
}

fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

fn requests(per_second: u32) -> Limits {
    limits(|limits| limits.requests_per_second = NonZeroU32::new(per_second))
}

fn exceeds(error: &CasError) -> Limit {
    Exceeded::of(error).unwrap().limit
}

#[test]
fn requests_are_admitted_at_their_rate() {
    let test = Test::new(requests(10), 100);
    let mut admitted = 0;
    for _ in 0..60 {
        // More than may be are asked for at each moment.
        admitted += (0..20).filter(|_| test.begin(1).is_ok()).count();
        test.clock.advance(Duration::from_millis(500));
    }
    // A second's worth at once, then the rate.
    assert_eq!(admitted, 10 + 59 * 5);
    assert!(test.begin(2).is_ok(), "another address has its own");
}

#[test]
fn who_waits_as_told_is_admitted() {
    let test = Test::new(requests(4), 100);
    for _ in 0..4 {
        test.begin(1).unwrap();
    }
    for _ in 0..20 {
        let error = test.begin(1).unwrap_err();
        assert_eq!(exceeds(&error), Limit::Requests);
        assert_eq!(Exceeded::of(&error).unwrap().subject, "address:0.0.0.1");
        let after = error.retry_after().unwrap();
        assert_eq!(after, Duration::from_millis(250));
        test.clock.advance(after - Duration::from_nanos(1));
        assert!(test.begin(1).is_err());
        test.clock.advance(Duration::from_nanos(1));
        test.begin(1).unwrap();
    }
}

#[test]
fn streams_are_counted_until_their_last_part_ends() {
    let test = Test::new(limits(|limits| limits.streams = NonZeroU32::new(2)), 100);
    let first = test.begin(1).unwrap().unwrap();
    let _second = test.begin(1).unwrap();
    let part = first.clone();
    drop(first);
    let error = test.begin(1).unwrap_err();
    assert_eq!(exceeds(&error), Limit::Streams);
    drop(part);
    test.begin(1).unwrap();
}

#[test]
fn a_call_that_is_refused_takes_no_stream() {
    let both = limits(|limits| {
        limits.streams = NonZeroU32::new(2);
        limits.requests_per_second = NonZeroU32::new(1);
    });
    let test = Test::new(both, 100);
    test.begin(1).unwrap();
    for _ in 0..100 {
        let error = test.begin(1).unwrap_err();
        assert_eq!(exceeds(&error), Limit::Requests);
    }
}

#[test]
fn who_owes_much_begins_nothing_and_who_owes_little_is_slowed_down() {
    let rate = limits(|limits| limits.bytes_in_per_second = NonZeroU64::new(1_000_000));
    let test = Test::new(rate, 100);
    let call = test.begin(1).unwrap().unwrap();
    call.account().moved(Direction::In, 1_000_000);
    assert!(call.account().debt(Direction::In).is_zero());
    call.account().moved(Direction::In, 2_000_000);
    assert_eq!(call.account().debt(Direction::In), Duration::from_secs(2));
    assert!(call.account().debt(Direction::Out).is_zero());
    test.begin(1).unwrap();
    call.account().moved(Direction::In, 1_000_000);
    let error = test.begin(1).unwrap_err();
    assert_eq!(exceeds(&error), Limit::Bytes);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(1)));
    test.clock.advance(Duration::from_secs(1));
    test.begin(1).unwrap();
}

#[test]
fn identities_have_their_own_limits_or_the_default_ones() {
    let mut table = LimitTable::default();
    table.default = requests(1);
    table.identities.insert("ci".to_owned(), requests(3));
    table
        .identities
        .insert("root".to_owned(), Limits::default());
    let test = Test::of(table, 100);
    let admitted = |name| {
        let account = test.account(name)?;
        Some((0..10).filter(|_| account.begin().is_ok()).count())
    };
    assert_eq!(admitted("ci"), Some(3));
    assert_eq!(admitted("someone"), Some(1));
    assert_eq!(admitted("root"), None, "nothing limits it");
    let none = Test::new(Limits::default(), 100);
    assert!(none.account("ci").is_none());
    assert_eq!(none.quotas.accounts(), 0);
}

#[test]
fn callers_without_end_take_a_bounded_place_and_gain_nothing() {
    let mut table = LimitTable::default();
    table.default = limits(|limits| {
        limits.requests_per_second = NonZeroU32::new(5);
        limits.bytes_in_per_second = NonZeroU64::new(1000);
    });
    table.identities.insert("ci".to_owned(), requests(3));
    let test = Test::of(table, 1000);
    // All of them are in use: none can be forgotten.
    for host in 0..1000 {
        let call = test.begin(host).unwrap().unwrap();
        call.account().moved(Direction::In, 1);
    }
    let admitted = (1000..200_000).filter(|host| test.begin(*host).is_ok());
    assert_eq!(admitted.count(), 5, "newcomers share one account");
    assert!(test.quotas.accounts() <= 1001);
    // Who is named in the configuration has a place all the same.
    let ci = test.account("ci").unwrap();
    assert_eq!((0..10).filter(|_| ci.begin().is_ok()).count(), 3);
    // Those that rest give way.
    test.clock.advance(Duration::from_secs(10));
    let admitted = (1_000_000..1_000_900).filter(|host| test.begin(*host).is_ok());
    assert!(admitted.count() > 800);
    assert!(test.quotas.accounts() <= 1002);
}

#[test]
fn what_is_stored_in_a_day_is_bounded_and_remembered() {
    let day = limits(|limits| limits.stored_bytes_per_day = NonZeroU64::new(100));
    let test = Test::new(day, 100);
    let account = test.account("ci").unwrap();
    account.reserve(60).unwrap();
    account.reserve(40).unwrap();
    account.release(40);
    let error = account.reserve(41).unwrap_err();
    assert_eq!(exceeds(&error), Limit::Stored);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(24 * HOUR)));
    let record = test.quotas.record();

    let next = Test::new(day, 100);
    next.wall.fetch_add(23 * HOUR, Ordering::Relaxed);
    next.quotas.restore(&record).unwrap();
    let account = next.account("ci").unwrap();
    assert!(account.reserve(41).is_err());
    next.wall.fetch_add(HOUR, Ordering::Relaxed);
    account.reserve(100).unwrap();
    assert!(next.quotas.restore(b"{}").is_err());
    assert!(
        next.quotas
            .restore(br#"{"version":2,"stored":[]}"#)
            .is_err()
    );
}

#[test]
fn other_limits_count_what_was_stored() {
    let day = |bytes| limits(|limits| limits.stored_bytes_per_day = NonZeroU64::new(bytes));
    let test = Test::new(day(100), 100);
    test.account("ci").unwrap().reserve(90).unwrap();
    let mut table = LimitTable::default();
    table.default = day(95);
    test.quotas.replace(table);
    let account = test.account("ci").unwrap();
    assert!(account.reserve(6).is_err());
    account.reserve(5).unwrap();
}
