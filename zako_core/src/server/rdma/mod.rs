//! The road over RDMA: who may take it, and the service that sets its sessions up.
//!
//! The bytes move by `zako_rdma::session`; here they come from the store and go to it.

mod call;
mod get;
mod network;
mod probe;
mod put;
mod rights;
mod service;

use std::sync::Arc;
use std::time::Duration;

pub use network::{Network, ParseNetworkError};
use parking_lot::Mutex;
pub(super) use probe::{LONGEST_MESSAGE, ProbeService};
pub(super) use service::RdmaService;
use zako_rdma::fabric::Fabric;
use zako_rdma::session::{Budget, BudgetLimits, BudgetUsed, SessionOptions};

use crate::cas::{CasError, ErrorKind, Result};
use crate::negotiate::{Peer, PeerAddr};

/// A session on which nothing moves for so long pins memory for nothing.
const IDLE: Duration = Duration::from_secs(5 * 60);

/// How a server offers RDMA.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct RdmaOptions {
    /// The port that sessions use.
    pub fabric: Arc<dyn Fabric>,
    /// Who is offered RDMA: peers that come from these networks. What moves over it is
    /// neither encrypted nor bound to a peer's identity, so they must be trusted, and so
    /// must everyone who can get packets into them.
    pub trusted: Vec<Network>,
    /// How each session behaves.
    pub session: SessionOptions,
    /// What all sessions may take together.
    pub limits: BudgetLimits,
}

/// The road as a server has it.
#[derive(Debug)]
pub(super) struct RdmaRoad {
    options: RdmaOptions,
    budget: Budget,
    /// The connections that have a probe.
    probing: Mutex<Vec<Arc<Peer>>>,
}

impl RdmaOptions {
    /// RDMA over this port, for peers of these networks.
    pub fn new(fabric: Arc<dyn Fabric>, trusted: Vec<Network>) -> Self {
        Self {
            fabric,
            trusted,
            session: SessionOptions {
                idle_timeout: Some(IDLE),
                ..SessionOptions::default()
            },
            limits: BudgetLimits::default(),
        }
    }
}

impl RdmaRoad {
    pub(super) fn new(options: RdmaOptions) -> Self {
        Self {
            budget: Budget::new(options.limits),
            options,
            probing: Mutex::default(),
        }
    }

    /// Whether this peer can have a session.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if it never can from where it is,
    /// [`ErrorKind::NoSpace`] if there are as many as may be.
    pub(super) fn check(&self, peer: &Peer) -> Result<()> {
        let unsupported = |text: String| Err(CasError::new(ErrorKind::Unsupported, text));
        let ip = match peer.addr() {
            PeerAddr::Tcp { remote, .. } => remote.ip(),
            PeerAddr::Unix { .. } => {
                return unsupported("RDMA is for connections over TCP".to_owned());
            }
        };
        if !self.options.trusted.iter().any(|one| one.contains(ip)) {
            let ip = ip.to_canonical();
            return unsupported(format!("{ip} is in no network that is trusted with RDMA"));
        }
        if self.used().sessions >= self.options.limits.sessions {
            return Err(CasError::new(
                ErrorKind::NoSpace,
                format!("there are {} RDMA sessions already", self.used().sessions),
            ));
        }
        Ok(())
    }

    /// What its sessions take.
    pub(super) fn used(&self) -> BudgetUsed {
        self.budget.used()
    }
}
