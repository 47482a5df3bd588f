//! What the handles of a session have of it: a way to the task that runs it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use zako_digest::{BlobRange, Digest};

use super::error::{SessionError, TransferError};
use super::exposing::Filled;
use super::pulling::Pulled;
use super::shares::Shares;
use super::status::Status;
use super::trace::TraceContext;
use crate::memory::Slab;

/// Told to the task of a session.
#[derive(Debug)]
pub(super) enum Command {
    /// Ask for a blob.
    Get {
        trace: Option<TraceContext>,
        transfer: u64,
        digest: Digest,
        range: Range<u64>,
        opened: oneshot::Sender<Result<(), TransferError>>,
        pieces: mpsc::UnboundedSender<Pulled>,
        permit: OwnedSemaphorePermit,
    },
    /// Offer a blob.
    Put {
        trace: Option<TraceContext>,
        transfer: u64,
        digest: Digest,
        offset: u64,
        opened: oneshot::Sender<Result<(), TransferError>>,
        done: oneshot::Sender<Status>,
        permit: OwnedSemaphorePermit,
    },
    /// Begin with what the peer asked for.
    Accept { transfer: u64 },
    /// Let the peer read a slot.
    Grant { transfer: u64, filled: Filled },
    /// The last word of who exposes.
    End { transfer: u64, status: Status },
    /// The last word of who pulls.
    Finish { transfer: u64, status: Status },
    /// End the session.
    Close,
}

/// How far a session has come.
#[derive(Clone, Debug)]
pub(super) enum Progress {
    Open,
    /// It has ended, and why; the card may still touch its memory.
    Ended(SessionError),
    /// Nothing is left of it.
    Freed(SessionError),
}

/// A way to the task of a session. The session is closed when the last one is gone.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) parts: Arc<Parts>,
}

/// What the handles and the task of a session share.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) exposed: Arc<Slab>,
    pub(super) local: Arc<Slab>,
    pub(super) exposed_shares: Arc<Shares>,
    pub(super) pull_shares: Arc<Shares>,
    /// Slots that may be with whoever took them.
    pub(super) lent: Arc<Semaphore>,
    /// The longest grant.
    pub(super) grant_bytes: usize,
    /// A client's transfers.
    pub(super) transfers: Arc<Semaphore>,
    pub(super) progress: watch::Receiver<Progress>,
}

impl Link {
    /// Tells the task; a session that has ended needs to know nothing.
    pub(super) fn tell(&self, command: Command) {
        let _ended = self.commands.send(command);
    }

    /// Why the session has ended.
    pub(super) fn error(&self) -> SessionError {
        match &*self.parts.progress.borrow() {
            Progress::Ended(error) | Progress::Freed(error) => error.clone(),
            Progress::Open => SessionError::Internal("the session's task is gone".to_owned()),
        }
    }

    /// Why the session has ended, when it has.
    pub(super) async fn ended(&self) -> SessionError {
        self.progress(|progress| !matches!(progress, Progress::Open))
            .await
    }

    /// Why the session has ended, when nothing is left of it.
    pub(super) async fn freed(&self) -> SessionError {
        self.progress(|progress| matches!(progress, Progress::Freed(_)))
            .await
    }

    /// Slots that nobody has.
    pub(super) fn free_slots(&self) -> FreeSlots {
        FreeSlots {
            exposed: self.parts.exposed.free(),
            pulled: self.parts.local.free(),
        }
    }

    /// Whether it has not ended.
    pub(super) fn is_open(&self) -> bool {
        matches!(&*self.parts.progress.borrow(), Progress::Open)
    }

    async fn progress(&self, far: impl Fn(&Progress) -> bool) -> SessionError {
        let mut progress = self.parts.progress.clone();
        // A task that is gone has told all that it will.
        let _gone = progress.wait_for(|progress| far(progress)).await;
        self.error()
    }
}

/// Slots of a session that nobody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeSlots {
    /// Of those that the peer may READ, without that of the nonce.
    pub exposed: usize,
    /// Of those that are pulled into.
    pub pulled: usize,
}

/// The range of a blob, as it is asked for.
pub(super) fn blob_range(range: &Range<u64>) -> BlobRange {
    BlobRange::new(range.start, range.end.saturating_sub(range.start))
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("progress", &*self.parts.progress.borrow())
            .finish_non_exhaustive()
    }
}
