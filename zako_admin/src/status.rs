//! All that the status page tells, which is also `/status.json`.

use serde::Serialize;
use zako_core::cas::Usage;
use zako_core::server::Figures;

use crate::events::EventRow;
use crate::recorder::Activity;

/// A server at a moment.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Status {
    pub(crate) version: &'static str,
    /// `opening`, `ready`, `draining`.
    pub(crate) state: &'static str,
    /// Why it isn't ready.
    pub(crate) reason: Option<String>,
    pub(crate) time: String,
    pub(crate) uptime_seconds: u64,
    /// How it was started.
    pub(crate) facts: Vec<Fact>,
    /// Absent while the store is opened.
    pub(crate) store: Option<StoreStatus>,
    pub(crate) server: Option<ServerStatus>,
    pub(crate) activity: Activity,
    /// Warnings and errors of the log, the last first.
    pub(crate) events: Vec<EventRow>,
}

/// Something that doesn't change while the server runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// What it is of.
    pub name: &'static str,
    /// It.
    pub value: String,
}

/// What is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct StoreStatus {
    pub(crate) blobs: u64,
    pub(crate) blob_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) disk_cap_bytes: u64,
    pub(crate) reclaimable_bytes: u64,
    pub(crate) leased_bytes: u64,
    pub(crate) partial_bytes: u64,
    pub(crate) quarantined_blobs: u64,
    pub(crate) durability: &'static str,
}

/// What the server holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ServerStatus {
    pub(crate) connections: usize,
    pub(crate) calls: usize,
    pub(crate) uploads: usize,
    pub(crate) sessions: usize,
    pub(crate) tokens: usize,
    pub(crate) rdma_sessions: usize,
    pub(crate) rdma_pinned_bytes: u64,
}

impl Fact {
    /// Of this name.
    pub fn new(name: &'static str, value: impl Into<String>) -> Self {
        Self {
            name,
            value: value.into(),
        }
    }
}

impl From<&Usage> for StoreStatus {
    fn from(usage: &Usage) -> Self {
        Self {
            blobs: usage.blobs,
            blob_bytes: usage.blob_bytes,
            disk_bytes: usage.disk_bytes,
            disk_cap_bytes: usage.disk_cap_bytes,
            reclaimable_bytes: usage.reclaimable_bytes,
            leased_bytes: usage.leased_bytes,
            partial_bytes: usage.partial_bytes,
            quarantined_blobs: usage.quarantined_blobs,
            durability: usage.durability,
        }
    }
}

impl From<Figures> for ServerStatus {
    fn from(figures: Figures) -> Self {
        Self {
            connections: figures.connections,
            calls: figures.calls,
            uploads: figures.uploads,
            sessions: figures.sessions,
            tokens: figures.tokens,
            rdma_sessions: figures.rdma_sessions,
            rdma_pinned_bytes: figures.rdma_pinned_bytes,
        }
    }
}
