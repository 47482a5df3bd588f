//! The bytes of a blob as they are exposed.

use std::ops::Range;

use tokio::sync::oneshot;
use zako_digest::Digest;

use super::error::TransferError;
use super::exposing::Filled;
use super::link::{Command, Link};
use super::shares::{Holder, Shared};
use super::status::{Code, Status};

/// A transfer that this end exposes: takes its bytes in their order.
///
/// Dropping it before [`finish`](Self::finish) tells the peer that it was given up.
#[derive(Debug)]
pub struct Expose {
    link: Link,
    transfer: u64,
    digest: Digest,
    range: Range<u64>,
    holder: Holder,
    filling: Option<Filling>,
    /// Bytes that were not filled in yet.
    left: u64,
    done: oneshot::Receiver<Status>,
    /// Why no more is taken: the peer's last word, or the session's end.
    over: Option<TransferError>,
    /// The session's task has been told of a grant since it could last run.
    told: bool,
    /// A `send` was cancelled: nobody knows how much of its bytes was taken.
    torn: bool,
    ended: bool,
}

/// The slots that are being filled.
#[derive(Debug)]
struct Filling {
    slots: Shared,
    length: usize,
    /// How far they may be.
    end: usize,
}

impl Expose {
    pub(super) fn new(
        link: Link,
        transfer: u64,
        digest: Digest,
        range: Range<u64>,
        done: oneshot::Receiver<Status>,
    ) -> Self {
        Self {
            holder: link.parts.exposed_shares.holder(),
            link,
            transfer,
            digest,
            left: range.end.saturating_sub(range.start),
            range,
            filling: None,
            done,
            over: None,
            told: false,
            torn: false,
            ended: false,
        }
    }

    /// The blob.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The part of it that is exposed.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Copies the next bytes to where the peer can read them; waits for room, which
    /// slows the caller down to the peer's speed. If this is cancelled, the transfer can
    /// only be given up.
    ///
    /// # Errors
    /// What the peer says if it wants no more, or why the session ended;
    /// [`TransferError::Misuse`] if that is more than the transfer has.
    pub async fn send(&mut self, mut bytes: &[u8]) -> Result<(), TransferError> {
        if std::mem::replace(&mut self.torn, true) {
            return Err(TransferError::Misuse("a send was cancelled"));
        }
        if bytes.len() as u64 > self.left {
            return Err(TransferError::Misuse("more bytes than the transfer has"));
        }
        while !bytes.is_empty() {
            let room = self.room().await?;
            let length = room.len().min(bytes.len());
            let (now, later) = bytes.split_at(length);
            room[..length].copy_from_slice(now);
            self.filled(length)?;
            bytes = later;
        }
        self.torn = false;
        Ok(())
    }

    /// Room for the next bytes, to be filled from its beginning without a copy;
    /// [`filled`](Self::filled) says how many are there. Nothing is lost if this is
    /// cancelled.
    ///
    /// # Errors
    /// As of [`send`](Self::send).
    pub async fn room(&mut self) -> Result<&mut [u8], TransferError> {
        if std::mem::take(&mut self.told) {
            // The task that it woke is next in line on this very thread, where no other one
            // takes it over: the peer would learn of the grant when all slots are filled.
            tokio::task::yield_now().await;
        }
        if self.filling.is_none() {
            let (exposed, most) = (&self.link.parts.exposed, self.link.parts.grant_bytes);
            let bytes = usize::try_from(self.left).map_or(most, |left| left.min(most));
            let wanted = bytes.div_ceil(exposed.slot_bytes());
            let share = tokio::select! {
                biased;
                error = refused(&self.link, &mut self.done, &mut self.over) => return Err(error),
                share = self.holder.take(wanted) => share,
            };
            let slots = share.of(exposed);
            let slots = slots.map_err(|_| TransferError::Misuse("a share without a slot"))?;
            let end = most.min(slots.slot.len());
            self.filling = Some(Filling {
                slots,
                length: 0,
                end,
            });
        }
        match &mut self.filling {
            Some(filling) => Ok(&mut filling.slots.slot[filling.length..filling.end]),
            None => Err(TransferError::Misuse("no slot is being filled")),
        }
    }

    /// The next bytes are in the first ones of [`room`](Self::room).
    ///
    /// # Errors
    /// [`TransferError::Misuse`] if there was not so much room or the transfer doesn't
    /// have so many.
    pub fn filled(&mut self, bytes: usize) -> Result<(), TransferError> {
        let left = self.left.checked_sub(bytes as u64);
        let left = left.ok_or(TransferError::Misuse("more bytes than the transfer has"))?;
        let filling = self
            .filling
            .as_mut()
            .filter(|filling| bytes <= filling.end - filling.length);
        let filling = filling.ok_or(TransferError::Misuse("more bytes than there is room"))?;
        filling.length += bytes;
        self.left = left;
        if filling.length == filling.end {
            self.flush();
        }
        Ok(())
    }

    /// Lets the peer read what was sent until now, even if that fills no slot.
    pub fn flush(&mut self) {
        let Some(filling) = self.filling.take_if(|filling| filling.length > 0) else {
            return;
        };
        self.told = true;
        // Not longer than a grant, which has 32 bits.
        let length = u32::try_from(filling.length).unwrap_or(u32::MAX);
        self.link.tell(Command::Grant {
            transfer: self.transfer,
            filled: Filled {
                slots: filling.slots,
                length,
            },
        });
    }

    /// Says that these were all, and waits for the peer's last word: how many bytes of
    /// the blob it holds now.
    ///
    /// # Errors
    /// As of [`send`](Self::send); [`TransferError::Misuse`] if bytes are missing.
    pub async fn finish(mut self) -> Result<u64, TransferError> {
        if self.torn || self.left > 0 {
            return Err(TransferError::Misuse(
                "a transfer has more bytes than were sent",
            ));
        }
        self.flush();
        self.end(Status::ok(0));
        match refused(&self.link, &mut self.done, &mut self.over).await {
            TransferError::Peer(status) if status.is_ok() => Ok(status.held),
            error => Err(error),
        }
    }

    /// Waits until the peer has read all that it was given. Nothing is lost if this is
    /// cancelled.
    ///
    /// # Errors
    /// As of [`send`](Self::send).
    pub async fn drain(&mut self) -> Result<(), TransferError> {
        self.flush();
        self.filling = None;
        tokio::select! {
            biased;
            error = refused(&self.link, &mut self.done, &mut self.over) => Err(error),
            () = self.holder.idle() => Ok(()),
        }
    }

    /// Says why no more comes, and waits for the peer's last word: a status that tells how
    /// many bytes of the blob it holds. What it was given and has not read is lost, unless
    /// [`drain`](Self::drain) came before.
    ///
    /// # Errors
    /// Why the session ended.
    pub async fn give_up(mut self, status: Status) -> Result<Status, TransferError> {
        self.end(failure(status));
        match refused(&self.link, &mut self.done, &mut self.over).await {
            TransferError::Peer(status) => Ok(status),
            error => Err(error),
        }
    }

    /// Says why no more comes.
    pub fn fail(mut self, status: Status) {
        self.end(failure(status));
    }

    pub(super) fn accept(&self) {
        let transfer = self.transfer;
        self.link.tell(Command::Accept { transfer });
    }

    fn end(&mut self, status: Status) {
        if !self.ended {
            self.ended = true;
            let transfer = self.transfer;
            self.link.tell(Command::End { transfer, status });
        }
    }
}

fn failure(status: Status) -> Status {
    match status.is_ok() {
        true => Status::new(Code::Internal, "a failure without a reason"),
        false => status,
    }
}

/// The peer's last word, or the end of the session.
async fn refused(
    link: &Link,
    done: &mut oneshot::Receiver<Status>,
    over: &mut Option<TransferError>,
) -> TransferError {
    if let Some(error) = over {
        return error.clone();
    }
    let error = match done.await {
        Ok(status) => TransferError::Peer(status),
        Err(_) => link.error().into(),
    };
    over.insert(error).clone()
}

impl Drop for Expose {
    fn drop(&mut self) {
        self.end(Status::cancelled());
    }
}
