//! One connection: HTTP/2 with bounds, and the calls on it.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::{FutureExt, TryFutureExt};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response, Uri};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower_service::Service;
use tracing::Instrument;

use super::activity::{Activity, Busy};
use super::answer::{AnswerBody, Inner};
use super::batch;
use super::body::RequestBody;
use super::deadline;
use super::face::{Call, Face};
use super::idle_body::IdleBody;
use super::meter::{Meter, Metered};
use super::options::ServerOptions;
use super::preface::Greeted;
use super::rdma::RdmaRoad;
use super::sendfile::{Road, Slots, Socket};
use super::status::to_status;
use super::transport;
use super::watch::Watch;
use super::windows::{Window, Windows};
use crate::access::{Allowance, Authorizer, Caller, Credentials, Direction, Identity, Pace, Quota};
use crate::cas::{Cas, Maintain};
use crate::negotiate::{Gate, Peer, PeerAddr};
use crate::observe::{CallKind, Interface, Observer};
use crate::transport::grpc::DecodeLimits;
use crate::transport::stream::Stream;

/// Calls that a peer may have reset before the server has looked at them; at one more its
/// connection ends.
const MAX_PENDING_RESETS: usize = 20;

/// Streams of a connection that the server resets since its peer broke the rules; at one
/// more the connection ends.
const MAX_ERROR_RESETS: usize = 256;

const NEGOTIATE: &str = "/zako.v1.cas.ContentAddressableStorage/NegotiateBlobs";
const RDMA_SESSION: &str = "/zako.v1.rdma.Rdma/Session";

/// What all calls of a server share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) cas: Arc<dyn Cas>,
    pub(super) maintain: Option<Arc<dyn Maintain>>,
    pub(super) gate: Gate,
    pub(super) options: ServerOptions,
    pub(super) rdma: Option<Arc<RdmaRoad>>,
    /// Other protocols.
    pub(super) faces: Vec<Arc<dyn Face>>,
    /// Is told of calls and connections.
    pub(super) observer: Option<Arc<dyn Observer>>,
    /// Knows who callers are; without one everyone is alike.
    pub(super) authorizer: Option<Arc<dyn Authorizer>>,
    /// Knows what callers may use; without one there are no bounds but the options'.
    pub(super) quota: Option<Arc<dyn Quota>>,
    /// What all connections may have sent that isn't read.
    pub(super) windows: Windows,
    pub(super) began: Instant,
    /// For the blobs that go from file to socket.
    pub(super) slots: Arc<Slots>,
    pub(super) connections: TaskTracker,
    /// Calls that run: they hold the store.
    pub(super) calls: Calls,
    /// Uploads that run, which outlive their calls when the peer is gone.
    pub(super) uploads: TaskTracker,
    /// No new calls.
    pub(super) stop: CancellationToken,
    /// Uploads are parked.
    pub(super) park: CancellationToken,
    /// Connections are cut.
    pub(super) cut: CancellationToken,
}

/// Where HTTP/2 runs the calls of its connections.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    pub(super) tasks: TaskTracker,
    /// How long an answer may stay unread.
    idle: Duration,
}

impl Calls {
    pub(super) fn new(idle: Duration) -> Self {
        let tasks = TaskTracker::new();
        Self { tasks, idle }
    }
}

impl<F> Executor<F> for Calls
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, call: F) {
        self.tasks.spawn(Watch::run(self.idle, call));
    }
}

impl Shared {
    /// Whose service this is, if it is no own one.
    fn face(&self, service: &str) -> Option<Arc<dyn Face>> {
        let serves = |face: &&Arc<dyn Face>| face.services().contains(&service);
        self.faces.iter().find(serves).map(Arc::clone)
    }

    /// Who calls, if that makes a difference here.
    fn identify(&self, peer: &Peer, headers: &HeaderMap) -> Result<Option<Identity>, Status> {
        let Some(authorizer) = &self.authorizer else {
            return Ok(None);
        };
        let credentials = Credentials {
            authorization: headers.get(AUTHORIZATION).map(|value| value.as_bytes()),
            ..peer.credentials()
        };
        let identity = authorizer.identify(&credentials);
        identity.map(Some).map_err(|error| to_status(&error))
    }

    /// What the call may use, if that is limited.
    fn allow(&self, peer: &Peer, identity: Option<&Identity>) -> Result<Option<Allowance>, Status> {
        let Some(quota) = &self.quota else {
            return Ok(None);
        };
        let address = match peer.addr() {
            PeerAddr::Tcp { remote, .. } => Some(remote.ip()),
            PeerAddr::Unix { .. } => None,
        };
        let allowance = Allowance::begin(&**quota, &Caller::new(identity, address));
        allowance.map_err(|error| to_status(&error))
    }

    /// What reports the call when it ends, if anyone listens.
    fn meter(
        &self,
        uri: &Uri,
        interface: Interface,
        kind: CallKind,
        peer: &Arc<Peer>,
        identity: Option<Identity>,
    ) -> Option<Arc<Meter>> {
        let observer = Arc::clone(self.observer.as_ref()?);
        let (uri, peer) = (uri.clone(), Arc::clone(peer));
        Some(Meter::new(observer, interface, kind, uri, peer, identity))
    }

    pub(super) fn request_body(
        &self,
        body: Body,
        deadline: Option<tokio::time::Instant>,
    ) -> RequestBody {
        let idle = self.options.upload_idle_timeout;
        RequestBody::new(body, idle, deadline, self.park.clone())
    }

    pub(super) fn decode_limits(&self) -> DecodeLimits {
        DecodeLimits {
            message: self.options.max_message_bytes,
            ..DecodeLimits::default()
        }
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(shared: Arc<Shared>, routes: Routes, stream: Stream, addr: PeerAddr) {
    let peer = Peer::new(addr);
    let road = Arc::new(Road::new(Arc::clone(&shared.slots)));
    let stream = Socket::new(stream, Arc::clone(&road));
    let activity = Activity::new();
    let service = {
        let (peer, shared) = (Arc::clone(&peer), Arc::clone(&shared));
        let activity = activity.clone();
        service_fn(move |request| {
            let (shared, peer) = (Arc::clone(&shared), Arc::clone(&peer));
            let method = request.uri().path();
            let span = tracing::debug_span!("call", method, transport = "grpc");
            let on = On {
                peer,
                road: Arc::clone(&road),
                busy: activity.begin(),
            };
            answer(shared, routes.clone(), on, request).instrument(span)
        })
    };
    let window = shared.windows.take(shared.options.connection_window_bytes);
    let (stream, greeted) = Greeted::new(stream, shared.options.download_idle_timeout);
    let mut connection =
        pin!(http2_settings(&shared, &window).serve_connection(TokioIo::new(stream), service));
    let idle = shared.options.connection_idle_timeout;
    let mut idle = pin!(activity.over(idle));
    let mut handshake = pin!(tokio::time::sleep(shared.options.handshake_timeout));
    let (mut watching, mut stopping) = (true, false);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(peer = ?peer.addr(), %error, "a connection broke");
                }
                return;
            }
            () = &mut handshake, if watching => {
                if !greeted.load(Ordering::Relaxed) {
                    tracing::debug!(peer = ?peer.addr(), "a connection did not begin with HTTP/2");
                    return;
                }
                watching = false;
            }
            () = &mut idle => {
                tracing::debug!(peer = ?peer.addr(), "a connection without a call is ended");
                if stopping {
                    // It had its time to end well.
                    return;
                }
                connection.as_mut().graceful_shutdown();
                stopping = true;
                idle.set(activity.over(shared.options.handshake_timeout));
            }
            () = shared.stop.cancelled(), if !stopping => {
                connection.as_mut().graceful_shutdown();
                stopping = true;
            }
            () = shared.cut.cancelled() => return,
        }
    }
}

fn http2_settings(shared: &Shared, window: &Window) -> http2::Builder<Calls> {
    let options = &shared.options;
    let mut builder = http2::Builder::new(shared.calls.clone());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(options.stream_window_bytes)
        .initial_connection_window_size(window.bytes())
        .max_frame_size(window.frame_bytes(options.max_frame_bytes))
        .max_concurrent_streams(options.max_streams_per_connection)
        .max_header_list_size(options.max_header_bytes)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .auto_date_header(false);
    builder
}

/// The connection that a call is on.
struct On {
    peer: Arc<Peer>,
    road: Arc<Road>,
    busy: Busy,
}

async fn answer(
    shared: Arc<Shared>,
    mut routes: Routes,
    on: On,
    mut request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let On { peer, road, busy } = on;
    let watch = Watch::current();
    let known = deadline::deadline(request.headers()).and_then(|deadline| {
        let identity = shared.identify(&peer, request.headers())?;
        let allowance = shared.allow(&peer, identity.as_ref())?;
        Ok((deadline, identity, allowance))
    });
    let (deadline, identity, allowance) = match known {
        Ok(known) => known,
        Err(status) => {
            let refusal = status.into_http().map(Inner::Body);
            return Ok(
                refusal.map(|body| AnswerBody::new(body, None, None, watch, None, None, busy))
            );
        }
    };
    if let Some(identity) = &identity {
        request.extensions_mut().insert(identity.clone());
    }
    if let Some(allowance) = &allowance {
        request.extensions_mut().insert(allowance.clone());
    }
    if let Some(watch) = &watch {
        watch.until(deadline);
    }
    // Shares the request's.
    let uri = request.uri().clone();
    let path = uri.path();
    let service = path.split('/').nth(1).unwrap_or_default();
    // A negotiation may rest for as long as its caller looks for blobs.
    let negotiation = path == NEGOTIATE;
    // So may a session over RDMA, whose bytes don't come here; HTTP/2 finds out whether
    // the caller is gone.
    let rests = negotiation || path == RDMA_SESSION;
    // Those calls end when their caller says so, or with the server.
    let face = shared.face(service);
    let open_ended = negotiation || (face.is_none() && !service.starts_with("zako."));
    let interface = match face {
        Some(_) => Interface::RemoteExecution,
        None => Interface::Zako,
    };
    let kind = match service {
        transport::NAME | "google.bytestream.ByteStream" => CallKind::Stream,
        _ if open_ended || rests => CallKind::Stream,
        _ => CallKind::Short,
    };
    let meter = shared.meter(&uri, interface, kind, &peer, identity);
    request.extensions_mut().insert(peer);
    let pace = |direction| Some(Pace::new(allowance.clone()?, direction));
    let request = request.map(|body| Metered::new(body, meter.clone(), pace(Direction::In)));
    let idle = shared.options.upload_idle_timeout;
    let answer = async {
        if service == transport::NAME {
            // The bulk calls mind their deadlines themselves until they answer: an
            // upload is parked.
            Ok(transport::answer(Arc::clone(&shared), road, request.map(Body::new)).await)
        } else if service == batch::NAME {
            let answer = batch::answer(Arc::clone(&shared), request.map(Body::new));
            in_time(deadline, answer.map(Ok)).await
        } else if let Some(face) = face {
            let call = Call::new(request, deadline, road, Arc::clone(&shared));
            let answer = face.answer(call).map(|reply| Ok(reply.0));
            in_time(deadline, answer).await
        } else {
            let answer = routes.call(request.map(|body| IdleBody::new(body, idle, rests)));
            in_time(deadline, answer.map_ok(|answer| answer.map(Inner::Body))).await
        }
    };
    let mut answer = pin!(answer);
    let answer = match &allowance {
        Some(allowance) => allowance.clone().scope(answer.as_mut()).await,
        None => answer.await,
    };
    let stop = open_ended.then(|| shared.stop.clone().cancelled_owned());
    answer.map(|answer| {
        if let Some(meter) = &meter {
            meter.ended(answer.headers());
        }
        let pace = pace(Direction::Out);
        answer.map(|body| AnswerBody::new(body, deadline, stop, watch, meter, pace, busy))
    })
}

/// The answer, or the one to a call whose deadline passes before it.
async fn in_time(
    deadline: Option<tokio::time::Instant>,
    answer: impl Future<Output = Result<Response<Inner>, Infallible>>,
) -> Result<Response<Inner>, Infallible> {
    let Some(at) = deadline else {
        return answer.await;
    };
    let exceeded = |_| Ok(deadline::exceeded().into_http().map(Inner::Body));
    let answer = tokio::time::timeout_at(at, answer).await;
    answer.unwrap_or_else(exceeded)
}
