//! `zako.v1.rdma.Rdma`: one call is one session.

use std::sync::Arc;

use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument, Span};
use zako_protobuf::rdma::rdma_server::Rdma;
use zako_protobuf::rdma::{ClientMessage, ServerMessage};
use zako_rdma::session::{self, Control, Request as Asked, Server, SessionError, TraceContext};

use super::call::{self, Admitted};
use super::rights::Rights;
use super::{RdmaRoad, get, put};
use crate::Digest;
use crate::access::{Allowance, Direction, Pace};
use crate::cas::{CasError, ErrorKind};
use crate::negotiate::{Access, Peer};
use crate::observe::{RdmaEvent, trace};
use crate::server::connection::Shared;
use crate::server::span;
use crate::server::status::to_status;

/// Messages between a session and its call.
const QUEUE: usize = 32;

/// The metadata that tells a client that this server knows of traces of transfers.
const TRACES: &str = "zako-rdma-trace";

/// What a session may do.
struct Terms {
    peer: Arc<Peer>,
    rights: Rights,
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
        let Admitted { peer, road, rights } = Admitted::of(&self.0, &request)?;
        tracing::debug!(peer = ?peer.addr(), "an RDMA session begins");
        let terms = Terms { peer, rights };
        let (outgoing, answers) = mpsc::channel(QUEUE);
        let control = Control::new(outgoing, request.into_inner());
        let session = run(Arc::clone(&self.0), road, control, terms);
        let mut response = Response::new(call::answers(&self.0, answers, session));
        if trace::is_on() {
            let known = MetadataValue::from_static("1");
            response.metadata_mut().insert(TRACES, known);
        }
        Ok(response)
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
            Err(error) => {
                shared.rdma_event(RdmaEvent::SetUpFailed);
                return error;
            }
        };
    shared.rdma_event(RdmaEvent::Opened);
    let transfers = TaskTracker::new();
    let mut stopping = false;
    loop {
        tokio::select! {
            asked = session.next() => match asked {
                Some(asked) if stopping => {
                    let text = "the server is stopping";
                    let error = CasError::new(ErrorKind::Unavailable, text);
                    refuse(asked, &to_status(&error));
                }
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
    let error = session.freed().await;
    shared.rdma_event(match error.status().code {
        session::Code::Ok => RdmaEvent::Closed,
        _ => RdmaEvent::Failed,
    });
    error
}

fn begin(shared: &Arc<Shared>, terms: &Terms, transfers: &TaskTracker, asked: Asked) {
    let access = match &asked {
        Asked::Get(_) => Access::Read,
        Asked::Put(_) => Access::Write,
    };
    if let Err(error) = terms.rights.check(access) {
        return refuse(asked, &to_status(&error));
    }
    let identity = terms.rights.identity();
    let meter = shared.transfer_meter(&asked, &terms.peer, identity);
    // As a call: by the limits that are in force now.
    let allowance = match shared.allow(&terms.peer, identity) {
        Ok(allowance) => allowance,
        Err(status) => {
            if let Some(meter) = &meter {
                meter.coded(status.code());
            }
            return refuse(asked, &status);
        }
    };
    let pace = |direction| Some(Pace::new(allowance.clone()?, direction));
    let shared = Arc::clone(shared);
    match asked {
        Asked::Get(request) => {
            let digest = request.digest();
            let span = tracing::debug_span!("download", %digest, transport = "rdma");
            let (range, told) = (request.range(), request.trace());
            let trace = of_client(told, "rdma get", digest, range.end - range.start);
            let serving = get::serve(shared, request, meter, pace(Direction::Out));
            transfers.spawn(serving.instrument(trace).instrument(span));
        }
        Asked::Put(request) => {
            // Outlives the session when the peer is gone: what came must be parked.
            let uploads = shared.uploads.clone();
            let digest = request.digest();
            let span = tracing::debug_span!("upload", %digest, transport = "rdma");
            let bytes = digest.size() - request.offset();
            let trace = of_client(request.trace(), "rdma put", digest, bytes);
            let taking = put::take(shared, request, meter, pace(Direction::In));
            let taking = taking.instrument(trace).instrument(span);
            let taking = Allowance::carried(allowance.clone(), taking);
            transfers.spawn(uploads.track_future(taking));
        }
    }
}

/// The span of a transfer in its client's trace.
fn of_client(told: Option<&TraceContext>, name: &'static str, digest: &Digest, bytes: u64) -> Span {
    let read = |name: &str| match name {
        trace::TRACEPARENT => Some(&*told?.parent),
        trace::TRACESTATE => Some(&*told?.state),
        _ => None,
    };
    span::over_rdma(&read, name, digest, bytes)
}

fn refuse(asked: Asked, status: &Status) {
    let status = put::told(status);
    match asked {
        Asked::Get(request) => request.refuse(status),
        Asked::Put(request) => request.refuse(status),
    }
}
