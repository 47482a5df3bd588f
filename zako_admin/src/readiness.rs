//! Whether a server takes calls.

use std::sync::Arc;

use parking_lot::Mutex;

/// What a server is at. Clones tell of the same one.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<State>>);

/// What a server is at; from the first to the last.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Its store is being opened.
    #[default]
    Opening,
    /// It takes calls.
    Ready,
    /// It finishes what is in flight, and takes nothing new.
    Draining,
}

impl Readiness {
    /// A server whose store is being opened.
    pub fn new() -> Self {
        Self::default()
    }

    /// What it is at now.
    pub fn state(&self) -> State {
        *self.0.lock()
    }

    /// It has come this far. There is no way back: one that drains doesn't get ready.
    pub fn reached(&self, state: State) {
        let mut now = self.0.lock();
        *now = (*now).max(state);
    }
}

impl State {
    /// A word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }

    /// Why it isn't ready.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Opening => "opening: the store's index is being rebuilt",
            Self::Ready => "ready",
            Self::Draining => "draining: finishing what is in flight, taking nothing new",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_way_back() {
        let readiness = Readiness::new();
        let other = readiness.clone();
        assert_eq!(readiness.state(), State::Opening);
        other.reached(State::Ready);
        assert_eq!(readiness.state(), State::Ready);
        other.reached(State::Draining);
        // A store that was opened while its server already ends.
        readiness.reached(State::Ready);
        assert_eq!(readiness.state(), State::Draining);
    }
}
