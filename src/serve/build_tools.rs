//! What build tools find: the Remote Execution API's cache and the HTTP cache, over the
//! server's store.

use std::sync::Arc;
use std::time::Duration;

use zako_core::alias::{AliasOptions, AliasTable};
use zako_core::cas::Staging;
use zako_core::server::{Face, ListenAddr};
use zako_reapi::grpc::RemoteExecutionFace;
use zako_reapi::http::{HttpOptions, HttpServer};
use zako_reapi::{ActionUpdates, Cache, CacheOptions};

use super::abort_on_drop::AbortOnDrop;
use super::sockets::{Sockets, Use};
use super::tls::Tls;
use super::{Configured, Parts, limits};
use crate::config::{ActionUpdatesChoice, Origin, PortChoice, ServerConfig};
use crate::failure::{Exit, Failure};
use crate::local_store::durability;

/// Where other names of blobs are kept, in the data folder.
const ALIASES: &str = "aliases";

/// How often names of blobs that are gone are dropped.
const SWEEP_PERIOD: Duration = Duration::from_secs(3600);

/// The store as build tools see it, if they may use it.
///
/// # Errors
/// The table of other names can't be opened, or an HTTP cache is asked for that they may
/// not use.
pub(super) async fn cache(
    config: &ServerConfig,
    store: Arc<dyn Staging>,
) -> Result<Option<Cache>, Failure> {
    allowed(config)?;
    if !config.build_tools.value {
        return Ok(None);
    }
    let folder = config.data.value.0.join(ALIASES);
    let mut options = AliasOptions::default();
    options.durability = durability(config);
    let aliases = AliasTable::open(&folder, options).await;
    let aliases = aliases
        .map_err(|error| Failure::from(error).context(format!("opening {}", folder.display())))?;
    Ok(Some(Cache::new(store, aliases, cache_options(config))))
}

/// # Errors
/// An HTTP cache is asked for that nobody may use.
pub(super) fn allowed(config: &ServerConfig) -> Result<(), Failure> {
    match &config.http.value {
        PortChoice::At(addr) if !config.build_tools.value => Err(Failure::usage(format!(
            "the HTTP cache is to listen on {addr} ({}), and build-tools is false ({})",
            config.http.origin, config.build_tools.origin
        ))),
        _ => Ok(()),
    }
}

/// The Remote Execution API's services.
pub(super) fn face(cache: &Cache) -> Arc<dyn Face> {
    Arc::new(RemoteExecutionFace::new(cache.clone()))
}

/// The HTTP cache on its address, if it has one, beside a server at `listen`.
///
/// # Errors
/// The address was asked for and can't be taken.
pub(super) async fn http(
    configured: &Configured,
    parts: &Parts<'_>,
    listen: &ListenAddr,
    sockets: &mut Sockets,
) -> Result<Option<HttpServer>, Failure> {
    let Some(cache) = parts.cache else {
        return Ok(None);
    };
    let config = &configured.server;
    let passed = sockets.inherited(Use::Http).cloned();
    let addr = match passed {
        Some(passed) if config.http.value != PortChoice::Off => Some(passed),
        _ => config.http_address(listen),
    };
    let Some(addr) = addr else {
        return Ok(None);
    };
    let mut options = HttpOptions::default();
    options.body_idle_timeout = config.upload_idle_timeout.value.0;
    options.drain_timeout = config.drain_timeout.value.0;
    limits::bound_http(&mut options, &configured.limits);
    let taken = sockets.take(Use::Http, &addr).await;
    match taken.and_then(|socket| HttpServer::bind_to(socket, cache.clone(), options)) {
        Ok(server) => Ok(Some(with_parts(server, parts))),
        Err(error) if config.http.origin == Origin::Default => {
            // Nobody's wish, and no reason to serve nobody.
            tracing::error!(
                "there is NO HTTP CACHE: listening on {addr}: {error}. Name a free address with \
                 --http, or switch it off with --http off"
            );
            Ok(None)
        }
        Err(error) => Err(Failure::new(
            Exit::Failed,
            format!("listening on {addr} for the HTTP cache: {error}"),
        )
        .advise("Is another server there? Take another --http; port 0 takes a free one.")),
    }
}

fn with_parts(server: HttpServer, parts: &Parts<'_>) -> HttpServer {
    let mut server = server
        .with_maintenance(Arc::new(parts.store.clone()))
        .with_observer(Arc::clone(&parts.observer));
    if let Some(acceptor) = parts.guards.tls.map(Tls::acceptor) {
        server = server.with_tls(acceptor);
    }
    if let Some(quotas) = parts.quotas {
        server = server.with_quota(quotas.quota());
    }
    if let Some(authorizer) = parts.guards.access.authorizer() {
        server = server.with_authorizer(authorizer);
    }
    server
}

/// Forgets the names of blobs that are gone, from time to time, until what this gives is
/// dropped.
pub(super) fn sweep(cache: &Cache) -> AbortOnDrop {
    let cache = cache.clone();
    AbortOnDrop::spawn(async move {
        loop {
            tokio::time::sleep(SWEEP_PERIOD).await;
            match cache.sweep().await {
                Ok(count) => tracing::debug!(count, "names of blobs that are gone were dropped"),
                Err(error) => tracing::warn!(%error, "names of blobs could not be swept"),
            }
        }
    })
}

fn cache_options(config: &ServerConfig) -> CacheOptions {
    let mut options = CacheOptions::default();
    options.action_updates = match config.action_updates.value {
        ActionUpdatesChoice::Allow => ActionUpdates::Allowed,
        ActionUpdatesChoice::Refuse => ActionUpdates::Refused,
        ActionUpdatesChoice::Drop => ActionUpdates::Dropped,
    };
    options
}
