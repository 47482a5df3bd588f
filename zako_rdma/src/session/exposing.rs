//! What is known of a transfer that this end exposes. No I/O.

use std::collections::VecDeque;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::error::{SessionError, TransferError};
use super::shares::Shared;
use super::status::Status;

/// A transfer that this end exposes.
#[derive(Debug)]
pub(super) struct Exposing {
    begun: Begun,
    /// Bytes that are not granted yet.
    ungranted: u64,
    /// What the peer may read, the oldest first.
    granted: VecDeque<Filled>,
    /// How many of these it knows of.
    told: usize,
    /// Whether this end has said its last word, and whether that was success.
    ended: Option<bool>,
    /// For the peer's last word; taken with it.
    done: Option<oneshot::Sender<Status>>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Whether the server has said that it begins.
#[derive(Debug)]
enum Begun {
    /// It has not; who asked waits.
    Asked(oneshot::Sender<Result<(), TransferError>>),
    /// It has not yet, and is this end.
    Unanswered,
    Accepted,
}

/// Slots next to each other that the peer may read.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) slots: Shared,
    pub(super) length: u32,
}

impl Exposing {
    /// A Put that this end asks for.
    pub(super) fn asked(
        bytes: u64,
        opened: oneshot::Sender<Result<(), TransferError>>,
        done: oneshot::Sender<Status>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self::new(Begun::Asked(opened), bytes, done, Some(permit))
    }

    /// A Get that this end is asked for.
    pub(super) fn offered(bytes: u64, done: oneshot::Sender<Status>) -> Self {
        Self::new(Begun::Unanswered, bytes, done, None)
    }

    fn new(
        begun: Begun,
        ungranted: u64,
        done: oneshot::Sender<Status>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self {
            begun,
            ungranted,
            granted: VecDeque::new(),
            told: 0,
            ended: None,
            done: Some(done),
            _permit: permit,
        }
    }

    /// The peer begins.
    pub(super) fn on_accepted(&mut self) -> Result<(), SessionError> {
        match std::mem::replace(&mut self.begun, Begun::Accepted) {
            Begun::Asked(opened) if self.done.is_some() => {
                let _gone = opened.send(Ok(()));
                Ok(())
            }
            _ => Err(out_of_order("it accepted a transfer twice")),
        }
    }

    /// This end begins. `false` if it has or the transfer is over.
    pub(super) fn accept(&mut self) -> bool {
        let unanswered = matches!(self.begun, Begun::Unanswered);
        if unanswered {
            self.begun = Begun::Accepted;
        }
        unanswered && self.ended.is_none() && self.done.is_some()
    }

    /// Lets the peer read slots, of which [`next_grant`](Self::next_grant) is to tell it.
    /// If it has said its last word, they are free again.
    pub(super) fn grant(&mut self, filled: Filled) {
        if self.done.is_some() && self.ended.is_none() {
            self.ungranted = self.ungranted.saturating_sub(filled.length.into());
            self.granted.push_back(filled);
        }
    }

    /// How many grants the peer is to be told of now. As long as it has twice as many to
    /// read they wait: each telling wakes it up.
    pub(super) fn grants_due(&self) -> usize {
        let untold = self.granted.len() - self.told;
        let all = self.ungranted == 0;
        match all || 2 * untold >= self.told {
            true => untold,
            false => 0,
        }
    }

    /// Where the next grant is that the peer doesn't know of, and how much.
    pub(super) fn next_grant(&mut self) -> Option<(u64, u32)> {
        let filled = self.granted.get(self.told)?;
        self.told += 1;
        Some((filled.slots.slot.offset(), filled.length))
    }

    /// The peer has read the oldest grants.
    pub(super) fn on_release(&mut self, grants: u32) -> Result<(), SessionError> {
        let grants = grants as usize;
        if self.done.is_none() || grants > self.told {
            return Err(out_of_order("it released what is not granted"));
        }
        self.granted.drain(..grants);
        self.told -= grants;
        Ok(())
    }

    /// The peer's last word.
    pub(super) fn on_done(&mut self, status: Status) -> Result<(), SessionError> {
        let Some(done) = self.done.take() else {
            return Err(out_of_order("a transfer was done twice"));
        };
        if status.is_ok() && self.ended != Some(true) {
            return Err(out_of_order("a transfer was done before its bytes"));
        }
        if let Begun::Asked(opened) = std::mem::replace(&mut self.begun, Begun::Accepted) {
            let _gone = opened.send(Err(TransferError::Peer(status.clone())));
        }
        self.granted.clear();
        self.told = 0;
        let _gone = done.send(status);
        Ok(())
    }

    /// This end's last word; `false` if it was said before.
    pub(super) fn end(&mut self, status: &Status) -> bool {
        if self.ended.is_some() {
            return false;
        }
        self.ended = Some(status.is_ok());
        // Nobody is told of these any more.
        self.granted.truncate(self.told);
        true
    }

    /// Whether nothing more is to be said by either end.
    pub(super) fn is_over(&self) -> bool {
        self.ended.is_some() && self.done.is_none()
    }
}

fn out_of_order(what: &str) -> SessionError {
    SessionError::OutOfOrder(what.to_owned())
}
