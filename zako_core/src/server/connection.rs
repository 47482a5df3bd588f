//! One connection: HTTP/2 with bounds, and the calls on it.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::{FutureExt, TryFutureExt};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::service::Routes;
use tower_service::Service;
use tracing::{Instrument, Span};
use zako_rdma::session::Request as Asked;

use super::activity::{Activity, Busy};
use super::answer::{AnswerBody, Inner};
use super::batch;
use super::body::RequestBody;
use super::deadline;
use super::drain::DrainLimit;
use super::face::{Call, Face};
use super::idle_body::IdleBody;
use super::memory::Memory;
use super::meter::{Meter, Metered};
use super::methods::Methods;
use super::options::ServerOptions;
use super::preface::Greeted;
use super::rdma::RdmaRoad;
use super::secure::Secured;
use super::sendfile::{Road, Slots, Socket};
use super::span;
use super::status::to_status;
use super::watch::Watch;
use super::windows::{Window, Windows};
use super::{roles, transport};
use crate::access::{Allowance, Consumer, Direction, Pace, Quota};
use crate::access::{Authorizer, Identity};
use crate::cas::{Cas, Maintain};
use crate::negotiate::{Caller, Gate, Peer, PeerAddr};
use crate::observe::{CallKind, Connected, Interface, Lookup, Observer, RdmaEvent};
use crate::tls::{Application, TlsAcceptor};
use crate::transport::grpc::DecodeLimits;
use crate::transport::stream::Stream;

/// Calls that a peer may have reset before the server has looked at them; at one more its
/// connection ends.
const MAX_PENDING_RESETS: usize = 20;

/// Streams of a connection that the server resets since its peer broke the rules; at one
/// more the connection ends.
const MAX_ERROR_RESETS: usize = 256;

const NEGOTIATE: &str = "/zako.v1.cas.ContentAddressableStorage/NegotiateBlobs";
const DOWNLOAD: &str = "/zako.v1.transport.Transport/Download";
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
    /// Whose calls it is told of by name; with an observer only.
    pub(super) methods: Option<Methods>,
    /// Knows who callers are; without one everyone is alike.
    pub(super) authorizer: Option<Arc<dyn Authorizer>>,
    /// Knows what callers may use; without one there are no bounds but the options'.
    pub(super) quota: Option<Arc<dyn Quota>>,
    /// What all connections may have sent that isn't read.
    pub(super) windows: Windows,
    /// What all calls may hold of what they have read.
    pub(super) memory: Memory,
    /// Encrypts connections over TCP.
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) began: Instant,
    /// For the blobs that go from file to socket.
    pub(super) slots: Arc<Slots>,
    pub(super) connections: TaskTracker,
    /// Calls that run: they hold the store.
    pub(super) calls: Calls,
    /// Uploads that run, which outlive their calls when the peer is gone.
    pub(super) uploads: TaskTracker,
    /// How long calls that run may go on after that.
    pub(super) drain: DrainLimit,
    /// The server is going to end.
    pub(super) leaving: CancellationToken,
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

    /// What a call or a transfer may use, if that is limited.
    pub(super) fn allow(
        &self,
        peer: &Peer,
        identity: Option<&Identity>,
    ) -> Result<Option<Allowance>, tonic::Status> {
        let Some(quota) = &self.quota else {
            return Ok(None);
        };
        let allowance = Allowance::begin(&**quota, &Consumer::new(identity, peer.ip()));
        allowance.map_err(|error| to_status(&error))
    }

    /// What reports the call when it ends, if anyone listens.
    fn meter(
        &self,
        path: &str,
        kind: CallKind,
        face: Option<&dyn Face>,
        peer: &Arc<Peer>,
        identity: Option<Identity>,
    ) -> Option<Arc<Meter>> {
        let observer = Arc::clone(self.observer.as_ref()?);
        let (interface, looks_for) = match face {
            Some(face) => (Interface::RemoteExecution, face.looks_for(path)),
            None => (Interface::Zako, (path == DOWNLOAD).then_some("blob")),
        };
        let method = self.methods.as_ref()?.name(path);
        let peer = Arc::clone(peer);
        Some(Meter::new(
            observer, interface, kind, method, looks_for, peer, identity,
        ))
    }

    /// What reports a transfer over RDMA when it ends, if anyone listens.
    pub(super) fn transfer_meter(
        &self,
        asked: &Asked,
        peer: &Arc<Peer>,
        identity: Option<&Identity>,
    ) -> Option<Arc<Meter>> {
        let observer = Arc::clone(self.observer.as_ref()?);
        let (method, looks_for) = match asked {
            Asked::Get(_) => ("download", Some("blob")),
            Asked::Put(_) => ("upload", None),
        };
        let (method, peer) = (Arc::from(method), Arc::clone(peer));
        let (interface, kind) = (Interface::Rdma, CallKind::Stream);
        let identity = identity.cloned();
        Some(Meter::new(
            observer, interface, kind, method, looks_for, peer, identity,
        ))
    }

    /// Tells that things were looked for, if anyone listens.
    pub(super) fn looked_up(&self, lookup: &Lookup) {
        if let Some(observer) = &self.observer {
            observer.lookup(lookup);
        }
    }

    /// Tells what happened to a session over RDMA, if anyone listens.
    pub(super) fn rdma_event(&self, event: RdmaEvent) {
        if let Some(observer) = &self.observer {
            observer.rdma(event);
        }
    }

    pub(super) fn request_body(
        &self,
        body: Body,
        deadline: Option<tokio::time::Instant>,
    ) -> RequestBody {
        let idle = self.options.upload_idle_timeout;
        RequestBody::new(body, idle, deadline, self.park.clone(), self.memory.share())
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
    let _connected = Connected::new(shared.observer.clone(), Interface::Zako);
    let mut handshake = pin!(tokio::time::sleep(shared.options.handshake_timeout));
    let secured = tokio::select! {
        secured = Secured::begin(shared.tls.as_ref(), Application::Http2, stream, &addr) => secured,
        () = &mut handshake => {
            tracing::debug!(peer = ?addr, "a connection did not finish its TLS handshake");
            return;
        }
        () = shared.cut.cancelled() => return,
    };
    let Some(Secured {
        stream,
        certificate,
    }) = secured
    else {
        return;
    };
    let peer = Peer::with_certificate(addr, certificate);
    let slots = Arc::clone(&shared.slots);
    let road = Arc::new(match stream.is_plain() {
        true => Road::new(slots),
        false => Road::encrypted(slots),
    });
    let stream = Socket::new(stream, Arc::clone(&road));
    let first_call = CancellationToken::new();
    let activity = Activity::new();
    let service = {
        let (peer, shared) = (Arc::clone(&peer), Arc::clone(&shared));
        let (first_call, activity) = (first_call.clone(), activity.clone());
        service_fn(move |request| {
            first_call.cancel();
            let (shared, peer) = (Arc::clone(&shared), Arc::clone(&peer));
            let method = request.uri().path();
            let span = tracing::debug_span!("call", method, transport = "grpc");
            let trace = span::call(request.headers(), method, &peer);
            let on = On {
                peer,
                road: Arc::clone(&road),
                busy: activity.begin(),
            };
            let answered = answer(shared, routes.clone(), on, request, trace.clone());
            answered.instrument(trace).instrument(span)
        })
    };
    let window = shared.windows.take(shared.options.connection_window_bytes);
    let (stream, greeted) = Greeted::new(stream, shared.options.download_idle_timeout);
    let mut connection =
        pin!(http2_settings(&shared, &window).serve_connection(TokioIo::new(stream), service));
    let mut idle = pin!(activity.over(shared.options.connection_idle_timeout));
    let mut leaving = pin!(leaving(
        &shared.stop,
        &first_call,
        shared.options.first_call_timeout
    ));
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
            () = &mut leaving, if !stopping => {
                connection.as_mut().graceful_shutdown();
                stopping = true;
            }
            () = shared.cut.cancelled() => return,
        }
    }
}

/// Ends when a connection should be told to go elsewhere: when the server stops, but not before
/// who has just come had its first call taken, or has waited with it for this long. It couldn't
/// know that it came too late.
async fn leaving(stop: &CancellationToken, first_call: &CancellationToken, patience: Duration) {
    let until = tokio::time::Instant::now() + patience;
    stop.cancelled().await;
    let _ = tokio::time::timeout_at(until, first_call.cancelled()).await;
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
    trace: Span,
) -> Result<Response<AnswerBody>, Infallible> {
    let On { peer, road, busy } = on;
    let watch = Watch::current();
    // Shares the request's.
    let uri = request.uri().clone();
    let path = uri.path();
    let service = path.split('/').nth(1).unwrap_or_default();
    let face = shared.face(service);
    let known = deadline::deadline(request.headers()).and_then(|deadline| {
        let headers = request.headers();
        let authorizer = shared.authorizer.as_ref();
        let caller = Caller::of(authorizer, &peer, headers).and_then(|caller| {
            let identity = roles::check(&caller, headers, path, face.is_some())?;
            Ok((caller, identity))
        });
        let (caller, identity) = caller.map_err(|error| to_status(&error))?;
        Ok((deadline, caller, identity))
    });
    let known = known.map_err(|status| (status, None));
    let known = known.and_then(|(deadline, caller, identity)| {
        match shared.allow(&peer, identity.as_ref()) {
            Ok(allowance) => Ok((deadline, caller, identity, allowance)),
            Err(status) => Err((status, identity)),
        }
    });
    // A negotiation may rest for as long as its caller looks for blobs.
    let negotiation = path == NEGOTIATE;
    // So may a session over RDMA, whose bytes don't come here; HTTP/2 finds out whether
    // the caller is gone.
    let rests = negotiation || path == RDMA_SESSION;
    // Those calls end when their caller says so, or with the server.
    let open_ended = negotiation || (face.is_none() && !service.starts_with("zako."));
    let kind = match service {
        transport::NAME | "google.bytestream.ByteStream" => CallKind::Stream,
        _ if open_ended || rests => CallKind::Stream,
        _ => CallKind::Short,
    };
    let meter = |identity| shared.meter(path, kind, face.as_deref(), &peer, identity);
    let (deadline, caller, identity, allowance) = match known {
        Ok(known) => known,
        Err((status, identity)) => {
            let refusal = status.into_http().map(Inner::Body);
            let meter = meter(identity);
            if let Some(meter) = &meter {
                meter.ended(refusal.headers());
            }
            span::ended(&trace, refusal.headers());
            return Ok(refusal.map(|body| {
                AnswerBody::new(body, None, None, watch, meter, trace).on(busy, None)
            }));
        }
    };
    if let Some(identity) = &identity {
        request.extensions_mut().insert(identity.clone());
        request.extensions_mut().insert(caller);
    }
    if let Some(allowance) = &allowance {
        request.extensions_mut().insert(allowance.clone());
    }
    if let Some(watch) = &watch {
        watch.until(deadline);
    }
    let meter = meter(identity);
    request.extensions_mut().insert(peer);
    let pace = |direction| Some(Pace::new(allowance.clone()?, direction));
    let request = request.map(|body| Metered::new(body, meter.clone(), pace(Direction::In)));
    let idle = shared.options.upload_idle_timeout;
    // Their calls' states have an allocation of their own: together with this one they would
    // be moved three times, 5 KiB each, until the call has a task.
    let answer = async {
        if service == transport::NAME {
            // The bulk calls mind their deadlines themselves until they answer: an
            // upload is parked.
            let answer = transport::answer(Arc::clone(&shared), road, request.map(Body::new));
            Ok(Box::pin(answer).await)
        } else if service == batch::NAME {
            let answer = batch::answer(Arc::clone(&shared), request.map(Body::new));
            in_time(deadline, Box::pin(answer).map(Ok)).await
        } else if let Some(face) = face {
            let call = Call::new(request, deadline, road, Arc::clone(&shared));
            let answer = face.answer(call).map(|reply| Ok(reply.0));
            in_time(deadline, answer).await
        } else {
            let (held, longest) = (shared.memory.share(), shared.options.max_request_bytes);
            let request = request.map(|body| IdleBody::new(body, idle, rests, longest, held));
            let answer = routes.call(request);
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
        span::ended(&trace, answer.headers());
        let pace = pace(Direction::Out);
        answer.map(|body| AnswerBody::new(body, deadline, stop, watch, meter, trace).on(busy, pace))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of what a function returns.
    fn size_of_returned<T, F>(_: impl Fn(T) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_calls_state_is_small_enough_to_be_moved() {
        type Asked = (Arc<Shared>, Routes, On, Request<Incoming>, Span);
        let size = size_of_returned(|(shared, routes, on, request, trace): Asked| {
            answer(shared, routes, on, request, trace)
        });
        assert!(size < 3 << 10, "{size} bytes");
    }
}
