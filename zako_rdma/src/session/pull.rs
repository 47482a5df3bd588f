//! The bytes of a blob as they are pulled.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use futures::future::poll_fn;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use zako_digest::Digest;

use super::error::TransferError;
use super::link::{Command, Link};
use super::pulling::{Piece, Pulled};
use super::status::{Code, Status};
use crate::memory::Slot;

/// A transfer that this end pulls: a stream of its bytes in their order.
///
/// The stream ends after the peer has said that these were all, or with an error. None of
/// them is hashed yet.
#[derive(Debug)]
pub struct Pull {
    link: Link,
    transfer: u64,
    digest: Digest,
    range: Range<u64>,
    pieces: mpsc::UnboundedReceiver<Pulled>,
    /// Whether all came.
    complete: bool,
    over: bool,
    /// What is said to the peer if nobody says anything else.
    last_word: LastWord,
}

/// What a dropped pull tells the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastWord {
    /// Success if all came: who gets a blob keeps no promise about it.
    Got,
    /// That it was not stored.
    NotStored,
    Said,
}

/// A slot with whoever took its bytes.
struct Lent {
    slot: Slot,
    length: usize,
    _permit: OwnedSemaphorePermit,
}

impl Pull {
    pub(super) fn new(
        link: Link,
        transfer: u64,
        digest: Digest,
        range: Range<u64>,
        pieces: mpsc::UnboundedReceiver<Pulled>,
        last_word: LastWord,
    ) -> Self {
        Self {
            link,
            transfer,
            digest,
            range,
            pieces,
            complete: false,
            over: false,
            last_word,
        }
    }

    /// The blob.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The part of it that is pulled.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The next bytes, `None` after the last. Nothing is lost if this is cancelled.
    pub async fn next(&mut self) -> Option<Result<Bytes, TransferError>> {
        poll_fn(|context| self.poll_step(context)).await
    }

    /// Says what became of the blob: success with its size when it is stored. Success
    /// before the end of the stream is told as a failure.
    pub fn finish(mut self, status: Status) {
        let status = match status.is_ok() && !self.complete {
            true => Status::new(Code::Internal, "the blob was not read to its end"),
            false => status,
        };
        self.say(status);
    }

    fn say(&mut self, status: Status) {
        if self.last_word != LastWord::Said {
            self.last_word = LastWord::Said;
            let transfer = self.transfer;
            self.link.tell(Command::Finish { transfer, status });
        }
    }

    pub(super) fn accept(&self) {
        let transfer = self.transfer;
        self.link.tell(Command::Accept { transfer });
    }

    fn poll_step(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, TransferError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.pieces.poll_recv(context)) {
            Some(Pulled::Piece(piece)) => Some(Ok(self.lend(piece))),
            Some(Pulled::End(status)) => {
                self.over = true;
                self.complete = status.is_ok();
                (!self.complete).then_some(Err(TransferError::Peer(status)))
            }
            None => {
                self.over = true;
                Some(Err(self.link.error().into()))
            }
        })
    }

    /// The slot itself while few are out, else a copy: who keeps bytes must not keep
    /// others from being pulled.
    fn lend(&self, piece: Piece) -> Bytes {
        let Piece {
            slot,
            length,
            share,
        } = piece;
        let length = length as usize;
        let slots = u32::try_from(slot.slots()).unwrap_or(u32::MAX);
        let bytes = match Arc::clone(&self.link.parts.lent).try_acquire_many_owned(slots) {
            Ok(permit) => Bytes::from_owner(Lent {
                slot,
                length,
                _permit: permit,
            }),
            Err(_) => {
                let bytes = Bytes::copy_from_slice(&slot[..length]);
                drop(slot);
                bytes
            }
        };
        drop(share);
        bytes
    }
}

impl Stream for Pull {
    type Item = Result<Bytes, TransferError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_step(context)
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.slot[..self.length]
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        let status = match self.last_word {
            LastWord::Said => return,
            LastWord::Got if self.complete => Status::ok(0),
            LastWord::Got => Status::cancelled(),
            LastWord::NotStored => Status::new(Code::Unavailable, "the upload was given up"),
        };
        self.say(status);
    }
}
