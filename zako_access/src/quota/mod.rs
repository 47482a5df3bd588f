//! Rates and quotas of callers: an account for each identity, and for callers without one
//! an account for each address.

mod account;
mod accounts;
mod key;
mod limits;
mod pacer;
mod record;
mod window;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use governor::clock::{Clock, DefaultClock};
use parking_lot::RwLock;
use zako_core::access::{Account, Consumer, Quota};

pub use limits::{LimitTable, Limits};
pub use record::RecordError;

use self::accounts::Accounts;
use self::key::Key;

/// Accounts that are kept at once. Callers for whom there is no place share one.
const MOST_ACCOUNTS: usize = 1 << 16;

/// Tells the time of day, by which what was stored in the last day is told.
pub type WallClock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// What callers may use, and have used.
pub struct Quotas<C: Clock = DefaultClock> {
    table: RwLock<Arc<LimitTable>>,
    accounts: Accounts<C>,
}

impl Quotas {
    /// Nobody has used anything yet.
    pub fn new(table: LimitTable) -> Self {
        let wall: WallClock = Arc::new(SystemTime::now);
        Self::with_clocks(table, DefaultClock::default(), wall, MOST_ACCOUNTS)
    }
}

impl<C: Clock + Clone> Quotas<C> {
    /// With these clocks and so many accounts at once.
    pub fn with_clocks(table: LimitTable, clock: C, wall: WallClock, most: usize) -> Self {
        Self {
            table: RwLock::new(Arc::new(table)),
            accounts: Accounts::new(clock, wall, most),
        }
    }

    /// Other limits from now on. What was stored counts on; rates begin anew, and streams
    /// under way are not counted against the new limits.
    pub fn replace(&self, table: LimitTable) {
        *self.table.write() = Arc::new(table);
        self.accounts.renew();
    }

    /// How many accounts there are.
    pub fn accounts(&self) -> usize {
        self.accounts.len()
    }

    /// What was stored in the last day, to be kept across a restart.
    pub fn record(&self) -> Vec<u8> {
        self.accounts.record()
    }

    /// Goes on with what [`record`](Self::record) gave.
    ///
    /// # Errors
    /// It is none.
    pub fn restore(&self, record: &[u8]) -> Result<(), RecordError> {
        let table = Arc::clone(&self.table.read());
        self.accounts.restore(record, |key| *key.limits(&table))
    }
}

impl<C> Quota for Quotas<C>
where
    C: Clock + Clone + fmt::Debug + Send + Sync + 'static,
{
    fn account(&self, caller: &Consumer<'_>) -> Option<Arc<dyn Account>> {
        let table = self.table.read();
        if table.is_empty() {
            return None;
        }
        let key = Key::of(caller);
        let limits = *key.limits(&table);
        match limits.is_none() {
            true => None,
            false => Some(self.accounts.account(&key, limits, &table)),
        }
    }
}

impl<C: Clock> fmt::Debug for Quotas<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quotas").finish_non_exhaustive()
    }
}
