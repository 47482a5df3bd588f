//! Whether a server takes calls.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

/// What a server is at. Clones tell of the same one.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<Reached>>);

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

#[derive(Default)]
struct Reached {
    state: State,
    /// Tells how much of the store is opened, while it is.
    share: Option<Box<Share>>,
}

type Share = dyn Fn() -> Option<f64> + Send + Sync;

impl Readiness {
    /// A server whose store is being opened.
    pub fn new() -> Self {
        Self::default()
    }

    /// What it is at now.
    pub fn state(&self) -> State {
        self.0.lock().state
    }

    /// It has come this far. There is no way back: one that drains doesn't get ready.
    pub fn reached(&self, state: State) {
        let mut reached = self.0.lock();
        reached.state = reached.state.max(state);
        if reached.state > State::Opening {
            // It may hold the store.
            reached.share = None;
        }
    }

    /// Tells by this how much of the store is opened, from 0 to 1, as long as it is.
    pub fn opening(&self, share: impl Fn() -> Option<f64> + Send + Sync + 'static) {
        let mut reached = self.0.lock();
        if reached.state == State::Opening {
            reached.share = Some(Box::new(share));
        }
    }

    /// What it is at, and why it isn't ready.
    pub(crate) fn reason(&self) -> (State, String) {
        let reached = self.0.lock();
        let reason = match reached.state {
            State::Opening => match reached.share.as_ref().and_then(|share| share()) {
                Some(share) => {
                    let percent = (share.clamp(0.0, 1.0) * 100.0).floor();
                    format!("opening: {percent} % of the store's index is rebuilt")
                }
                None => "opening: the store's index is being rebuilt".to_owned(),
            },
            State::Ready => "ready".to_owned(),
            State::Draining => {
                "draining: finishing what is in flight, taking nothing new".to_owned()
            }
        };
        (reached.state, reason)
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
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Readiness").field(&self.state()).finish()
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

    #[test]
    fn it_tells_how_far_it_is_and_lets_the_store_go() {
        let (readiness, store) = (Readiness::new(), Arc::new(()));
        let held = Arc::clone(&store);
        readiness.opening(move || {
            let _ = &held;
            Some(0.419)
        });
        assert!(readiness.reason().1.starts_with("opening: 41 % of"));
        readiness.reached(State::Ready);
        assert_eq!(readiness.reason(), (State::Ready, "ready".to_owned()));
        assert_eq!(Arc::strong_count(&store), 1);
        readiness.opening(|| Some(0.5));
        assert_eq!(readiness.reason().1, "ready");
    }
}
