//! Waiting for completions, with none lost between a look and the wait.
//!
//! This file has `unsafe` code: it gives a descriptor to tokio.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::completion_queue::{Channel, CompletionQueue};
use super::status::refused;
use crate::fabric::Result;

/// Says when a completion queue is worth a look.
pub(super) struct Notification {
    completions: Arc<CompletionQueue>,
    state: State,
    /// Made when it is first waited for, as that happens on a runtime.
    events: Option<AsyncFd<Events>>,
}

/// What stands between a completion and its being seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No event will come.
    Unarmed,
    /// An event comes for what is completed from now on; what was before has to be polled.
    Armed,
    /// An event comes for whatever has not been polled.
    Polled,
}

struct Events(Arc<Channel>);

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Notification {
    pub(super) fn new(completions: Arc<CompletionQueue>) -> Self {
        Self {
            completions,
            state: State::Unarmed,
            events: None,
        }
    }

    /// The queue has been polled until it was empty.
    pub(super) fn polled(&mut self) {
        if self.state == State::Armed {
            self.state = State::Polled;
        }
    }

    /// Ready when the queue may have something.
    pub(super) fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        if self.state == State::Polled {
            ready!(self.poll_event(context))?;
            self.state = State::Unarmed;
        }
        if self.state == State::Unarmed {
            self.completions.arm()?;
            self.state = State::Armed;
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for the event of an armed queue and takes it.
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        let mut anew = false;
        loop {
            let events = match &mut self.events {
                Some(events) => events,
                none => {
                    anew = true;
                    none.insert(
                        registered(self.completions.channel())
                            .map_err(|error| cannot_wait(&error))?,
                    )
                }
            };
            let mut readable = match ready!(events.poll_read_ready(context)) {
                Ok(readable) => readable,
                // The runtime that it was registered with has ended; this is another one.
                Err(_) if !anew => {
                    self.events = None;
                    continue;
                }
                Err(error) => return Poll::Ready(Err(cannot_wait(&error))),
            };
            let taken = self.completions.take_events()?;
            // All events were taken, so the next one makes it readable anew.
            readable.clear_ready();
            if taken {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

fn registered(channel: &Arc<Channel>) -> io::Result<AsyncFd<Events>> {
    // Without a runtime, the next call would panic.
    tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
    let events = Events(Arc::clone(channel));
    // SAFETY: the descriptor is the channel's, which closes it in its `drop`, and `Events`
    // holds the channel; it is always the same one.
    let registered = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

fn cannot_wait(error: &io::Error) -> crate::fabric::FabricError {
    refused("completions can't be waited for", error)
}
