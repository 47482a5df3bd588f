//! A fabric in memory, to test with. **Not a transport**: it moves bytes within one
//! process, and only one thread may use the endpoints of a network whose memory is read
//! while it is written. Nothing offers it to a peer.
//!
//! It does what cards do, as seen on the kernel's soft-RoCE:
//! - keys are good in their protection domain only, and bounds and rights are checked: the
//!   first work at fault completes as [`RemoteAccess`](FailureKind::RemoteAccess), what is
//!   behind it as flushed, what was before it has moved its bytes; both queue pairs are in
//!   Error then, the peer's without a completion if it has posted nothing;
//! - posting to a queue pair in Error succeeds and is flushed;
//! - packets for a queue pair that is not connected back, or gone, or behind a cut link, are
//!   dropped, and after the retries the sender is told that its peer is gone;
//! - a send to who receives nothing is tried again, and then fails as
//!   [`NotReceiving`](FailureKind::NotReceiving).
//!
//! What goes wrong beside that is said by [`Faults`]. Time is tokio's, so tests that pause it
//! wait for nothing.

mod endpoint;
mod network;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use endpoint::SoftEndpoint;
use network::Shared;

use crate::fabric::{Endpoint, EndpointOptions, Fabric, FabricError, FailureKind, Limits, Result};

/// Ports that reach one another. Cloning shares it.
#[derive(Clone, Debug)]
pub struct SoftNetwork(Arc<Shared>);

/// A port of it.
#[derive(Debug)]
pub struct SoftFabric {
    network: SoftNetwork,
    name: String,
    gid: [u8; 16],
}

/// What goes wrong on a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// How long each work takes, chosen anew for each.
    pub delay: Range<Duration>,
    /// Work whose completion never comes, by its number over all endpoints, from 0.
    pub lose: Vec<u64>,
    /// Work before which the link is cut, likewise.
    pub cut_at: Option<u64>,
    /// READs of less than 4 KiB give wrong bytes, as from the memory of somebody else.
    pub wrong_nonce: bool,
    /// Work whose last byte arrives as another one, by its number over all endpoints, from 0.
    pub corrupt: Range<u64>,
    /// Bytes that all endpoints together may register.
    pub memory_limit: usize,
    /// Endpoints that there can be.
    pub endpoints: usize,
    /// Posting to a queue pair in Error fails at once.
    pub refuse_in_error: bool,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO..Duration::ZERO,
            lose: Vec::new(),
            cut_at: None,
            wrong_nonce: false,
            corrupt: 0..0,
            memory_limit: usize::MAX,
            endpoints: usize::MAX,
            refuse_in_error: false,
        }
    }
}

impl SoftNetwork {
    /// A network; the same seed gives the same delays to the same work.
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self(Shared::new(seed, faults))
    }

    /// A new port.
    pub fn fabric(&self) -> Arc<SoftFabric> {
        let number = self.0.new_port();
        let mut gid = [0; 16];
        gid[10..12].fill(0xff);
        gid[12..].copy_from_slice(&number.to_be_bytes());
        Arc::new(SoftFabric {
            network: self.clone(),
            name: format!("soft{number}"),
            gid,
        })
    }

    /// Drops all packets from now on.
    pub fn cut(&self) {
        self.0.set_cut(true);
    }

    /// Delivers them again.
    pub fn heal(&self) {
        self.0.set_cut(false);
    }

    /// Work that was posted and not completed, over all endpoints there are.
    pub fn outstanding(&self) -> usize {
        self.0.outstanding()
    }

    /// Endpoints there are.
    pub fn endpoints(&self) -> usize {
        self.0.endpoints()
    }

    /// Bytes registered.
    pub fn registered(&self) -> usize {
        self.0.registered()
    }
}

impl Fabric for SoftFabric {
    fn name(&self) -> &str {
        &self.name
    }

    fn limits(&self) -> Limits {
        Limits {
            reads_out: 16,
            reads_in: 16,
            message_bytes: 1 << 30,
        }
    }

    fn endpoint(&self, options: &EndpointOptions) -> Result<Box<dyn Endpoint>> {
        let shared = Arc::clone(&self.network.0);
        let (Some(address), depth) = (shared.open(self.gid, self.limits()), options.depth) else {
            return Err(FabricError::new(
                FailureKind::Resources,
                "there are no more endpoints",
            ));
        };
        Ok(Box::new(SoftEndpoint::new(shared, address, depth, options)))
    }
}
