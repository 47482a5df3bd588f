//! The server's own port.

use std::sync::Arc;

use zako_core::server::{BoundServer, ListenAddr, MaintenanceAccess, Server, ServerOptions};

use super::rdma::Offer;
use super::sockets::{Sockets, Use};
use super::tls::Tls;
use super::{Configured, Parts, build_tools, limits};
use crate::config::{MaintenanceChoice, ServerConfig};
use crate::failure::Failure;

/// The server on its address, with all that it is made of.
///
/// # Errors
/// The address can't be taken.
pub(super) async fn bind(
    configured: &Configured,
    parts: &Parts<'_>,
    offer: Option<Offer>,
    listen: &ListenAddr,
    sockets: &mut Sockets,
) -> Result<BoundServer, Failure> {
    let mut options = options(&configured.server);
    limits::bound(&mut options, &configured.limits);
    let mut server = Server::new(limits::staging(parts.quotas, parts.store), options)
        .with_maintenance(Arc::new(parts.store.clone()))
        .with_observer(Arc::clone(&parts.observer));
    if let Some(quotas) = parts.quotas {
        server = server.with_quota(quotas.quota());
    }
    if let Some(cache) = parts.cache {
        server = server.with_face(build_tools::face(cache));
    }
    if let Some(authorizer) = parts.guards.access.authorizer() {
        server = server.with_authorizer(authorizer);
    }
    if let Some(offer) = offer {
        server = server.with_rdma(offer.options);
    }
    if let Some(acceptor) = parts.guards.tls.map(Tls::acceptor) {
        server = server.with_tls(acceptor);
    }
    let taken = sockets.take(Use::Grpc, listen).await;
    let taken = taken.and_then(|socket| server.bind_to(socket));
    taken.map_err(|error| {
        Failure::from(error)
            .context(format!("listening on {listen}"))
            .advise("Is another server there? Take another --listen; port 0 takes a free one.")
    })
}

fn options(config: &ServerConfig) -> ServerOptions {
    let mut options = ServerOptions::default();
    options.require_token = config.require_token.value;
    options.token_ttl = config.token_ttl.value.0;
    options.session_idle = config.session_idle.value.0;
    options.drain_timeout = config.drain_timeout.value.0;
    options.upload_idle_timeout = config.upload_idle_timeout.value.0;
    options.maintenance = match config.maintenance.value {
        MaintenanceChoice::Loopback => MaintenanceAccess::Loopback,
        MaintenanceChoice::Anyone => MaintenanceAccess::Anyone,
        MaintenanceChoice::Nobody => MaintenanceAccess::Nobody,
    };
    options
}
