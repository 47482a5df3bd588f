//! HTTP on the admin port.

mod answer;
mod connection;
mod host;
mod options;
mod route;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{Method, Request};
use hyper::body::Body;
use parking_lot::RwLock;
use zako_core::access::Authorizer;
use zako_core::cas::{Maintain, Result};
use zako_core::negotiate::Peer;
use zako_core::observe::{CallEnd, Interface, Observer};
use zako_core::server::{FiguresReader, ListenAddr, ListenSocket, Port};

pub use options::AdminOptions;

use self::answer::Answer;
use crate::events::RecentEvents;
use crate::metrics::MetricsText;
use crate::readiness::{Readiness, State};
use crate::recorder::Recorder;
use crate::status::{Fact, Status};
use crate::timestamp::rfc3339;

/// How long the store may take to tell its figures.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// The admin port on its address.
pub struct AdminServer {
    port: Port,
    shared: Arc<Shared>,
}

/// What an admin port tells about, to be told as it comes to be. Cheap to clone.
#[derive(Clone)]
pub struct AdminHandle(Arc<Shared>);

/// What all requests share.
struct Shared {
    options: AdminOptions,
    readiness: Readiness,
    began: Instant,
    sources: RwLock<Sources>,
}

/// Where figures come from, as far as they are there yet.
#[derive(Clone, Default)]
struct Sources {
    store: Option<Arc<dyn Maintain>>,
    server: Option<FiguresReader>,
    metrics: Option<Arc<dyn MetricsText>>,
    recorder: Option<Arc<Recorder>>,
    observer: Option<Arc<dyn Observer>>,
    events: Option<RecentEvents>,
    version: &'static str,
    facts: Vec<Fact>,
    /// Knows who callers are; without one everyone is alike.
    authorizer: Option<Arc<dyn Authorizer>>,
}

impl AdminServer {
    /// Takes the address. Connections queue up until [`serve`](Self::serve) runs.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](zako_core::cas::ErrorKind::Io) if the address can't be taken.
    pub async fn bind(
        addr: &ListenAddr,
        readiness: Readiness,
        options: AdminOptions,
    ) -> Result<Self> {
        let port = Port::bind(addr, options.port()).await?;
        Ok(Self::on(port, readiness, options))
    }

    /// Takes a socket that listens already. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](zako_core::cas::ErrorKind::Io) if it is of no use.
    pub fn bind_to(
        socket: ListenSocket,
        readiness: Readiness,
        options: AdminOptions,
    ) -> Result<Self> {
        let port = Port::bind_to(socket, options.port())?;
        Ok(Self::on(port, readiness, options))
    }

    fn on(port: Port, readiness: Readiness, options: AdminOptions) -> Self {
        let shared = Arc::new(Shared {
            options,
            readiness,
            began: Instant::now(),
            sources: RwLock::default(),
        });
        Self { port, shared }
    }

    /// Asks who callers of other machines are: they need the role of an admin, but for
    /// `/healthz` and `/readyz`.
    #[must_use]
    pub fn with_authorizer(self, authorizer: Arc<dyn Authorizer>) -> Self {
        self.handle().set_authorizer(authorizer);
        self
    }

    /// Takes connections over TCP by TLS only.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, tls: zako_core::tls::TlsAcceptor) -> Self {
        self.port = self.port.with_tls(tls);
        self
    }

    /// What tells it where figures come from.
    pub fn handle(&self) -> AdminHandle {
        AdminHandle(Arc::clone(&self.shared))
    }

    /// The address that it has: with the real port where 0 was asked for.
    pub fn local_addr(&self) -> &ListenAddr {
        self.port.local_addr()
    }

    /// Answers requests until `shutdown` is ready.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let shared = self.shared;
        let serve = move |connection| connection::serve(Arc::clone(&shared), connection);
        self.port.serve(shutdown, serve).await;
    }
}

impl AdminHandle {
    /// Tells the figures of this store.
    pub fn set_store(&self, store: Arc<dyn Maintain>) {
        self.0.sources.write().store = Some(store);
    }

    /// Tells the figures of this server.
    pub fn set_server(&self, server: FiguresReader) {
        self.0.sources.write().server = Some(server);
    }

    /// Gives these metrics.
    pub fn set_metrics(&self, metrics: Arc<dyn MetricsText>) {
        self.0.sources.write().metrics = Some(metrics);
    }

    /// Tells what this one has seen.
    pub fn set_recorder(&self, recorder: Arc<Recorder>) {
        self.0.sources.write().recorder = Some(recorder);
    }

    /// Tells these events of the log.
    pub fn set_events(&self, events: RecentEvents) {
        self.0.sources.write().events = Some(events);
    }

    /// Tells that the program is of this version.
    pub fn set_version(&self, version: &'static str) {
        self.0.sources.write().version = version;
    }

    /// Tells what else there is to know of a server that is ready.
    pub fn set_facts(&self, facts: Vec<Fact>) {
        self.0.sources.write().facts = facts;
    }

    /// Tells this one of the requests to the port itself.
    pub fn set_observer(&self, observer: Arc<dyn Observer>) {
        self.0.sources.write().observer = Some(observer);
    }

    /// Asks this one who callers of other machines are from now on.
    pub fn set_authorizer(&self, authorizer: Arc<dyn Authorizer>) {
        self.0.sources.write().authorizer = Some(authorizer);
    }

    /// Lets go of the store and the server, so that they can end.
    pub fn forget(&self) {
        let mut sources = self.0.sources.write();
        sources.store = None;
        sources.server = None;
    }
}

impl Shared {
    /// Tells of a request that was answered.
    fn observe<B>(&self, peer: &Peer, request: &Request<B>, answer: &Answer, took: Duration) {
        let observer = self.sources.read().observer.clone();
        let Some(observer) = observer else { return };
        let method = match *request.method() {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            _ => "other",
        };
        let mut call = CallEnd::new(Interface::Admin, method);
        call.code = answer.status().as_u16();
        call.duration = took;
        call.sent = answer.body().size_hint().exact().unwrap_or_default();
        call.peer = peer.host();
        observer.call(&call);
    }

    /// All that the status page tells.
    async fn status(&self) -> Status {
        let sources = self.sources.read().clone();
        let (state, reason) = self.readiness.reason();
        let store = async {
            // One that is being opened would let the caller wait.
            let store = sources.store.filter(|_| state != State::Opening)?;
            let usage = tokio::time::timeout(STORE_TIMEOUT, store.usage()).await;
            usage.ok()?.ok()
        };
        let store = store.await;
        Status {
            version: sources.version,
            state: state.as_str(),
            reason: (state != State::Ready).then_some(reason),
            time: rfc3339(SystemTime::now()),
            uptime_seconds: self.began.elapsed().as_secs(),
            facts: sources.facts,
            store: store.as_ref().map(Into::into),
            server: sources.server.map(|server| server.read().into()),
            activity: sources
                .recorder
                .map(|recorder| recorder.activity())
                .unwrap_or_default(),
            events: sources
                .events
                .map(|events| events.latest())
                .unwrap_or_default(),
        }
    }
}

impl fmt::Debug for AdminServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminServer")
            .field("addr", self.local_addr())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for AdminHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminHandle").finish_non_exhaustive()
    }
}
