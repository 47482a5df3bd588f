//! What was done last, for when it was wrong; and how much of what.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use parking_lot::Mutex;

/// The last operations of a run, and the numbers of all.
pub(crate) struct Log {
    start: Instant,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    last: VecDeque<String>,
    counts: BTreeMap<&'static str, u64>,
}

/// So many operations are kept.
const KEPT: usize = 300;

impl Log {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            inner: Mutex::default(),
        }
    }

    /// One more of `what`.
    pub(crate) fn count(&self, what: &'static str, more: u64) {
        *self.inner.lock().counts.entry(what).or_default() += more;
    }

    /// Worker `who` begins or ended something.
    pub(crate) fn note(&self, who: &str, what: &str) {
        let at = self.start.elapsed().as_secs_f64();
        let mut inner = self.inner.lock();
        if inner.last.len() == KEPT {
            inner.last.pop_front();
        }
        inner.last.push_back(format!("{at:10.4} {who:<18} {what}"));
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.inner.lock().counts.clone()
    }

    pub(crate) fn get(&self, what: &str) -> u64 {
        self.inner.lock().counts.get(what).copied().unwrap_or(0)
    }

    /// The last operations, oldest first.
    pub(crate) fn last(&self) -> Vec<String> {
        self.inner.lock().last.iter().cloned().collect()
    }
}
