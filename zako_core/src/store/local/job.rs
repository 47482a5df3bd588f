//! What the committer is asked to do.

use std::sync::mpsc::Sender;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::index::Place;
use super::record::Stream;
use super::space::Room;
use super::waiting::Waiting;
use crate::cas::{Result, Stored};
use crate::{Digest, Hash};

/// Work for the committer.
pub(super) enum Job {
    /// Store blobs whose bytes were found to be theirs.
    Put {
        trace: Waiting,
        blobs: Vec<(Digest, Bytes)>,
        room: Room,
        /// Bounds the bytes that wait in the queue.
        permit: OwnedSemaphorePermit,
        /// When it was handed over, if anyone wants to know.
        since: Option<Instant>,
        ack: oneshot::Sender<Vec<Result<Stored>>>,
    },
    /// Move live records to another segment, and carry tombstones over.
    Move {
        blobs: Vec<(Digest, Bytes, Place)>,
        tombstones: Vec<(Hash, u64)>,
        stream: Stream,
        room: Room,
        ack: Sender<Result<()>>,
    },
    /// Remove a blob that lies in a record; `false` if there is none. Stays removed
    /// after a crash in both cases.
    Delete {
        digest: Digest,
        /// Only if its record lies there.
        only_at: Option<Place>,
        ack: oneshot::Sender<Result<bool>>,
    },
    /// Seal the segments that are being appended to, so that they can be evicted.
    Roll { ack: Sender<()> },
    /// Seal and end.
    Close,
}
