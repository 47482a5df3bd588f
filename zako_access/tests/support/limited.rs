//! Servers whose callers are limited, by a clock that only the tests move.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use governor::clock::FakeRelativeClock;
use zako_access::{AccessRules, LimitTable, Limits, Quotas};
use zako_core::access::{Account, Consumer, Identity, Quota, Rights, Role};
use zako_core::server::ServerOptions;
use zako_core::store::StoreOptions;

use super::{Servers, rules, with_token};

pub const HOUR: u64 = 3600;

/// Quotas, and what moves their time.
#[derive(Clone)]
pub struct Limited {
    pub quotas: Arc<Quotas<FakeRelativeClock>>,
    clock: FakeRelativeClock,
    wall: Arc<AtomicU64>,
}

impl Limited {
    /// Those of these identities; nobody else is limited. An hour has just begun.
    pub fn new<'a>(identities: impl IntoIterator<Item = (&'a str, Limits)>) -> Self {
        let mut table = LimitTable::default();
        for (name, limits) in identities {
            table.identities.insert(name.to_owned(), limits);
        }
        let clock = FakeRelativeClock::default();
        clock.advance(Duration::from_secs(1));
        let wall = Arc::new(AtomicU64::new(400_000 * HOUR));
        let told = Arc::clone(&wall);
        let told = Arc::new(move || UNIX_EPOCH + Duration::from_secs(told.load(Ordering::Relaxed)));
        Self {
            quotas: Arc::new(Quotas::with_clocks(table, clock.clone(), told, 1000)),
            clock,
            wall,
        }
    }

    /// Servers that ask them.
    pub async fn servers(&self) -> Servers {
        let quota: Arc<dyn Quota> = self.quotas.clone();
        let (options, store) = (ServerOptions::default(), StoreOptions::default());
        Servers::with(writers(), options, store, Some(quota)).await
    }

    /// The account of `ci`.
    pub fn account(&self) -> Arc<dyn Account> {
        let identity = Identity::new("ci", Rights::everywhere(Role::Write));
        let consumer = Consumer::new(Some(&identity), None);
        self.quotas.account(&consumer).unwrap()
    }

    /// Lets time pass by which rates are told.
    pub fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    /// Lets time pass by which days are told.
    pub fn pass_hours(&self, hours: u64) {
        self.wall.fetch_add(hours * HOUR, Ordering::Relaxed);
    }
}

/// `ci` and `other` may write.
pub fn writers() -> AccessRules {
    rules([
        with_token("ci", r#""write""#),
        with_token("other", r#""write""#),
    ])
}

pub fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

/// So many bytes may be stored in a day.
pub fn day(bytes: u64) -> Limits {
    limits(|limits| limits.stored_bytes_per_day = NonZeroU64::new(bytes))
}
