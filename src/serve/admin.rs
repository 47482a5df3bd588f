//! The admin port: there before the store is opened, and gone after it is closed.

use futures::FutureExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use zako_admin::{AdminHandle, AdminOptions, AdminServer, Readiness};
use zako_core::server::ListenAddr;

use super::sockets::{Sockets, Use};
use crate::config::{AdminChoice, AdminConfig, Origin};
use crate::failure::{Exit, Failure};

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
        sockets: &mut Sockets,
    ) -> Result<Self, Failure> {
        let readiness = Readiness::new();
        let passed = sockets.inherited(Use::Admin).cloned();
        let addr = match (&config.listen.value, passed) {
            (AdminChoice::Auto | AdminChoice::At(_), Some(passed)) => Some(passed),
            (choice, _) => choice.address(listen),
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
            Ok(server) => Some(AdminPort::start(server)),
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

    /// What tells it where figures come from, if there is a port.
    pub(super) fn handle(&self) -> Option<&AdminHandle> {
        self.port.as_ref().map(|port| &port.handle)
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
    fn start(server: AdminServer) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self {
            addr: server.local_addr().clone(),
            handle: server.handle(),
            stop,
            served: tokio::spawn(server.serve(stopped.map(drop))),
        }
    }
}
