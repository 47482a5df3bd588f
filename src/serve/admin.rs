//! The admin port: there before the store is opened, and gone after it is closed.

use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use zako_admin::{
    AdminHandle, AdminOptions, AdminServer, Fact, MetricsText, Readiness, RecentEvents, Recorder,
};
use zako_core::access::Authorizer;
use zako_core::observe::Observer;
use zako_core::server::{FiguresReader, ListenAddr};
use zako_core::store::LocalStore;
use zako_telemetry::Metrics;

use super::ready::Ready;
use super::sockets::{Sockets, Use};
use super::tls::Tls;
use crate::config::{AdminConfig, Origin, PortChoice, ServerConfig};
use crate::failure::{Exit, Failure};

/// The metrics as the text of a page.
#[derive(Debug)]
struct Rendered(Metrics);

/// What operators see of a server.
#[derive(Debug)]
pub(super) struct Admin {
    /// Whether it takes calls; there without a port, too.
    pub(super) readiness: Readiness,
    port: Option<AdminPort>,
}

#[derive(Debug)]
struct AdminPort {
    addr: ListenAddr,
    handle: AdminHandle,
    recorder: Arc<Recorder>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Admin {
    /// Takes the configured address, if there is one, and answers.
    ///
    /// # Errors
    /// The address was asked for and can't be taken.
    pub(super) async fn start(
        config: &AdminConfig,
        listen: &ListenAddr,
        tls: Option<&Tls>,
        sockets: &mut Sockets,
        events: RecentEvents,
    ) -> Result<Self, Failure> {
        let readiness = Readiness::new();
        let passed = sockets.inherited(Use::Admin).cloned();
        let addr = match passed {
            Some(passed) if config.listen.value != PortChoice::Off => Some(passed),
            _ => config.address(listen),
        };
        let Some(addr) = addr else {
            return Ok(Self {
                readiness,
                port: None,
            });
        };
        let mut options = AdminOptions::default();
        options.names = config.host.value.0.clone();
        let taken = sockets.take(Use::Admin, &addr).await;
        let bound =
            taken.and_then(|socket| AdminServer::bind_to(socket, readiness.clone(), options));
        let port = match bound {
            Ok(server) => {
                let tls = tls.and_then(|tls| tls.for_operators(&addr));
                let server = match tls {
                    Some(tls) => server.with_tls(tls),
                    None => server,
                };
                Some(AdminPort::start(server, events))
            }
            Err(error) if config.listen.origin == Origin::Default => {
                // Nobody's wish, and no reason to serve nobody.
                tracing::error!(
                    "there is NO ADMIN PORT: listening on {addr}: {error}. Name a free address \
                     with --admin, or switch it off with --admin off"
                );
                None
            }
            Err(error) => {
                return Err(Failure::new(
                    Exit::Failed,
                    format!("listening on {addr} for the admin port: {error}"),
                )
                .advise(
                    "Is another server there? Take another --admin; port 0 takes a free one.",
                ));
            }
        };
        Ok(Self { readiness, port })
    }

    /// Where it is.
    pub(super) fn addr(&self) -> Option<&ListenAddr> {
        self.port.as_ref().map(|port| &port.addr)
    }

    /// Who keeps what happens, if there is a port to show it.
    pub(super) fn recorder(&self) -> Option<Arc<Recorder>> {
        self.port.as_ref().map(|port| Arc::clone(&port.recorder))
    }

    /// Asks who its callers are that don't run on this machine.
    pub(super) fn ask(&self, authorizer: Arc<dyn Authorizer>) {
        if let Some(port) = &self.port {
            port.handle.set_authorizer(authorizer);
        }
    }

    /// Tells this one of the requests to the port itself.
    pub(super) fn tell(&self, observer: &Arc<dyn Observer>) {
        if let Some(port) = &self.port {
            port.handle.set_observer(Arc::clone(observer));
        }
    }

    /// Shows these metrics.
    pub(super) fn show_metrics(&self, metrics: &Metrics) {
        if let Some(port) = &self.port {
            let metrics = Arc::new(Rendered(metrics.clone()));
            port.handle.set_metrics(metrics);
        }
    }

    /// Shows a server that is ready.
    pub(super) fn show(
        &self,
        config: &ServerConfig,
        ready: &Ready,
        store: &LocalStore,
        server: FiguresReader,
    ) {
        if let Some(AdminPort { handle, .. }) = &self.port {
            handle.set_store(Arc::new(store.clone()));
            handle.set_server(server);
            handle.set_facts(facts(config, ready));
        }
    }

    /// Lets go of the store and the server, so that they can end.
    pub(super) fn forget(&self) {
        if let Some(port) = &self.port {
            port.handle.forget();
        }
    }

    /// Ends it, when all else has ended.
    pub(super) async fn stop(self) {
        if let Some(port) = self.port {
            drop(port.stop);
            let _ = port.served.await;
        }
    }
}

impl AdminPort {
    fn start(server: AdminServer, events: RecentEvents) -> Self {
        let recorder = Arc::new(Recorder::new());
        let handle = server.handle();
        handle.set_version(env!("CARGO_PKG_VERSION"));
        handle.set_recorder(Arc::clone(&recorder));
        handle.set_events(events);
        let (stop, stopped) = oneshot::channel();
        Self {
            addr: server.local_addr().clone(),
            handle,
            recorder,
            stop,
            served: tokio::spawn(server.serve(stopped.map(drop))),
        }
    }
}

#[async_trait]
impl MetricsText for Rendered {
    async fn render(&self) -> String {
        self.0.prometheus().await
    }
}

/// What a server was started with, as far as it says who can reach it and what it keeps.
fn facts(config: &ServerConfig, ready: &Ready) -> Vec<Fact> {
    let or_none = |place: &Option<String>| place.clone().unwrap_or_else(|| "none".to_owned());
    vec![
        Fact::new("Data folder", config.data.value.to_string()),
        Fact::new("Durability", config.durability.value.to_string()),
        Fact::new("gRPC listens on", ready.grpc.clone()),
        Fact::new("HTTP cache listens on", or_none(&ready.http)),
        Fact::new("RDMA device", or_none(&ready.rdma)),
    ]
}
