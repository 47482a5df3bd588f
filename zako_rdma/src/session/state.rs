//! Where a session is, and what an error of its card means there.

use super::error::SessionError;
use crate::fabric::FabricError;

/// Where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing was said.
    Init,
    /// This end has said where it is.
    Offered,
    /// This end's queue pair is ready; the peer's may not be.
    WaitReady,
    /// Both are: work may be posted.
    Ready {
        /// Work that was posted and is not completed.
        outstanding: usize,
    },
    /// It ends: work is only waited for.
    Draining {
        /// Work that was posted and is not completed.
        outstanding: usize,
    },
    /// Nothing is left of it.
    Closed,
}

/// The states of a session in their order. A move that is none of these is an error, and
/// leaves the state as it was.
#[derive(Debug)]
pub struct Lifecycle {
    state: State,
    /// The first error of the card while it was ready.
    cause: Option<FabricError>,
}

/// What a completion means.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The bytes are there: so many.
    Good(u32),
    /// The session has failed, and this is why: the first error, not this one.
    Failed(FabricError),
    /// The session ends anyway; nothing follows from it.
    Ignored,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            state: State::Init,
            cause: None,
        }
    }
}

impl Lifecycle {
    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Work that was posted and is not completed.
    pub fn outstanding(&self) -> usize {
        match self.state {
            State::Ready { outstanding } | State::Draining { outstanding } => outstanding,
            _ => 0,
        }
    }

    /// This end has said where it is.
    ///
    /// # Errors
    /// If it had before.
    pub fn offered(&mut self) -> Result<(), SessionError> {
        self.step(State::Init, State::Offered)
    }

    /// This end's queue pair is connected to the peer's.
    ///
    /// # Errors
    /// If nothing was offered, or it was connected before.
    pub fn connected(&mut self) -> Result<(), SessionError> {
        self.step(State::Offered, State::WaitReady)
    }

    /// The peer has said that its queue pair is ready.
    ///
    /// # Errors
    /// [`SessionError::OutOfOrder`] if this end's is not, or the peer said so before.
    pub fn peer_ready(&mut self) -> Result<(), SessionError> {
        self.step(State::WaitReady, State::Ready { outstanding: 0 })
            .map_err(|_| SessionError::OutOfOrder("a Ready in the wrong place".to_owned()))
    }

    /// Work is about to be posted.
    ///
    /// # Errors
    /// If the session is not ready.
    pub fn posted(&mut self) -> Result<(), SessionError> {
        match &mut self.state {
            State::Ready { outstanding } => {
                *outstanding += 1;
                Ok(())
            }
            state => Err(illegal(*state, "post")),
        }
    }

    /// Work was not posted after all.
    ///
    /// # Errors
    /// If none was.
    pub fn refused(&mut self) -> Result<(), SessionError> {
        self.complete("refuse")
    }

    /// Work has been completed.
    ///
    /// # Errors
    /// If none was posted.
    pub fn completed(
        &mut self,
        outcome: Result<u32, FabricError>,
    ) -> Result<Verdict, SessionError> {
        self.complete("complete")?;
        Ok(match (self.state, outcome) {
            (State::Ready { .. }, Ok(bytes)) => Verdict::Good(bytes),
            (State::Ready { .. }, Err(error)) => Verdict::Failed(self.failed(error)),
            _ => Verdict::Ignored,
        })
    }

    /// The card gave an error: the first one, which is the cause of all others.
    pub fn failed(&mut self, error: FabricError) -> FabricError {
        self.cause.get_or_insert(error).clone()
    }

    /// The session ends. Does nothing if it does so already.
    pub fn drain(&mut self) {
        self.state = match self.state {
            State::Closed => State::Closed,
            _ => State::Draining {
                outstanding: self.outstanding(),
            },
        };
    }

    /// Nothing is left of it.
    ///
    /// # Errors
    /// If it isn't draining, or work is not completed.
    pub fn closed(&mut self) -> Result<(), SessionError> {
        self.step(State::Draining { outstanding: 0 }, State::Closed)
    }

    fn step(&mut self, from: State, to: State) -> Result<(), SessionError> {
        if self.state != from {
            return Err(illegal(self.state, &format!("go to {to:?}")));
        }
        self.state = to;
        Ok(())
    }

    fn complete(&mut self, what: &str) -> Result<(), SessionError> {
        match &mut self.state {
            State::Ready { outstanding } | State::Draining { outstanding } if *outstanding > 0 => {
                *outstanding -= 1;
                Ok(())
            }
            state => Err(illegal(*state, what)),
        }
    }
}

fn illegal(state: State, what: &str) -> SessionError {
    SessionError::Internal(format!("a session that is {state:?} can't {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::FailureKind;
    use proptest::prelude::*;

    fn error(kind: FailureKind) -> FabricError {
        FabricError::new(kind, format!("{kind:?}"))
    }

    fn ready(outstanding: usize) -> Lifecycle {
        let mut lifecycle = Lifecycle::default();
        lifecycle.offered().unwrap();
        lifecycle.connected().unwrap();
        lifecycle.peer_ready().unwrap();
        for _ in 0..outstanding {
            lifecycle.posted().unwrap();
        }
        lifecycle
    }

    #[test]
    fn nothing_is_posted_before_the_peer_is_ready() {
        let mut lifecycle = Lifecycle::default();
        assert!(lifecycle.posted().is_err());
        assert!(lifecycle.peer_ready().is_err());
        lifecycle.offered().unwrap();
        assert!(lifecycle.posted().is_err());
        assert!(lifecycle.peer_ready().is_err());
        lifecycle.connected().unwrap();
        assert!(lifecycle.posted().is_err());
        lifecycle.peer_ready().unwrap();
        lifecycle.posted().unwrap();
        assert!(lifecycle.peer_ready().is_err(), "only once");
        assert_eq!(lifecycle.state(), State::Ready { outstanding: 1 });
    }

    #[test]
    fn the_first_error_is_the_cause() {
        let mut lifecycle = ready(3);
        assert_eq!(lifecycle.completed(Ok(5)), Ok(Verdict::Good(5)));
        let access = error(FailureKind::RemoteAccess);
        let failed = Ok(Verdict::Failed(access.clone()));
        assert_eq!(lifecycle.completed(Err(access)), failed);
        let flushed = lifecycle.completed(Err(error(FailureKind::Flushed)));
        assert_eq!(flushed, failed);
    }

    #[test]
    fn a_flush_is_benign_only_while_draining() {
        let flushed = error(FailureKind::Flushed);
        let mut lifecycle = ready(2);
        assert_eq!(
            lifecycle.completed(Err(flushed.clone())),
            Ok(Verdict::Failed(flushed.clone()))
        );
        lifecycle.drain();
        assert!(lifecycle.closed().is_err(), "work is out");
        assert!(lifecycle.posted().is_err());
        assert_eq!(lifecycle.completed(Err(flushed)), Ok(Verdict::Ignored));
        lifecycle.closed().unwrap();
        assert!(lifecycle.closed().is_err());
        lifecycle.drain();
        assert_eq!(lifecycle.state(), State::Closed);
    }

    proptest! {
        #[test]
        fn work_is_counted_whatever_comes(moves in prop::collection::vec(0..9u8, 0..60)) {
            let mut lifecycle = Lifecycle::default();
            let mut out = 0usize;
            for step in moves {
                let before = lifecycle.state();
                let moved = match step {
                    0 => lifecycle.offered(),
                    1 => lifecycle.connected(),
                    2 => lifecycle.peer_ready(),
                    3 | 4 => lifecycle.posted().map(|()| out += 1),
                    5 => lifecycle.completed(Ok(1)).map(|_| out -= 1),
                    6 => lifecycle
                        .completed(Err(error(FailureKind::Flushed)))
                        .map(|_| out -= 1),
                    7 => {
                        lifecycle.drain();
                        Ok(())
                    }
                    _ => lifecycle.closed(),
                };
                prop_assert_eq!(lifecycle.outstanding(), out);
                if moved.is_err() {
                    prop_assert_eq!(lifecycle.state(), before);
                }
                if out > 0 {
                    prop_assert_ne!(lifecycle.state(), State::Closed);
                }
            }
        }
    }
}
