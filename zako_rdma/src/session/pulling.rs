//! What is known of a transfer that this end pulls. No I/O.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::error::{SessionError, TransferError};
use super::shares::{Holder, NoSlot, Share, Shared};
use super::status::Status;
use crate::memory::{Slab, Slot};

/// Grants that a peer may have out for one transfer: many more than it has slots.
const GRANTS: usize = 4096;

/// A transfer that this end pulls.
#[derive(Debug)]
pub(super) struct Pulling {
    begun: Begun,
    /// Bytes that are not granted yet.
    ungranted: u64,
    /// What may be read and is not asked for.
    granted: VecDeque<Granted>,
    /// READs under way.
    reading: usize,
    /// Grants that are read and not told to the peer.
    read: u32,
    /// The peer's last word.
    ended: Option<Status>,
    /// This end's last word, said when no READ is under way.
    last_word: Option<Status>,
    said: bool,
    pieces: mpsc::UnboundedSender<Pulled>,
    holder: Holder,
    /// A client's right to a transfer.
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

/// A part of the peer's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) offset: u64,
    pub(super) length: u32,
}

/// A READ to be posted.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) part: Granted,
    /// Whether nothing of its grant is left.
    pub(super) whole: bool,
    /// Where to.
    pub(super) slots: Shared,
}

/// What who pulls gets.
#[derive(Debug)]
pub(super) enum Pulled {
    Piece(Piece),
    /// The peer's last word.
    End(Status),
}

impl Granted {
    /// Takes the first bytes out of it, so many at most.
    fn split(&mut self, most: usize) -> Self {
        let length = u32::try_from(most).map_or(self.length, |most| self.length.min(most));
        let part = Self { length, ..*self };
        // The driver looks again whether what it reads is in the peer's memory.
        self.offset = self.offset.saturating_add(length.into());
        self.length -= length;
        part
    }
}

/// Bytes that were pulled. The slot goes back before the right to it.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) slot: Slot,
    pub(super) length: u32,
    pub(super) share: Share,
}

impl Pulling {
    /// A Get that this end asks for.
    pub(super) fn asked(
        bytes: u64,
        opened: oneshot::Sender<Result<(), TransferError>>,
        pieces: mpsc::UnboundedSender<Pulled>,
        holder: Holder,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self::new(Begun::Asked(opened), bytes, pieces, holder, Some(permit))
    }

    /// A Put that this end is asked for.
    pub(super) fn offered(
        bytes: u64,
        pieces: mpsc::UnboundedSender<Pulled>,
        holder: Holder,
    ) -> Self {
        Self::new(Begun::Unanswered, bytes, pieces, holder, None)
    }

    fn new(
        begun: Begun,
        ungranted: u64,
        pieces: mpsc::UnboundedSender<Pulled>,
        holder: Holder,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self {
            begun,
            ungranted,
            granted: VecDeque::new(),
            reading: 0,
            read: 0,
            ended: None,
            last_word: None,
            said: false,
            pieces,
            holder,
            _permit: permit,
        }
    }

    /// The peer begins.
    pub(super) fn on_accepted(&mut self) -> Result<(), SessionError> {
        match std::mem::replace(&mut self.begun, Begun::Accepted) {
            Begun::Asked(opened) if self.ended.is_none() => {
                // Who asked may have gone; that it is over comes on its own.
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
        unanswered && self.last_word.is_none()
    }

    /// The peer grants bytes; they are known to be in its memory.
    pub(super) fn on_grant(&mut self, granted: Granted) -> Result<(), SessionError> {
        if self.ended.is_some() || !matches!(self.begun, Begun::Accepted) {
            return Err(out_of_order("a grant to a transfer that is not under way"));
        }
        self.ungranted = self
            .ungranted
            .checked_sub(granted.length.into())
            .ok_or_else(|| SessionError::Malformed("more is granted than the blob has".into()))?;
        if self.granted.len() + self.reading + self.read as usize >= GRANTS {
            return Err(out_of_order("too many grants at once"));
        }
        if self.last_word.is_none() {
            self.granted.push_back(granted);
        }
        Ok(())
    }

    /// The peer's last word.
    pub(super) fn on_end(&mut self, status: Status) -> Result<(), SessionError> {
        if self.ended.is_some() {
            return Err(out_of_order("a transfer ended twice"));
        }
        if status.is_ok() {
            // What this end gave up need not be granted.
            if !matches!(self.begun, Begun::Accepted) && self.last_word.is_none() {
                return Err(out_of_order("a transfer ended before it began"));
            }
            if self.ungranted > 0 && self.last_word.is_none() {
                return Err(out_of_order("a transfer ended before its bytes"));
            }
        } else {
            self.granted.clear();
        }
        if let Begun::Asked(opened) = std::mem::replace(&mut self.begun, Begun::Accepted) {
            let _gone = opened.send(Err(TransferError::Peer(status.clone())));
        }
        self.ended = Some(status);
        self.tell_end();
        Ok(())
    }

    /// The next READ to post: the oldest grant, or as much of it as there are slots next to
    /// each other for.
    pub(super) fn next_read(&mut self, local: &Arc<Slab>) -> Option<Result<Read, NoSlot>> {
        if self.last_word.is_some() {
            return None;
        }
        let oldest = self.granted.front_mut()?;
        let wanted = (oldest.length as usize).div_ceil(local.slot_bytes());
        let slots = match self.holder.try_take(wanted)?.of(local) {
            Ok(slots) => slots,
            Err(none) => return Some(Err(none)),
        };
        let part = oldest.split(slots.slot.len());
        let whole = oldest.length == 0;
        if whole {
            self.granted.pop_front();
        }
        self.reading += 1;
        Some(Ok(Read { part, whole, slots }))
    }

    /// A READ is done; `whole` if it was the last of its grant.
    pub(super) fn on_read(&mut self, piece: Piece, whole: bool) {
        self.reading -= 1;
        self.read += u32::from(whole);
        if self.last_word.is_none() {
            // If nobody takes it, that is said by its last word.
            let _gone = self.pieces.send(Pulled::Piece(piece));
        }
        self.tell_end();
    }

    /// This end's last word, to be said when that is true.
    pub(super) fn finish(&mut self, status: Status) {
        if self.last_word.is_none() {
            self.granted.clear();
            self.last_word = Some(status);
        }
    }

    /// How many reads the peer is to be told of now. As long as twice as many are to be
    /// read they wait: each telling wakes it up.
    pub(super) fn take_released(&mut self) -> Option<u32> {
        let unread = self.granted.len() + self.reading;
        if (self.read as usize) * 2 < unread {
            return None;
        }
        let read = std::mem::take(&mut self.read);
        // The last word releases all.
        (read > 0 && self.last_word.is_none()).then_some(read)
    }

    /// The last word, if now is the time to say it.
    pub(super) fn take_last_word(&mut self) -> Option<Status> {
        if self.said || self.reading > 0 {
            return None;
        }
        let status = self.last_word.clone()?;
        self.said = true;
        Some(status)
    }

    /// Whether nothing more is to be said by either end.
    pub(super) fn is_over(&self) -> bool {
        self.said && self.ended.is_some()
    }

    /// Tells who pulls, behind the last piece.
    fn tell_end(&mut self) {
        if self.reading > 0 || !self.granted.is_empty() {
            return;
        }
        if let Some(status) = &self.ended {
            let _gone = self.pieces.send(Pulled::End(status.clone()));
        }
    }
}

fn out_of_order(what: &str) -> SessionError {
    SessionError::OutOfOrder(what.to_owned())
}
