//! The server: the services of `zako.v1` over a store.
//!
//! [`Server::bind`] takes the address, [`BoundServer::serve`] answers calls until
//! it is told to stop. The bulk calls go past generated code
//! ([`transport::grpc`](crate::transport::grpc)); all others are tonic's.

mod activity;
mod admission;
mod answer;
mod batch;
mod body;
mod cas;
mod connection;
mod deadline;
mod download;
mod drain;
mod entries;
mod face;
mod figures;
mod gated;
mod idle_body;
mod listen;
mod memory;
mod meter;
mod methods;
mod options;
mod port;
mod preface;
mod rdma;
mod resource;
mod roles;
mod secure;
mod sendfile;
mod serve;
mod span;
mod stall;
mod status;
mod store;
mod stream_body;
mod transport;
mod upload;
mod watch;
mod windows;

use std::fmt;
use std::sync::Arc;

pub use drain::DrainLimit;
pub use face::{Answering, Broken, Call, CallBody, Face, Reply};
pub use figures::{Figures, FiguresReader};
pub use listen::{ListenAddr, ListenSocket, ParseListenAddrError};
pub use memory::Share;
pub use options::{MaintenanceAccess, ServerOptions};
pub use port::{Port, PortConnection, PortOptions, PortStream};
pub use rdma::{Network, ParseNetworkError, RdmaOptions};
pub use serve::{BoundServer, Notice};
pub use status::{bad_frame, bad_request, to_status};

use crate::access::{Authorizer, Quota};
use crate::cas::{Cas, Maintain, Result};
use crate::negotiate::{Clock, SystemClock};
use crate::observe::Observer;
use crate::tls::TlsAcceptor;

/// A server that is not listening yet.
pub struct Server {
    cas: Arc<dyn Cas>,
    maintain: Option<Arc<dyn Maintain>>,
    clock: Arc<dyn Clock>,
    options: ServerOptions,
    rdma: Option<RdmaOptions>,
    faces: Vec<Arc<dyn Face>>,
    observer: Option<Arc<dyn Observer>>,
    authorizer: Option<Arc<dyn Authorizer>>,
    quota: Option<Arc<dyn Quota>>,
    tls: Option<TlsAcceptor>,
}

impl Server {
    /// A server over this store.
    pub fn new(cas: Arc<dyn Cas>, options: ServerOptions) -> Self {
        Self {
            cas,
            maintain: None,
            clock: Arc::new(SystemClock),
            options,
            rdma: None,
            faces: Vec::new(),
            observer: None,
            authorizer: None,
            quota: None,
            tls: None,
        }
    }

    /// Offers RDMA too.
    #[must_use]
    pub fn with_rdma(mut self, rdma: RdmaOptions) -> Self {
        self.rdma = Some(rdma);
        self
    }

    /// Answers the calls of other services too.
    #[must_use]
    pub fn with_face(mut self, face: Arc<dyn Face>) -> Self {
        self.faces.push(face);
        self
    }

    /// Tells of its calls and connections.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Asks who its callers are.
    #[must_use]
    pub fn with_authorizer(mut self, authorizer: Arc<dyn Authorizer>) -> Self {
        self.authorizer = Some(authorizer);
        self
    }

    /// Asks what its callers may use.
    #[must_use]
    pub fn with_quota(mut self, quota: Arc<dyn Quota>) -> Self {
        self.quota = Some(quota);
        self
    }

    /// Takes connections over TCP by TLS only; those over Unix sockets stay as they are.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, tls: TlsAcceptor) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Offers the maintenance of the store too, to callers that
    /// [`ServerOptions::maintenance`] trusts.
    #[must_use]
    pub fn with_maintenance(mut self, maintain: Arc<dyn Maintain>) -> Self {
        self.maintain = Some(maintain);
        self
    }

    /// Lets tokens and sessions age by this clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Takes the address. Connections queue up until [`BoundServer::serve`] runs.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::cas::ErrorKind::Io) if the address can't be taken.
    pub async fn bind(self, addr: &ListenAddr) -> Result<BoundServer> {
        let listener = listen::Listener::bind(addr).await?;
        Ok(BoundServer::new(listener, self))
    }

    /// Takes a socket that listens already. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::cas::ErrorKind::Io) if it is of no use.
    pub fn bind_to(self, socket: ListenSocket) -> Result<BoundServer> {
        let listener = listen::Listener::adopt(socket)?;
        Ok(BoundServer::new(listener, self))
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("cas", &self.cas)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
