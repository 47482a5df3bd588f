//! What the calls of RDMA have in common: who may make them, and how they are answered.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};
use zako_rdma::fabric::FailureKind;
use zako_rdma::session::{Code, SessionError};

use super::RdmaRoad;
use super::rights::Rights;
use crate::cas::{CasError, ErrorKind};
use crate::negotiate::Peer;
use crate::server::connection::Shared;
use crate::server::gated::{caller, peer};
use crate::server::status::to_status;

/// A call that may be made.
pub(super) struct Admitted {
    pub(super) peer: Arc<Peer>,
    pub(super) road: Arc<RdmaRoad>,
    pub(super) rights: Rights,
}

impl Admitted {
    /// # Errors
    /// Why its caller may not use RDMA.
    pub(super) fn of<M>(shared: &Shared, request: &Request<M>) -> Result<Self, Status> {
        let peer = Arc::clone(peer(request.extensions())?);
        let road = match &shared.rdma {
            Some(road) => Arc::clone(road),
            None => {
                let error = CasError::new(ErrorKind::Unsupported, "this server has no RDMA");
                return Err(to_status(&error));
            }
        };
        road.check(&peer).map_err(|error| to_status(&error))?;
        let caller = caller(request.extensions());
        let rights = Rights::of(&shared.gate, &peer, caller, request.metadata().as_ref())?;
        Ok(Self { peer, road, rights })
    }
}

/// Runs what a call is for beside it; the messages for its caller. The last word is in them
/// too; but a caller that only looks at the call's status must not take what broke off for a
/// proper end.
pub(super) fn answers<M: Send + 'static>(
    shared: &Shared,
    answers: mpsc::Receiver<M>,
    work: impl Future<Output = SessionError> + Send + 'static,
) -> BoxStream<'static, Result<M, Status>> {
    let (ended, end) = oneshot::channel();
    shared.calls.tasks.spawn(async move {
        let error = work.await;
        match &error {
            // Its text says how to raise the limit, which only this side can do.
            SessionError::Fabric(cause) if cause.kind() == FailureKind::MemoryLimit => {
                tracing::warn!(%error, "there is no RDMA for a client");
            }
            _ => tracing::debug!(%error, "an RDMA session or probe ended"),
        }
        let _ = ended.send(error);
    });
    let last = stream::once(end).filter_map(|end| async { status(&end.ok()?).map(Err) });
    ReceiverStream::new(answers).map(Ok).chain(last).boxed()
}

/// The status of the call, if its end is not a proper one.
fn status(error: &SessionError) -> Option<Status> {
    let status = error.status();
    (status.code != Code::Ok)
        .then(|| Status::new(tonic::Code::from_i32(status.code as i32), status.message))
}
