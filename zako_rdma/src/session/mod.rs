//! Moving blobs over a fabric: the receiver pulls.
//!
//! A session joins a client and a server that has a store. Its control stream carries the
//! messages of `zako.v1.rdma` (a bidirectional gRPC stream; here any [`Control`]); bytes
//! move by one-sided READs of whoever receives them, so no memory is ever remotely
//! writable, and nothing that was hashed can be changed from outside afterwards.
//!
//! # Setting up
//! 1. The client sends its offer, the server its answer: where the queue pair is, and the
//!    memory that may be READ there. The server takes nothing for an offer that makes no
//!    sense.
//! 2. Each end connects its queue pair and then says Ready, with a nonce of 64 random bytes
//!    that it has put at the beginning of its memory. Nothing is posted before the peer's
//!    Ready: a packet that comes before is dropped, and a dropped one ends a queue pair.
//! 3. Each end READs the peer's nonce, compares it with what the peer said, and says Checked.
//!    The reader compares, since it is the one that would believe wrong bytes, and the nonce
//!    is told apart, since only so does equality prove that the memory it read is the peer's.
//!    If an end fails to within [`SessionOptions::check_timeout`], there is no session.
//!
//! # Transfers
//! The client begins each one, with Get or Put and a number larger than all before, and the
//! server says Accepted. From there on both directions are the same:
//! - Who exposes copies bytes to runs of slots, which lie next to each other, and sends a Grant
//!   for each run, in their order, and then its last word, End: success if all bytes were
//!   granted. No run is longer than both ends' [`SessionOptions::run_slots`] allow.
//! - Who pulls READs the grants, each in one READ if it has as long a run of slots itself,
//!   sends Release for those that it has read, and then its last
//!   word, Done: nothing of the transfer will be READ any more. Until then, or until it is
//!   released, a granted slot stays as it is.
//! - Either may say its last word early, which gives the transfer up; the other one follows.
//!   A transfer is over when both have been said, so no message is ever about a transfer that
//!   is not known: one that is breaks the protocol.
//! - Bytes are not checked here; who pulls hashes them before it believes them. A failed
//!   session may have given a part of them.
//!
//! # The end
//! Close, the end of the control stream, a broken rule, or the first error of the card ends
//! the session, and it only. An error takes both queue pairs to Error, so there are none that
//! concern one transfer: all fail, with the first error as their cause, whatever was flushed
//! behind it ([`Lifecycle`]). Then the queue pair is taken to Error, what is posted is waited
//! for ([`SessionOptions::drain_timeout`] at most; memory whose work did not end is kept for
//! good and stays in the [`Budget`]), and the endpoint is dropped, then the memory.
//! A killed peer gives no completion, but its control stream ends; a READ that is never
//! completed ends the session after [`SessionOptions::read_timeout`].
//!
//! A malformed message is [`SessionError::Malformed`] (INVALID_ARGUMENT), one that may not come
//! now [`SessionError::OutOfOrder`] (FAILED_PRECONDITION). Every offset of a peer goes through
//! [`RemoteMemory::part`](crate::fabric::RemoteMemory::part).
//!
//! # Memory
//! One slab is exposed, for READ only; one is pulled into. Both are new for each session, so
//! nothing of another one is in them. Work owns its slot until it is completed, so no future
//! that is dropped frees what the card may touch. Each transfer can have a slot whenever it
//! has none, so one that nobody reads holds up no other.

mod budget;
mod card;
mod client;
mod driver;
mod error;
mod expose;
mod exposing;
pub(crate) mod handshake;
mod hello;
mod link;
pub(crate) mod message;
mod options;
mod pull;
mod pulling;
mod server;
mod shares;
mod state;
mod status;
mod trace;
pub(crate) mod wire;

pub use budget::{Budget, BudgetLimits, BudgetUsed};
pub use client::{ClientSession, connect};
pub use error::{SessionError, TransferError};
pub use expose::Expose;
pub use hello::Hello;
pub use link::FreeSlots;
pub use message::{Client, Message, NONCE_BYTES, Nonce, Role, Server, VERSION};
pub use options::SessionOptions;
pub use pull::Pull;
pub use server::{GetRequest, PutRequest, Request, ServerSession, accept};
pub use state::{Lifecycle, State, Verdict};
pub use status::{Code, Status};
pub use trace::TraceContext;
pub use wire::Control;
