//! How many sessions there may be, and how much memory they may pin.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::SessionError;

/// What all sessions of a process may take together. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Inner>);

/// The bounds of a [`Budget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetLimits {
    /// Sessions at once.
    pub sessions: usize,
    /// Bytes that all sessions pin.
    pub bytes: u64,
    /// Bytes that one session pins.
    pub session_bytes: u64,
}

/// What of a budget is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetUsed {
    /// Sessions.
    pub sessions: usize,
    /// Bytes pinned.
    pub bytes: u64,
}

struct Inner {
    limits: BudgetLimits,
    used: Mutex<BudgetUsed>,
}

/// A session's share of the budget, given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Budget,
    bytes: u64,
}

impl Default for BudgetLimits {
    fn default() -> Self {
        Self {
            sessions: 64,
            bytes: 1 << 30,
            session_bytes: 64 << 20,
        }
    }
}

impl Budget {
    /// A budget of which nothing is taken.
    pub fn new(limits: BudgetLimits) -> Self {
        Self(Arc::new(Inner {
            limits,
            used: Mutex::default(),
        }))
    }

    /// What is taken.
    pub fn used(&self) -> BudgetUsed {
        *self.0.used.lock()
    }

    /// Takes a session that pins `bytes`, before anything of it is registered.
    pub(super) fn reserve(&self, bytes: u64) -> Result<Reservation, SessionError> {
        let BudgetLimits {
            sessions,
            bytes: all,
            session_bytes,
        } = self.0.limits;
        if bytes > session_bytes {
            return Err(SessionError::Limit(format!(
                "a session may pin {session_bytes} bytes, and this one wants {bytes}"
            )));
        }
        let mut used = self.0.used.lock();
        if used.sessions >= sessions {
            return Err(SessionError::Limit(format!(
                "there are {sessions} RDMA sessions, which is the limit"
            )));
        }
        let Some(sum) = used.bytes.checked_add(bytes).filter(|sum| *sum <= all) else {
            return Err(SessionError::Limit(format!(
                "RDMA sessions may pin {all} bytes together, {} are pinned and this one wants {bytes}",
                used.bytes
            )));
        };
        used.sessions += 1;
        used.bytes = sum;
        drop(used);
        Ok(Reservation {
            budget: self.clone(),
            bytes,
        })
    }
}

impl Reservation {
    /// Keeps the memory taken for good, since a card may still touch it.
    pub(super) fn keep_memory(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut used = self.budget.0.used.lock();
        used.sessions -= 1;
        used.bytes -= self.bytes;
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("limits", &self.limits)
            .field("used", &*self.used.lock())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_never_exceeded_and_comes_back() {
        let budget = Budget::new(BudgetLimits {
            sessions: 2,
            bytes: 100,
            session_bytes: 80,
        });
        assert!(budget.reserve(81).is_err(), "more than a session may");
        let first = budget.reserve(80).unwrap();
        assert!(budget.reserve(21).is_err(), "more than all may");
        assert!(budget.reserve(u64::MAX).is_err());
        let second = budget.reserve(20).unwrap();
        assert!(budget.reserve(0).is_err(), "more sessions than may be");
        drop(first);
        second.keep_memory();
        let used = BudgetUsed {
            sessions: 0,
            bytes: 20,
        };
        assert_eq!(budget.used(), used);
    }
}
