//! `zako.v1.rdma.Probe`: one at once on a connection, and not for long.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tonic::{Request, Response, Status, Streaming};
use zako_protobuf::rdma::probe_server::Probe;
use zako_protobuf::rdma::{ProbeRequest, ProbeResponse};
use zako_rdma::probe::{self, ProbeServer, SLOT_BYTES};
use zako_rdma::session::{Control, SessionError};

use super::RdmaRoad;
use super::call::{self, Admitted};
use crate::cas::{CasError, ErrorKind, Result};
use crate::negotiate::Peer;
use crate::server::connection::Shared;
use crate::server::status::to_status;

/// The longest message: a slot's bytes and what is around them.
pub(in super::super) const LONGEST_MESSAGE: usize = SLOT_BYTES + 64;

/// The longest that a probe may take.
const LONGEST: Duration = Duration::from_secs(120);

pub(in super::super) struct ProbeService(Arc<Shared>);

/// A connection's one probe, until it is dropped.
#[derive(Debug)]
struct Turn {
    road: Arc<RdmaRoad>,
    peer: Arc<Peer>,
}

impl ProbeService {
    pub(in super::super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

#[tonic::async_trait]
impl Probe for ProbeService {
    type RunStream = BoxStream<'static, Result<ProbeResponse, Status>>;

    async fn run(
        &self,
        request: Request<Streaming<ProbeRequest>>,
    ) -> Result<Response<Self::RunStream>, Status> {
        let Admitted { peer, road, rights } = Admitted::of(&self.0, &request)?;
        let turn = Turn::take(&road, &peer).map_err(|error| to_status(&error))?;
        tracing::debug!(peer = ?peer.addr(), "a probe of RDMA begins");
        // The probe has a short queue of its own.
        let (outgoing, answers) = mpsc::channel(1);
        let control = Control::new(outgoing, request.into_inner());
        let shared = Arc::clone(&self.0);
        let probe = async move {
            // The token's session doesn't idle out meanwhile.
            let _rights = rights;
            serve(&shared, turn, control).await
        };
        Ok(Response::new(call::answers(&self.0, answers, probe)))
    }
}

impl Turn {
    /// # Errors
    /// [`ErrorKind::NoSpace`] if the connection has a probe.
    fn take(road: &Arc<RdmaRoad>, peer: &Arc<Peer>) -> Result<Self> {
        let mut probing = road.probing.lock();
        if probing.iter().any(|other| Arc::ptr_eq(other, peer)) {
            return Err(CasError::new(
                ErrorKind::NoSpace,
                "this connection has a probe under way",
            ));
        }
        probing.push(Arc::clone(peer));
        Ok(Self {
            road: Arc::clone(road),
            peer: Arc::clone(peer),
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut probing = self.road.probing.lock();
        probing.retain(|other| !Arc::ptr_eq(other, &self.peer));
    }
}

/// Serves a probe to its end; why it ended.
async fn serve(shared: &Shared, turn: Turn, control: Control<ProbeServer>) -> SessionError {
    let RdmaRoad {
        options, budget, ..
    } = &*turn.road;
    let fabric = Arc::clone(&options.fabric);
    let end = async {
        tokio::select! {
            () = sleep(LONGEST) => {
                SessionError::Timeout(format!("a probe ends after {LONGEST:?}"))
            }
            () = shared.stop.cancelled() => SessionError::Closed,
        }
    };
    probe::serve(fabric, control, &options.session, budget, end).await
}
