//! All accounts, of a bounded number.

use std::collections::HashMap;
use std::sync::Arc;

use governor::clock::Clock;
use parking_lot::{Mutex, RwLock};

use super::WallClock;
use super::account::{Ledger, seconds};
use super::key::Key;
use super::limits::{LimitTable, Limits};
use super::record::{self, RecordError};
use super::window::Window;

pub(super) struct Accounts<C: Clock> {
    all: RwLock<All<C>>,
    most: usize,
    clock: C,
    wall: WallClock,
}

struct All<C: Clock> {
    ledgers: HashMap<Key, Arc<Ledger<C>>>,
    /// Newcomers that found no place since accounts were last looked through: to do so for
    /// each would be what a flood wants.
    turned_away: usize,
}

impl<C: Clock + Clone> Accounts<C> {
    pub(super) fn new(clock: C, wall: WallClock, most: usize) -> Self {
        Self {
            all: RwLock::new(All {
                ledgers: HashMap::new(),
                turned_away: most,
            }),
            most,
            clock,
            wall,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.read().ledgers.len()
    }

    /// The account of this key, whose limits are these.
    pub(super) fn account(&self, key: &Key, limits: Limits, table: &LimitTable) -> Arc<Ledger<C>> {
        if let Some(ledger) = self.all.read().ledgers.get(key)
            && *ledger.limits() == limits
        {
            return Arc::clone(ledger);
        }
        let mut all = self.all.write();
        // Identities that are named in the configuration are few.
        let (key, limits) = match key.is_named(table) || all.has_place(key, self.most) {
            true => (key, limits),
            false => (&Key::Others, *Key::Others.limits(table)),
        };
        let known = all.ledgers.get(key);
        let stored = match known {
            Some(ledger) if *ledger.limits() == limits => return Arc::clone(ledger),
            Some(ledger) => Arc::clone(ledger.stored()),
            None => Arc::default(),
        };
        let ledger = self.ledger(key, limits, stored);
        all.ledgers.insert(key.clone(), Arc::clone(&ledger));
        ledger
    }

    fn ledger(&self, key: &Key, limits: Limits, stored: Arc<Mutex<Window>>) -> Arc<Ledger<C>> {
        let wall = Arc::clone(&self.wall);
        Arc::new(Ledger::new(key.clone(), limits, stored, &self.clock, wall))
    }

    /// Forgets accounts without use: those with other limits are made anew when they are
    /// asked for.
    pub(super) fn renew(&self) {
        self.all.write().forget();
    }

    pub(super) fn record(&self) -> Vec<u8> {
        let now = seconds(&self.wall);
        let windows: Vec<(String, Window)> = {
            let all = self.all.read();
            let ledgers = all.ledgers.iter();
            ledgers
                .map(|(key, ledger)| (key.to_string(), ledger.stored().lock().clone()))
                .collect()
        };
        record::write(windows, now)
    }

    pub(super) fn restore(
        &self,
        record: &[u8],
        limits: impl Fn(&Key) -> Limits,
    ) -> Result<(), RecordError> {
        let windows = record::read(record)?;
        let mut all = self.all.write();
        for (key, window) in windows.into_iter().take(self.most) {
            let limits = limits(&key);
            if limits.stored_bytes_per_day.is_some() {
                let ledger = self.ledger(&key, limits, Arc::new(Mutex::new(window)));
                all.ledgers.insert(key, ledger);
            }
        }
        Ok(())
    }
}

impl<C: Clock> All<C> {
    fn has_place(&mut self, key: &Key, most: usize) -> bool {
        if self.ledgers.len() < most || self.ledgers.contains_key(key) {
            return true;
        }
        self.turned_away += 1;
        if self.turned_away < most / 16 {
            return false;
        }
        self.forget();
        self.turned_away = 0;
        self.ledgers.len() < most
    }

    fn forget(&mut self) {
        // The account of all that have none is never new: with each one they would have a
        // second's requests more.
        self.ledgers.retain(|key, ledger| {
            *key == Key::Others || Arc::strong_count(ledger) > 1 || !ledger.is_as_new()
        });
    }
}
