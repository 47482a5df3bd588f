//! The messages of the control stream, checked for all that can be checked in one alone.
//!
//! Client and server send nearly the same; these are what both have in common, so that
//! one state machine serves both ends. What comes is checked once, here, and what is
//! behind needs no `Option`s.

use std::fmt::Debug;

use bytes::Bytes;
use zako_digest::{BlobRange, Digest};
use zako_protobuf::rdma::{self, client_message, server_message};

use super::error::SessionError;
use super::hello::Hello;
use super::status::Status;
use super::trace::TraceContext;
use crate::fabric::Access;

/// The version of the protocol.
pub const VERSION: u32 = 1;
/// The length of a nonce.
pub const NONCE_BYTES: usize = 64;

/// The bytes at the beginning of an end's exposed memory.
pub type Nonce = [u8; NONCE_BYTES];

/// A message of either end.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The offer of a client, or the answer of a server.
    Hello(Hello),
    /// The sender's queue pair is ready.
    Ready(Nonce),
    /// What came of reading the receiver's nonce.
    Checked(Status),
    /// Asks for a blob.
    Get {
        /// The new transfer.
        transfer: u64,
        /// Which blob.
        digest: Digest,
        /// Which part of it.
        range: BlobRange,
    },
    /// Offers a blob.
    Put {
        /// The new transfer.
        transfer: u64,
        /// Which blob.
        digest: Digest,
        /// Where it begins.
        offset: u64,
    },
    /// The trace that a transfer is a part of, ahead of its Get or Put.
    Trace {
        /// The transfer to come.
        transfer: u64,
        /// What travels with it.
        context: TraceContext,
    },
    /// The server begins with a transfer.
    Accepted {
        /// Which.
        transfer: u64,
    },
    /// The next bytes of a transfer.
    Grant {
        /// Which.
        transfer: u64,
        /// In the sender's memory.
        offset: u64,
        /// In bytes.
        length: u32,
    },
    /// The last word of who exposes.
    End {
        /// On which transfer.
        transfer: u64,
        /// What it says.
        status: Status,
    },
    /// The oldest grants were read.
    Release {
        /// Of which transfer.
        transfer: u64,
        /// How many.
        grants: u32,
    },
    /// The last word of who pulls.
    Done {
        /// On which transfer.
        transfer: u64,
        /// What it says.
        status: Status,
    },
    /// The end of the session.
    Close(Status),
}

/// Which end of a session this is: what it may send and gets.
pub trait Role: Debug + Send + 'static {
    /// Whether it speaks first.
    const BEGINS: bool;
    /// What the peer may do with the memory that this end exposes.
    const EXPOSES: Access = Access::Read;
    /// What comes.
    type Incoming: Debug + Send + 'static;
    /// What goes out.
    type Outgoing: Debug + Send + 'static;

    /// Checks what came.
    ///
    /// # Errors
    /// [`SessionError::Malformed`].
    fn read(message: Self::Incoming) -> Result<Message, SessionError>;

    /// Makes a message to be sent; `None` if it is not one of this end.
    fn write(message: Message) -> Option<Self::Outgoing>;
}

/// The end that begins.
#[derive(Debug)]
pub enum Client {}

/// The end that has the store.
#[derive(Debug)]
pub enum Server {}

impl Role for Client {
    const BEGINS: bool = true;
    type Incoming = rdma::ServerMessage;
    type Outgoing = rdma::ClientMessage;

    fn read(message: rdma::ServerMessage) -> Result<Message, SessionError> {
        use server_message::Message as Wire;
        Ok(match message.message.ok_or_else(|| malformed("empty"))? {
            Wire::Answer(endpoint) => Message::Hello(endpoint.try_into()?),
            Wire::Ready(ready) => ready.try_into()?,
            Wire::Checked(checked) => Message::Checked(status(checked.status)?),
            Wire::Accepted(accepted) => Message::Accepted {
                transfer: accepted.transfer,
            },
            Wire::Grant(grant) => grant.try_into()?,
            Wire::End(end) => end.try_into()?,
            Wire::Release(release) => release.try_into()?,
            Wire::Done(done) => done.try_into()?,
            Wire::Close(close) => Message::Close(status(close.status)?),
        })
    }

    fn write(message: Message) -> Option<rdma::ClientMessage> {
        use client_message::Message as Wire;
        let message = match message {
            Message::Hello(hello) => Wire::Offer(hello.into()),
            Message::Ready(nonce) => Wire::Ready(ready(nonce)),
            Message::Checked(status) => Wire::Checked(checked(status)),
            Message::Get {
                transfer,
                digest,
                range,
            } => Wire::Get(rdma::Get {
                transfer,
                digest: Some(digest.into()),
                range: Some(range.into()),
            }),
            Message::Put {
                transfer,
                digest,
                offset,
            } => Wire::Put(rdma::Put {
                transfer,
                digest: Some(digest.into()),
                offset,
            }),
            Message::Trace { transfer, context } => Wire::Trace(context.to_wire(transfer)),
            Message::Accepted { .. } => return None,
            Message::Grant {
                transfer,
                offset,
                length,
            } => Wire::Grant(grant(transfer, offset, length)),
            Message::End { transfer, status } => Wire::End(end(transfer, status)),
            Message::Release { transfer, grants } => Wire::Release(release(transfer, grants)),
            Message::Done { transfer, status } => Wire::Done(done(transfer, status)),
            Message::Close(status) => Wire::Close(close(status)),
        };
        Some(rdma::ClientMessage {
            message: Some(message),
        })
    }
}

impl Role for Server {
    const BEGINS: bool = false;
    type Incoming = rdma::ClientMessage;
    type Outgoing = rdma::ServerMessage;

    fn read(message: rdma::ClientMessage) -> Result<Message, SessionError> {
        use client_message::Message as Wire;
        Ok(match message.message.ok_or_else(|| malformed("empty"))? {
            Wire::Offer(endpoint) => Message::Hello(endpoint.try_into()?),
            Wire::Ready(ready) => ready.try_into()?,
            Wire::Checked(checked) => Message::Checked(status(checked.status)?),
            Wire::Get(get) => Message::Get {
                transfer: get.transfer,
                digest: digest(get.digest)?,
                range: get
                    .range
                    .ok_or_else(|| malformed("a Get without a range"))?
                    .into(),
            },
            Wire::Put(put) => Message::Put {
                transfer: put.transfer,
                digest: digest(put.digest)?,
                offset: put.offset,
            },
            Wire::Trace(trace) => Message::Trace {
                transfer: trace.transfer,
                context: TraceContext::of_wire(trace.traceparent, trace.tracestate),
            },
            Wire::Grant(grant) => grant.try_into()?,
            Wire::End(end) => end.try_into()?,
            Wire::Release(release) => release.try_into()?,
            Wire::Done(done) => done.try_into()?,
            Wire::Close(close) => Message::Close(status(close.status)?),
        })
    }

    fn write(message: Message) -> Option<rdma::ServerMessage> {
        use server_message::Message as Wire;
        let message = match message {
            Message::Hello(hello) => Wire::Answer(hello.into()),
            Message::Ready(nonce) => Wire::Ready(ready(nonce)),
            Message::Checked(status) => Wire::Checked(checked(status)),
            Message::Get { .. } | Message::Put { .. } | Message::Trace { .. } => return None,
            Message::Accepted { transfer } => Wire::Accepted(rdma::Accepted { transfer }),
            Message::Grant {
                transfer,
                offset,
                length,
            } => Wire::Grant(grant(transfer, offset, length)),
            Message::End { transfer, status } => Wire::End(end(transfer, status)),
            Message::Release { transfer, grants } => Wire::Release(release(transfer, grants)),
            Message::Done { transfer, status } => Wire::Done(done(transfer, status)),
            Message::Close(status) => Wire::Close(close(status)),
        };
        Some(rdma::ServerMessage {
            message: Some(message),
        })
    }
}

impl TryFrom<rdma::Ready> for Message {
    type Error = SessionError;

    fn try_from(ready: rdma::Ready) -> Result<Self, SessionError> {
        Nonce::try_from(&ready.nonce[..])
            .map(Message::Ready)
            .map_err(|_| malformed("a nonce is not 64 bytes"))
    }
}

impl TryFrom<rdma::Grant> for Message {
    type Error = SessionError;

    fn try_from(grant: rdma::Grant) -> Result<Self, SessionError> {
        if grant.length == 0 {
            return Err(malformed("a grant of nothing"));
        }
        Ok(Self::Grant {
            transfer: grant.transfer,
            offset: grant.offset,
            length: grant.length,
        })
    }
}

impl TryFrom<rdma::End> for Message {
    type Error = SessionError;

    fn try_from(end: rdma::End) -> Result<Self, SessionError> {
        Ok(Self::End {
            transfer: end.transfer,
            status: status(end.status)?,
        })
    }
}

impl TryFrom<rdma::Release> for Message {
    type Error = SessionError;

    fn try_from(release: rdma::Release) -> Result<Self, SessionError> {
        if release.grants == 0 {
            return Err(malformed("a release of nothing"));
        }
        Ok(Self::Release {
            transfer: release.transfer,
            grants: release.grants,
        })
    }
}

impl TryFrom<rdma::Done> for Message {
    type Error = SessionError;

    fn try_from(done: rdma::Done) -> Result<Self, SessionError> {
        Ok(Self::Done {
            transfer: done.transfer,
            status: status(done.status)?,
        })
    }
}

pub(crate) fn malformed(what: &str) -> SessionError {
    SessionError::Malformed(what.to_owned())
}

pub(crate) fn status(status: Option<rdma::Status>) -> Result<Status, SessionError> {
    Ok(status
        .ok_or_else(|| malformed("a message without a status"))?
        .into())
}

fn digest(digest: Option<zako_protobuf::digest::Digest>) -> Result<Digest, SessionError> {
    digest
        .ok_or_else(|| malformed("a transfer without a digest"))?
        .try_into()
        .map_err(|error: zako_digest::DigestProtoError| malformed(&error.to_string()))
}

pub(crate) fn ready(nonce: Nonce) -> rdma::Ready {
    rdma::Ready {
        nonce: Bytes::copy_from_slice(&nonce),
    }
}

pub(crate) fn checked(status: Status) -> rdma::Checked {
    rdma::Checked {
        status: Some(status.into()),
    }
}

fn grant(transfer: u64, offset: u64, length: u32) -> rdma::Grant {
    rdma::Grant {
        transfer,
        offset,
        length,
    }
}

fn end(transfer: u64, status: Status) -> rdma::End {
    rdma::End {
        transfer,
        status: Some(status.into()),
    }
}

fn release(transfer: u64, grants: u32) -> rdma::Release {
    rdma::Release { transfer, grants }
}

fn done(transfer: u64, status: Status) -> rdma::Done {
    rdma::Done {
        transfer,
        status: Some(status.into()),
    }
}

pub(crate) fn close(status: Status) -> rdma::Close {
    rdma::Close {
        status: Some(status.into()),
    }
}
