//! Accepting connections, and ending well.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;
use zako_protobuf::cas::content_addressable_storage_server::ContentAddressableStorageServer;
use zako_protobuf::rdma::probe_server::ProbeServer;
use zako_protobuf::rdma::rdma_server::RdmaServer;
use zako_protobuf::store::store_server::StoreServer;

use super::Server;
use super::cas::CasService;
use super::connection::{self, Calls, Shared};
use super::drain::DrainLimit;
use super::face::Face;
use super::figures::FiguresReader;
use super::gated::Gated;
use super::listen::{ListenAddr, Listener};
use super::memory::Memory;
use super::methods::Methods;
use super::rdma::{LONGEST_MESSAGE, ProbeService, RdmaRoad, RdmaService};
use super::sendfile::Slots;
use super::store::StoreService;
use super::windows::Windows;
use crate::cas::{CasError, ErrorKind, Result};
use crate::negotiate::Gate;

/// The longest request, in bytes, of the services that only tell about this server.
const MAX_SMALL_REQUEST: usize = 16 * 1024;

/// How long uploads may take to be parked, and calls to let go of the store.
const PARK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long connections may take to send their last answers.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// A server that has its address.
pub struct BoundServer {
    listener: Listener,
    shared: Arc<Shared>,
}

/// Tells that a server is going to end.
#[derive(Clone, Debug)]
pub struct Notice(CancellationToken);

impl Notice {
    /// From now on the server says that it is not serving to who asks about its health. It
    /// goes on answering calls.
    pub fn give(&self) {
        self.0.cancel();
    }
}

impl BoundServer {
    pub(super) fn new(listener: Listener, server: Server) -> Self {
        let Server {
            cas,
            maintain,
            clock,
            options,
            rdma,
            faces,
            observer,
            authorizer,
            quota,
            tls,
        } = server;
        Self {
            listener,
            shared: Arc::new(Shared {
                cas,
                maintain,
                gate: Gate::new(options.gate_limits(), clock),
                calls: Calls::new(options.download_idle_timeout),
                drain: DrainLimit::new(options.drain_timeout),
                windows: Windows::new(options.max_receive_bytes),
                memory: Memory::new(options.max_held_bytes),
                options,
                rdma: rdma.map(|rdma| Arc::new(RdmaRoad::new(rdma))),
                methods: observer.as_ref().map(|_| methods(&faces)),
                faces,
                observer,
                authorizer,
                quota,
                tls,
                began: Instant::now(),
                connections: TaskTracker::new(),
                slots: Arc::new(Slots::new()),
                uploads: TaskTracker::new(),
                leaving: CancellationToken::new(),
                stop: CancellationToken::new(),
                park: CancellationToken::new(),
                cut: CancellationToken::new(),
            }),
        }
    }

    /// The address that it has: with the real port where 0 was asked for.
    pub fn local_addr(&self) -> &ListenAddr {
        self.listener.addr()
    }

    /// What tells what it holds.
    pub fn figures(&self) -> FiguresReader {
        FiguresReader::new(Arc::clone(&self.shared))
    }

    /// How long the shutdown may take: what its options say, unless it is changed.
    pub fn drain_limit(&self) -> DrainLimit {
        self.shared.drain.clone()
    }

    /// What tells clients that ask about its health that it is going to end, before it does:
    /// those that can go elsewhere in time.
    pub fn notice(&self) -> Notice {
        Notice(self.shared.leaving.clone())
    }

    /// Answers calls until `shutdown` is ready. Then takes no more connections and
    /// calls, lets those that run end within
    /// [`ServerOptions::drain_timeout`](super::ServerOptions::drain_timeout), parks
    /// the uploads that are left, and cuts the rest.
    ///
    /// Dropping the future cuts all connections; uploads park then as far as a drop
    /// of their writers can.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] if a service can't be set up.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        let Self { listener, shared } = self;
        let (health, routes) = routes(&shared).await?;
        let connections = &shared.connections;
        let _cut = shared.cut.clone().drop_guard();
        let _park = shared.park.clone().drop_guard();

        let caps = shared.options.caps();
        let serve = |stream, addr| {
            let (shared, routes) = (Arc::clone(&shared), routes.clone());
            connection::serve(shared, routes, stream, addr)
        };
        let noticed = async {
            shared.leaving.cancelled().await;
            set_serving(&health, &shared, false).await;
            std::future::pending().await
        };
        tokio::select! {
            () = listener.serve(caps, connections, shutdown, serve) => {}
            () = noticed => {}
        }
        // Closes the socket: a peer that connects now is refused, not left waiting.
        drop(listener);

        tracing::debug!(connections = connections.len(), "draining");
        set_serving(&health, &shared, false).await;
        shared.stop.cancel();
        connections.close();
        shared.calls.tasks.close();
        shared.uploads.close();
        if timeout(shared.drain.get(), connections.wait())
            .await
            .is_err()
        {
            shared.park.cancel();
            let parked = async {
                shared.uploads.wait().await;
                // The answers of the parked uploads are on their way.
                let _ = timeout(ANSWER_TIMEOUT, connections.wait()).await;
            };
            if timeout(PARK_TIMEOUT, parked).await.is_err() {
                tracing::warn!("uploads were still being parked when the server ended");
            }
            shared.cut.cancel();
            connections.wait().await;
        }
        // Calls and uploads of connections that broke may still hold the store.
        let released = async {
            shared.calls.tasks.wait().await;
            shared.uploads.wait().await;
        };
        if timeout(PARK_TIMEOUT, released).await.is_err() {
            tracing::warn!("calls still used the store when the server ended");
        }
        Ok(())
    }
}

impl fmt::Debug for BoundServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundServer")
            .field("addr", self.listener.addr())
            .field("cas", &self.shared.cas)
            .finish_non_exhaustive()
    }
}

/// All methods of its services.
fn methods(faces: &[Arc<dyn Face>]) -> Methods {
    let own = [
        zako_protobuf::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    Methods::of(
        own.into_iter()
            .chain(faces.iter().map(|face| face.descriptors())),
    )
}

async fn routes(shared: &Arc<Shared>) -> Result<(HealthReporter, Routes)> {
    let limit = shared.options.max_request_bytes;
    let cas = ContentAddressableStorageServer::new(CasService::new(Arc::clone(shared)))
        .max_decoding_message_size(limit);
    let store =
        StoreServer::new(StoreService::new(Arc::clone(shared))).max_decoding_message_size(limit);

    let (health, health_service) = tonic_health::server::health_reporter();
    set_serving(&health, shared, true).await;
    let reflection = || {
        let own = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(zako_protobuf::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        let faces = shared.faces.iter();
        faces.fold(own, |builder, face| {
            builder.register_encoded_file_descriptor_set(face.descriptors())
        })
    };
    let broken = |error: tonic_reflection::server::Error| {
        CasError::new(ErrorKind::Internal, "reflection can't be set up").with_source(error)
    };
    let v1 = reflection().build_v1().map_err(broken)?;
    let v1alpha = reflection().build_v1alpha().map_err(broken)?;
    let rdma = RdmaServer::new(RdmaService::new(Arc::clone(shared)));
    let probe = ProbeServer::new(ProbeService::new(Arc::clone(shared)));
    let routes = Routes::new(cas)
        .add_service(Gated::new(store, Arc::clone(shared)))
        .add_service(rdma.max_decoding_message_size(MAX_SMALL_REQUEST))
        .add_service(probe.max_decoding_message_size(LONGEST_MESSAGE))
        .add_service(health_service.max_decoding_message_size(MAX_SMALL_REQUEST))
        .add_service(v1.max_decoding_message_size(MAX_SMALL_REQUEST))
        .add_service(v1alpha.max_decoding_message_size(MAX_SMALL_REQUEST))
        .prepare();
    Ok((health, routes))
}

async fn set_serving(health: &HealthReporter, shared: &Shared, serving: bool) {
    use tonic_health::ServingStatus::{NotServing, Serving};
    let status = if serving { Serving } else { NotServing };
    let rdma = shared.rdma.iter();
    let rdma = rdma.flat_map(|_| ["zako.v1.rdma.Rdma", "zako.v1.rdma.Probe"]);
    let services = [
        "",
        "zako.v1.cas.ContentAddressableStorage",
        "zako.v1.transport.Transport",
        "zako.v1.batch.Batch",
        "zako.v1.store.Store",
    ];
    let faces = shared.faces.iter();
    let faces = faces.flat_map(|face| face.services().iter().copied());
    let all: Vec<&str> = services.into_iter().chain(rdma).chain(faces).collect();
    for service in all {
        health.set_service_status(service, status).await;
    }
}
