//! `zako.v1.cas.ContentAddressableStorage`: what is missing, and how to move it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming};
use zako_protobuf::cas;
use zako_protobuf::cas::content_addressable_storage_server::ContentAddressableStorage;
use zako_protobuf::cas::{
    GetTransportDetailsRequest, NegotiateBlobsRequest, NegotiateBlobsResponse, TransportDetails,
};
use zako_protobuf::net::{self, Protocol};

use super::connection::Shared;
use super::gated::{caller, peer};
use super::resource::digests;
use super::roles::namespace;
use super::status::{bad_request, to_status};
use crate::access::{Identity, Role};
use crate::cas::{CasError, ErrorKind, Lease};
use crate::negotiate::{Peer, PeerAddr, Scope};
use crate::observe::{Interface, Lookup, RdmaEvent};

pub(super) struct CasService(Arc<Shared>);

impl CasService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

#[tonic::async_trait]
impl ContentAddressableStorage for CasService {
    type NegotiateBlobsStream = BoxStream<'static, Result<NegotiateBlobsResponse, Status>>;

    async fn negotiate_blobs(
        &self,
        request: Request<Streaming<NegotiateBlobsRequest>>,
    ) -> Result<Response<Self::NegotiateBlobsStream>, Status> {
        let shared = Arc::clone(&self.0);
        // A negotiation outlives the configuration that it began under.
        let caller = caller(request.extensions());
        let namespace = namespace_of(&request)?;
        let answers = request.into_inner().then(move |batch| {
            let shared = Arc::clone(&shared);
            let allowed = caller.check(&namespace, Role::Read);
            async move {
                allowed.map_err(|error| to_status(&error))?;
                negotiate(&shared, batch?).await
            }
        });
        // One mistake ends the call: later answers would look like earlier ones.
        let answers = answers.scan(false, |failed, answer| {
            let ended = std::mem::replace(failed, answer.is_err());
            std::future::ready((!ended).then_some(answer))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn get_transport_details(
        &self,
        request: Request<GetTransportDetailsRequest>,
    ) -> Result<Response<TransportDetails>, Status> {
        let peer = Arc::clone(peer(request.extensions())?);
        let caller = caller(request.extensions());
        let may_write = caller.check(&namespace_of(&request)?, Role::Write);
        let identity = request.extensions().get::<Identity>().cloned();
        let request = request.into_inner();
        let (chosen, fallbacks) = roads(&self.0, &peer, &request.supported_protocols)
            .map_err(|error| to_status(&error))?;
        let scope = match cas::Scope::try_from(request.scope) {
            Ok(cas::Scope::ReadWrite) => Scope::ReadWrite,
            Ok(cas::Scope::Read) => Scope::Read,
            Ok(cas::Scope::Write) => Scope::Write,
            Err(_) => return Err(bad_request("scope", "the scope is unknown")),
        };
        let scope = match (scope, may_write) {
            (Scope::Write, Err(error)) => return Err(to_status(&error)),
            (_, Err(_)) => Scope::Read,
            (scope, Ok(())) => scope,
        };
        let offer = self
            .0
            .gate
            .offer_to(&peer, identity.as_ref(), scope)
            .map_err(|error| to_status(&error))?;
        let server_addr = match peer.addr() {
            PeerAddr::Tcp { local, .. } => Some(socket_address(*local)),
            PeerAddr::Unix { .. } => None,
        };
        Ok(Response::new(TransportDetails {
            server_addr,
            auth_token: offer.token,
            recommended_concurrency: offer.streams,
            protocol: chosen.into(),
            token_ttl_seconds: u32::try_from(offer.ttl.as_secs()).unwrap_or(u32::MAX),
            fallbacks: fallbacks.into_iter().map(i32::from).collect(),
        }))
    }
}

/// The best road that both ends have, and the others, best first.
fn roads(
    shared: &Shared,
    peer: &Peer,
    supported: &[i32],
) -> Result<(Protocol, Vec<Protocol>), CasError> {
    let mut why_not = "no road in common: offer gRPC".to_owned();
    let rdma = match &shared.rdma {
        _ if !supported.contains(&Protocol::Rdma.into()) => None,
        Some(road) => match road.check(peer) {
            Ok(()) => Some(Protocol::Rdma),
            Err(error) => {
                tracing::debug!(peer = ?peer.addr(), %error, "RDMA is not offered");
                shared.rdma_event(RdmaEvent::NotOffered);
                why_not = error.message().to_owned();
                None
            }
        },
        None => {
            why_not = "this server has no RDMA".to_owned();
            None
        }
    };
    let grpc = supported.contains(&Protocol::Grpc.into());
    let mut roads = rdma.into_iter().chain(grpc.then_some(Protocol::Grpc));
    let chosen = roads.next();
    let chosen = chosen.ok_or_else(|| CasError::new(ErrorKind::Unsupported, why_not))?;
    Ok((chosen, roads.collect()))
}

/// The namespace that a call names.
fn namespace_of<T>(request: &Request<T>) -> Result<String, Status> {
    let namespace = namespace(request.metadata().as_ref());
    let namespace = namespace.map_err(|error| to_status(&error))?;
    Ok(namespace.to_owned())
}

async fn negotiate(
    shared: &Shared,
    batch: NegotiateBlobsRequest,
) -> Result<NegotiateBlobsResponse, Status> {
    let asked = digests("blob_digests", &batch.blob_digests)?;
    let missing = shared
        .cas
        .missing(&asked, Lease::Default)
        .await
        .map_err(|error| to_status(&error))?;
    let misses = missing.len() as u64;
    let hits = (asked.len() as u64).saturating_sub(misses);
    shared.looked_up(&Lookup::new(Interface::Zako, "negotiated", hits, misses));
    Ok(NegotiateBlobsResponse {
        missing_blob_digests: missing.into_iter().map(Into::into).collect(),
    })
}

fn socket_address(addr: SocketAddr) -> net::SocketAddress {
    let ip_addr = match addr.ip().to_canonical() {
        IpAddr::V4(ip) => net::ip_address::IpAddr::V4(ip.to_bits()),
        IpAddr::V6(ip) => net::ip_address::IpAddr::V6(Bytes::copy_from_slice(&ip.octets())),
    };
    net::SocketAddress {
        ip: Some(net::IpAddress {
            ip_addr: Some(ip_addr),
        }),
        port: u32::from(addr.port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_on_the_wire() {
        let v4 = |addr: &str| match socket_address(addr.parse().unwrap()).ip.unwrap().ip_addr {
            Some(net::ip_address::IpAddr::V4(ip)) => ip,
            other => panic!("{other:?}"),
        };
        assert_eq!(v4("127.0.0.1:1"), 0x7f00_0001);
        assert_eq!(v4("[::ffff:127.0.0.1]:1"), 0x7f00_0001);
        let v6 = socket_address("[::1]:65535".parse().unwrap());
        assert_eq!(v6.port, 65535);
        let expected = Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        let ip_addr = Some(net::ip_address::IpAddr::V6(expected));
        assert_eq!(v6.ip, Some(net::IpAddress { ip_addr }));
    }
}
