//! `zako.v1.rdma.Rdma`: one call is one session.

use std::sync::Arc;

use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;
use zako_protobuf::rdma::rdma_server::Rdma;
use zako_protobuf::rdma::{ClientMessage, ServerMessage};
use zako_rdma::session::{self, Control, Request as Asked, Server, SessionError};

use super::call::{self, Admitted};
use super::rights::Rights;
use super::{RdmaRoad, get, put};
use crate::access::{Allowance, Direction, Pace};
use crate::cas::{CasError, ErrorKind};
use crate::negotiate::Access;
use crate::server::connection::Shared;
use crate::server::status::to_status;

/// Messages between a session and its call.
const QUEUE: usize = 32;

/// What a session may do.
struct Terms {
    rights: Rights,
    /// What it may use, if that is limited.
    allowance: Option<Allowance>,
}

pub(in super::super) struct RdmaService(Arc<Shared>);

impl RdmaService {
    pub(in super::super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

#[tonic::async_trait]
impl Rdma for RdmaService {
    type SessionStream = BoxStream<'static, Result<ServerMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<ClientMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let admitted = Admitted::of(&self.0, &request)?;
        let peer = admitted.peer;
        let terms = Terms {
            rights: admitted.rights,
            allowance: admitted.allowance,
        };
        let road = admitted.road;
        tracing::debug!(peer = ?peer.addr(), "an RDMA session begins");
        let (outgoing, answers) = mpsc::channel(QUEUE);
        let control = Control::new(outgoing, request.into_inner());
        let session = run(Arc::clone(&self.0), road, control, terms);
        Ok(Response::new(call::answers(&self.0, answers, session)))
    }
}

/// Serves one session until it ends; why it did.
async fn run(
    shared: Arc<Shared>,
    road: Arc<RdmaRoad>,
    control: Control<Server>,
    terms: Terms,
) -> SessionError {
    let options = &road.options;
    let fabric = Arc::clone(&options.fabric);
    let mut session =
        match session::accept(fabric, control, options.session.clone(), &road.budget).await {
            Ok(session) => session,
            Err(error) => return error,
        };
    let transfers = TaskTracker::new();
    let mut stopping = false;
    loop {
        tokio::select! {
            asked = session.next() => match asked {
                Some(asked) if stopping => refuse(asked, &CasError::new(
                    ErrorKind::Unavailable,
                    "the server is stopping",
                )),
                Some(asked) => begin(&shared, &terms, &transfers, asked),
                None => break,
            },
            () = shared.stop.cancelled(), if !stopping => {
                stopping = true;
                transfers.close();
            }
            () = transfers.wait(), if stopping => break,
            () = shared.cut.cancelled() => break,
        }
    }
    session.close();
    session.freed().await
}

fn begin(shared: &Arc<Shared>, terms: &Terms, transfers: &TaskTracker, asked: Asked) {
    let access = match &asked {
        Asked::Get(_) => Access::Read,
        Asked::Put(_) => Access::Write,
    };
    if let Err(error) = terms.rights.check(access) {
        return refuse(asked, error);
    }
    let allowance = &terms.allowance;
    if let Some(allowance) = allowance
        && let Err(error) = allowance.account().request()
    {
        return refuse(asked, &error);
    }
    let pace = |direction| Some(Pace::new(allowance.clone()?, direction));
    let shared = Arc::clone(shared);
    match asked {
        Asked::Get(request) => {
            let digest = request.digest();
            let span = tracing::debug_span!("download", %digest, transport = "rdma");
            let pace = pace(Direction::Out);
            transfers.spawn(get::serve(shared, request, pace).instrument(span));
        }
        Asked::Put(request) => {
            // Outlives the session when the peer is gone: what came must be parked.
            let uploads = shared.uploads.clone();
            let digest = request.digest();
            let span = tracing::debug_span!("upload", %digest, transport = "rdma");
            let taking = put::take(shared, request, pace(Direction::In)).instrument(span);
            let taking = Allowance::carried(allowance.clone(), taking);
            transfers.spawn(uploads.track_future(taking));
        }
    }
}

fn refuse(asked: Asked, error: &CasError) {
    let status = put::told(&to_status(error));
    match asked {
        Asked::Get(request) => request.refuse(status),
        Asked::Put(request) => request.refuse(status),
    }
}
