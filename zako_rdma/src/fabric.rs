//! What a session needs of a network card.
//!
//! The terms are those of the InfiniBand Architecture Specification, volume 1: queue
//! pairs of the Reliable Connected service (9.7), their states (10.3), work requests
//! and completions (11.4). A fabric is a card with libibverbs, or memory for tests.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};

use serde::{Deserialize, Serialize};

use crate::memory::{Slab, Slot};

/// The result of what a fabric does.
pub type Result<T, E = FabricError> = std::result::Result<T, E>;

/// A port of a card on which endpoints can be made.
pub trait Fabric: fmt::Debug + Send + Sync + 'static {
    /// The port in a word, such as `rxe0 port 1, GID 1`, for people.
    fn name(&self) -> &str;

    /// What its endpoints can do.
    fn limits(&self) -> Limits;

    /// A new endpoint in a protection domain of its own, so that no key of another one
    /// is good for it. It accepts nothing before [`Endpoint::connect`].
    ///
    /// # Errors
    /// [`FailureKind::Resources`] if the card has no more, [`FailureKind::Device`] if
    /// it failed.
    fn endpoint(&self, options: &EndpointOptions) -> Result<Box<dyn Endpoint>>;
}

/// A queue pair of the Reliable Connected service with its own protection domain,
/// completion queue and random first packet sequence number.
///
/// One task owns it. Dropping it never fails and never frees memory that the card may
/// still touch: what is posted is made to end first ([`fail`](Self::fail)), and memory
/// whose work did not end in time is kept for good.
pub trait Endpoint: fmt::Debug + Send + 'static {
    /// Where a peer connects to.
    fn address(&self) -> Address;

    /// Makes a slab known to the card. Its slots may be used in work of this endpoint
    /// from now on; a peer may do what `access` says, and nothing before
    /// [`connect`](Self::connect). The slab is kept as long as the endpoint.
    ///
    /// # Errors
    /// [`FailureKind::MemoryLimit`] if the process may not pin so much.
    fn register(&mut self, slab: &Arc<Slab>, access: Access) -> Result<RemoteMemory>;

    /// Takes the queue pair through Init and Ready to Receive to Ready to Send.
    ///
    /// The peer may post only when it knows that this is done, so it has to be told. A
    /// card that asks the network where the peer is blocks meanwhile, for a second or two
    /// if nobody answers; and not every card finds out that there is no way.
    ///
    /// # Errors
    /// [`FailureKind::Address`] if there is no way to the peer,
    /// [`FailureKind::Device`] if the card failed.
    fn connect(&mut self, peer: &Address) -> Result<()>;

    /// Posts work; its completion comes with the same `id` and gives the slot back.
    ///
    /// # Errors
    /// The slot comes back with the error: [`FailureKind::Full`] if as much is posted
    /// as [`Limits`] and [`EndpointOptions`] allow, [`FailureKind::Flushed`] if the
    /// queue pair has failed, [`FailureKind::Bounds`] if a length is more than the slot
    /// has or the slot's slab isn't registered here.
    fn post(&mut self, id: u64, work: Work) -> std::result::Result<(), (FabricError, Slot)>;

    /// Takes what has been completed, without waiting, in the order of its end.
    ///
    /// # Errors
    /// [`FailureKind::Device`] if the completion queue is broken.
    fn poll(&mut self, completions: &mut Vec<Completion>) -> Result<()>;

    /// Ready when [`poll`](Self::poll) may give something that it didn't give before.
    /// May be ready for nothing.
    ///
    /// # Errors
    /// [`FailureKind::Device`] if the card is gone.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<()>>;

    /// Takes the queue pair to Error: whatever is posted completes as flushed soon, and
    /// the peer can do nothing with it any more.
    ///
    /// # Errors
    /// [`FailureKind::Device`] if the card failed.
    fn fail(&mut self) -> Result<()>;

    /// Work that was posted and is not completed yet.
    fn outstanding(&self) -> usize;
}

/// What the endpoints of a fabric can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// READs that an endpoint may have on the wire as the one that asks.
    pub reads_out: u8,
    /// READs of the peer that an endpoint answers at once.
    pub reads_in: u8,
    /// The longest message, in bytes.
    pub message_bytes: u32,
}

/// How an endpoint is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointOptions {
    /// Work that may be posted at once, of sends, reads and writes, and of receives.
    pub depth: u32,
    /// The time after which an unanswered packet is sent again: 4.096 µs × 2 to this
    /// power. 14 finds a dead peer within about half a second.
    pub timeout: u8,
    /// How often a packet is sent again, 6 at most: 7 is for ever.
    pub retries: u8,
}

impl Default for EndpointOptions {
    fn default() -> Self {
        Self {
            depth: 64,
            timeout: 14,
            retries: 6,
        }
    }
}

/// Where an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The number of the queue pair, 24 bits.
    pub queue_pair: u32,
    /// The port's global identifier; for RoCE its IP address.
    pub gid: [u8; 16],
    /// The port's local identifier; 0 for RoCE.
    pub lid: u16,
    /// The first packet sequence number, 24 bits.
    pub packet_sequence: u32,
    /// The longest payload of a packet, in bytes: 256, 512, 1024, 2048 or 4096.
    pub mtu: u16,
    /// READs that it answers at once.
    pub reads_in: u8,
    /// READs that it asks for at once.
    pub reads_out: u8,
}

/// What a peer may do with registered memory. The endpoint itself may always read and
/// write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Local,
    /// READ.
    Read,
    /// READ and WRITE: for scratch memory that nothing is believed of.
    ReadWrite,
}

/// Registered memory, as a peer names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteMemory {
    /// The address of its first byte.
    pub address: u64,
    /// Its length in bytes.
    pub length: u64,
    /// The key that allows access.
    pub key: u32,
}

/// What an endpoint can be told to do.
#[derive(Debug)]
pub enum Work {
    /// Reads `length` bytes of the peer's memory at `address` into the slot's beginning.
    Read {
        /// Where to.
        into: Slot,
        /// Bytes.
        length: u32,
        /// Where from.
        address: u64,
        /// The key of the peer's memory.
        key: u32,
    },
    /// Writes the slot's first `length` bytes to the peer's memory at `address`.
    Write {
        /// Where from.
        from: Slot,
        /// Bytes.
        length: u32,
        /// Where to.
        address: u64,
        /// The key of the peer's memory.
        key: u32,
    },
    /// Sends the slot's first `length` bytes to who receives there.
    Send {
        /// What.
        from: Slot,
        /// Bytes.
        length: u32,
    },
    /// Receives what the peer sends, up to the slot's length.
    Receive {
        /// Where to.
        into: Slot,
    },
}

/// The end of a piece of work.
#[derive(Debug)]
pub struct Completion {
    /// As it was posted.
    pub id: u64,
    /// Bytes that were moved, or why none can be relied on.
    pub outcome: Result<u32>,
    /// The slot of the work.
    pub slot: Slot,
}

/// Why a fabric did not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FabricError {
    kind: FailureKind,
    message: String,
}

/// The kinds of failures, by what can be done about them.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The peer allows no access to that memory: a wrong key, bounds or rights. Both
    /// queue pairs are in Error after it.
    RemoteAccess,
    /// The peer doesn't answer.
    PeerGone,
    /// The peer has nothing posted to receive into.
    NotReceiving,
    /// The queue pair was in Error before this was done. The cause is another
    /// completion's, or somebody's wish.
    Flushed,
    /// As much is posted as may be.
    Full,
    /// A slot, a length or an address that can't be.
    Bounds,
    /// There is no way to that address.
    Address,
    /// The process may not pin so much memory.
    MemoryLimit,
    /// The card has no more of what was asked for.
    Resources,
    /// RDMA is not to be had here: no library, no card, no rights.
    Unavailable,
    /// The card failed.
    Device,
}

impl FabricError {
    /// A failure of this kind, with a text for a person.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// What can be done about it.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }
}

impl Work {
    /// The slot that it uses.
    pub fn slot(&self) -> &Slot {
        match self {
            Self::Read { into: slot, .. }
            | Self::Write { from: slot, .. }
            | Self::Send { from: slot, .. }
            | Self::Receive { into: slot } => slot,
        }
    }

    /// Takes the slot out of it.
    pub fn into_slot(self) -> Slot {
        match self {
            Self::Read { into: slot, .. }
            | Self::Write { from: slot, .. }
            | Self::Send { from: slot, .. }
            | Self::Receive { into: slot } => slot,
        }
    }

    /// The bytes that it moves at most.
    pub fn length(&self) -> usize {
        match self {
            Self::Read { length, .. } | Self::Write { length, .. } | Self::Send { length, .. } => {
                *length as usize
            }
            Self::Receive { into } => into.len(),
        }
    }
}

impl RemoteMemory {
    /// The address of a part of it, if it has that part.
    pub fn part(&self, offset: u64, length: u64) -> Option<u64> {
        let end = offset.checked_add(length)?;
        if end > self.length {
            return None;
        }
        self.address.checked_add(end)?;
        Some(self.address + offset)
    }

    /// Its addresses, if they are ones.
    pub fn addresses(&self) -> Option<Range<u64>> {
        Some(self.address..self.address.checked_add(self.length)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_beyond_the_end_is_none() {
        let memory = RemoteMemory {
            address: u64::MAX - 100,
            length: 100,
            key: 1,
        };
        assert_eq!(memory.part(0, 100), Some(u64::MAX - 100));
        assert_eq!(memory.part(100, 0), Some(u64::MAX));
        assert_eq!(memory.part(1, 100), None);
        assert_eq!(memory.part(u64::MAX, 2), None);
        let beyond = RemoteMemory {
            address: u64::MAX,
            length: 2,
            key: 1,
        };
        assert_eq!(beyond.part(0, 2), None);
        assert_eq!(beyond.addresses(), None);
    }
}
