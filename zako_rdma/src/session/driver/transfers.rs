//! What messages and commands do to the transfers of a session.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use zako_digest::{BlobRange, Digest};

use super::Driver;
use crate::session::error::SessionError;
use crate::session::expose::Expose;
use crate::session::exposing::Exposing;
use crate::session::link::{Command, Link, blob_range};
use crate::session::message::{Message, Role};
use crate::session::pull::{LastWord, Pull};
use crate::session::pulling::{Granted, Pulling};
use crate::session::server::{GetRequest, PutRequest, Request};
use crate::session::status::{Code, Status};
use crate::session::trace::TraceContext;

impl<R: Role> Driver<'_, R> {
    pub(super) fn on_message(&mut self, message: Message) -> Result<(), SessionError> {
        match message {
            Message::Get {
                transfer,
                digest,
                range,
            } => self.on_get(transfer, digest, range),
            Message::Put {
                transfer,
                digest,
                offset,
            } => self.on_put(transfer, digest, offset),
            Message::Trace { transfer, context } => {
                self.trace = Some((transfer, context));
                Ok(())
            }
            Message::Accepted { transfer } => match self.pulls.get_mut(&transfer) {
                Some(pulling) => pulling.on_accepted(),
                None => self.expose(transfer)?.on_accepted(),
            },
            Message::Grant {
                transfer,
                offset,
                length,
            } => {
                let in_memory = self.peer.memory.part(offset, length.into()).is_some();
                if !in_memory || length as usize > self.parts.grant_bytes {
                    return Err(SessionError::Malformed(format!(
                        "a grant of {length} bytes at {offset}"
                    )));
                }
                self.pull(transfer)?.on_grant(Granted { offset, length })
            }
            Message::End { transfer, status } => {
                self.pull(transfer)?.on_end(status)?;
                self.settle_pull(transfer)
            }
            Message::Release { transfer, grants } => {
                self.expose(transfer)?.on_release(grants)?;
                self.tell_grants(transfer)
            }
            Message::Done { transfer, status } => {
                self.expose(transfer)?.on_done(status)?;
                self.settle_expose(transfer);
                Ok(())
            }
            Message::Hello(_) | Message::Ready(_) | Message::Checked(_) | Message::Close(_) => Err(
                SessionError::OutOfOrder("a message of the beginning came again".to_owned()),
            ),
        }
    }

    fn on_get(
        &mut self,
        transfer: u64,
        digest: Digest,
        range: BlobRange,
    ) -> Result<(), SessionError> {
        self.begins(transfer)?;
        let (done, last_word) = oneshot::channel();
        let range = match range.resolve(digest.size()) {
            Ok(range) => range,
            Err(error) => {
                self.exposes.insert(transfer, Exposing::offered(0, done));
                let status = Status::new(Code::InvalidArgument, error.to_string());
                return self.end_expose(transfer, status);
            }
        };
        let bytes = range.end - range.start;
        self.exposes
            .insert(transfer, Exposing::offered(bytes, done));
        match self.link() {
            Some(link) => {
                let expose = Expose::new(link, transfer, digest, range, last_word);
                let trace = self.trace_of(transfer);
                self.ask(Request::Get(GetRequest(expose, trace)));
                Ok(())
            }
            None => self.end_expose(transfer, unserved()),
        }
    }

    fn on_put(&mut self, transfer: u64, digest: Digest, offset: u64) -> Result<(), SessionError> {
        self.begins(transfer)?;
        let (pieces, taken) = mpsc::unbounded_channel();
        let holder = self.parts.pull_shares.holder();
        let bytes = digest.size().checked_sub(offset);
        let pulling = Pulling::offered(bytes.unwrap_or(0), pieces, holder);
        self.pulls.insert(transfer, pulling);
        if bytes.is_none() {
            let text = format!("a blob of {} bytes has no offset {offset}", digest.size());
            return self.finish_pull(transfer, Status::new(Code::InvalidArgument, text));
        }
        match self.link() {
            Some(link) => {
                let range = offset..digest.size();
                let last_word = LastWord::NotStored;
                let pull = Pull::new(link, transfer, digest, range, taken, last_word);
                let trace = self.trace_of(transfer);
                self.ask(Request::Put(PutRequest(pull, trace)));
                Ok(())
            }
            None => self.finish_pull(transfer, unserved()),
        }
    }

    pub(super) fn on_command(&mut self, command: Option<Command>) -> Result<(), SessionError> {
        match command {
            None | Some(Command::Close) => return Err(SessionError::Closed),
            Some(Command::Get {
                trace,
                transfer,
                digest,
                range,
                opened,
                pieces,
                permit,
            }) => {
                let bytes = range.end.saturating_sub(range.start);
                let holder = self.parts.pull_shares.holder();
                let pulling = Pulling::asked(bytes, opened, pieces, holder, permit);
                self.pulls.insert(transfer, pulling);
                let range = blob_range(&range);
                self.tell_trace(transfer, trace)?;
                self.setup.wire.send(Message::Get {
                    transfer,
                    digest,
                    range,
                })?;
            }
            Some(Command::Put {
                trace,
                transfer,
                digest,
                offset,
                opened,
                done,
                permit,
            }) => {
                let bytes = digest.size().saturating_sub(offset);
                let exposing = Exposing::asked(bytes, opened, done, permit);
                self.exposes.insert(transfer, exposing);
                self.tell_trace(transfer, trace)?;
                self.setup.wire.send(Message::Put {
                    transfer,
                    digest,
                    offset,
                })?;
            }
            Some(Command::Accept { transfer }) => {
                let begins = match self.pulls.get_mut(&transfer) {
                    Some(pulling) => pulling.accept(),
                    None => self
                        .exposes
                        .get_mut(&transfer)
                        .is_some_and(Exposing::accept),
                };
                if begins {
                    self.setup.wire.send(Message::Accepted { transfer })?;
                }
            }
            Some(Command::Grant { transfer, filled }) => {
                if let Some(exposing) = self.exposes.get_mut(&transfer) {
                    exposing.grant(filled);
                    self.tell_grants(transfer)?;
                }
            }
            Some(Command::End { transfer, status }) => return self.end_expose(transfer, status),
            Some(Command::Finish { transfer, status }) => {
                return self.finish_pull(transfer, status);
            }
        }
        Ok(())
    }

    /// The peer begins a transfer.
    fn begins(&mut self, transfer: u64) -> Result<(), SessionError> {
        if transfer <= self.last_begun {
            return Err(SessionError::OutOfOrder(format!(
                "transfer {transfer} begins after {}",
                self.last_begun
            )));
        }
        if self.pulls.len() + self.exposes.len() >= self.transfers {
            return Err(SessionError::OutOfOrder(format!(
                "there are {} transfers, which is the limit",
                self.transfers
            )));
        }
        self.last_begun = transfer;
        Ok(())
    }

    fn tell_grants(&mut self, transfer: u64) -> Result<(), SessionError> {
        let Some(exposing) = self.exposes.get_mut(&transfer) else {
            return Ok(());
        };
        for _ in 0..exposing.grants_due() {
            if let Some((offset, length)) = exposing.next_grant() {
                self.setup.wire.send(Message::Grant {
                    transfer,
                    offset,
                    length,
                })?;
            }
        }
        Ok(())
    }

    fn end_expose(&mut self, transfer: u64, status: Status) -> Result<(), SessionError> {
        if let Some(exposing) = self.exposes.get_mut(&transfer)
            && exposing.end(&status)
        {
            self.setup.wire.send(Message::End { transfer, status })?;
            self.settle_expose(transfer);
        }
        Ok(())
    }

    fn finish_pull(&mut self, transfer: u64, status: Status) -> Result<(), SessionError> {
        if let Some(pulling) = self.pulls.get_mut(&transfer) {
            pulling.finish(status);
        }
        self.settle_pull(transfer)
    }

    /// Says what there is to say about a transfer, and forgets one that is over.
    pub(super) fn settle_pull(&mut self, transfer: u64) -> Result<(), SessionError> {
        let Some(pulling) = self.pulls.get_mut(&transfer) else {
            return Ok(());
        };
        if let Some(grants) = pulling.take_released() {
            let release = Message::Release { transfer, grants };
            self.setup.wire.send(release)?;
        }
        if let Some(status) = pulling.take_last_word() {
            self.setup.wire.send(Message::Done { transfer, status })?;
        }
        if pulling.is_over() {
            self.pulls.remove(&transfer);
        }
        Ok(())
    }

    fn settle_expose(&mut self, transfer: u64) {
        if self.exposes.get(&transfer).is_some_and(Exposing::is_over) {
            self.exposes.remove(&transfer);
        }
    }

    /// A handle, unless all others are gone.
    fn link(&self) -> Option<Link> {
        Some(Link {
            commands: self.way.upgrade()?,
            parts: Arc::clone(&self.parts),
        })
    }

    /// The trace that was told of this transfer.
    fn trace_of(&mut self, transfer: u64) -> Option<TraceContext> {
        let (of, context) = self.trace.take()?;
        (of == transfer).then_some(context)
    }

    fn tell_trace(
        &mut self,
        transfer: u64,
        trace: Option<TraceContext>,
    ) -> Result<(), SessionError> {
        match trace {
            Some(context) => self.setup.wire.send(Message::Trace { transfer, context }),
            None => Ok(()),
        }
    }

    /// If nobody takes it, it is refused by being dropped.
    fn ask(&self, request: Request) {
        if let Some(requests) = &self.requests {
            let _unserved = requests.send(request);
        }
    }

    fn pull(&mut self, transfer: u64) -> Result<&mut Pulling, SessionError> {
        let pulling = self.pulls.get_mut(&transfer);
        pulling.ok_or_else(|| unknown(transfer))
    }

    fn expose(&mut self, transfer: u64) -> Result<&mut Exposing, SessionError> {
        let exposing = self.exposes.get_mut(&transfer);
        exposing.ok_or_else(|| unknown(transfer))
    }
}

fn unserved() -> Status {
    Status::new(Code::Unavailable, "nobody serves this session any more")
}

fn unknown(transfer: u64) -> SessionError {
    SessionError::OutOfOrder(format!("there is no transfer {transfer} of that kind"))
}
