//! Which roads blobs took.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::cas::CasError;

/// Which roads the blobs of a client took so far, and how RDMA stands.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roads {
    /// What moved by gRPC.
    pub grpc: RoadUse,
    /// What moved over RDMA.
    pub rdma: RoadUse,
    /// Transfers that were begun over RDMA, or should have been, and went on by gRPC.
    pub fallbacks: u64,
    /// Why the last of them did.
    pub fallback_reason: Option<String>,
    /// How RDMA stands.
    pub rdma_state: RdmaState,
}

/// What moved on one road.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoadUse {
    /// Blobs, and parts of blobs, that moved to their end; those that took two roads count
    /// on the last.
    pub transfers: u64,
    /// Bytes of blobs that came from the server.
    pub received_bytes: u64,
    /// Bytes of blobs that were given to the server.
    pub sent_bytes: u64,
}

/// How RDMA stands for a client.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RdmaState {
    /// The client has no fabric, or is not to use it.
    Off,
    /// The server chose gRPC.
    NotOffered,
    /// The next large blob sets a session up.
    Ready,
    /// A session is open.
    Open,
    /// It failed, and large blobs go by gRPC for a while.
    HeldOff {
        /// What failed.
        reason: String,
        /// Then it is tried again.
        retry_in: Duration,
    },
}

/// Counts what moves.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) grpc: Counter,
    pub(super) rdma: Counter,
    fallbacks: AtomicU64,
    fallback_reason: Mutex<Option<String>>,
}

/// Counts what moves on one road.
#[derive(Debug, Default)]
pub(super) struct Counter {
    transfers: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

impl Counters {
    pub(super) fn fell_back(&self, error: &CasError) {
        self.fallbacks.fetch_add(1, Ordering::Relaxed);
        *self.fallback_reason.lock() = Some(error.to_string());
    }

    pub(super) fn roads(&self, rdma_state: RdmaState) -> Roads {
        Roads {
            grpc: self.grpc.so_far(),
            rdma: self.rdma.so_far(),
            fallbacks: self.fallbacks.load(Ordering::Relaxed),
            fallback_reason: self.fallback_reason.lock().clone(),
            rdma_state,
        }
    }
}

impl Counter {
    /// A transfer came to its end.
    pub(super) fn ended(&self) {
        self.transfers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn so_far(&self) -> RoadUse {
        RoadUse {
            transfers: self.transfers.load(Ordering::Relaxed),
            received_bytes: self.received.load(Ordering::Relaxed),
            sent_bytes: self.sent.load(Ordering::Relaxed),
        }
    }
}
