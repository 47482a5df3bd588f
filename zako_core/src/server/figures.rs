//! What a server holds at a moment.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::connection::Shared;

/// Reads a server's [`Figures`] for as long as it is kept, while the server runs and
/// after.
#[derive(Clone)]
pub struct FiguresReader(Arc<Shared>);

/// What a server holds at a moment.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// How long it has been there.
    pub uptime: Duration,
    /// Connections of its port.
    pub connections: usize,
    /// Calls that run.
    pub calls: usize,
    /// Uploads that run.
    pub uploads: usize,
    /// Sessions alive.
    pub sessions: usize,
    /// Tokens that can be redeemed.
    pub tokens: usize,
    /// Sessions over RDMA.
    pub rdma_sessions: usize,
    /// Memory pinned for them, in bytes.
    pub rdma_pinned_bytes: u64,
    /// Whether it takes no more calls, since it shuts down.
    pub is_draining: bool,
}

impl FiguresReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// The figures now.
    pub fn read(&self) -> Figures {
        let shared = &self.0;
        let rdma = shared.rdma.as_ref().map(|road| road.used());
        let rdma = rdma.unwrap_or_default();
        Figures {
            uptime: shared.began.elapsed(),
            connections: shared.connections.len(),
            calls: shared.calls.tasks.len(),
            uploads: shared.uploads.len(),
            sessions: shared.gate.sessions(),
            tokens: shared.gate.tokens(),
            rdma_sessions: rdma.sessions,
            rdma_pinned_bytes: rdma.bytes,
            is_draining: shared.stop.is_cancelled(),
        }
    }
}

impl fmt::Debug for FiguresReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FiguresReader").field(&self.read()).finish()
    }
}
