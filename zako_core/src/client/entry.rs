//! Getting a token and redeeming it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use http::HeaderValue;
use parking_lot::Mutex;
use zako_protobuf::cas::content_addressable_storage_client::ContentAddressableStorageClient;
use zako_protobuf::cas::{GetTransportDetailsRequest, Scope, TransportDetails};
use zako_protobuf::net::{self, Protocol, ip_address::IpAddr as ProtoIp};
use zako_protobuf::range::BlobRange as ProtoRange;
use zako_protobuf::transport::{BlobResource, DownloadRequest};

use super::dial::Http2;
use super::{ClientOptions, call, status, within};
use crate::Digest;
use crate::cas::{CasError, ErrorKind, Result};

/// What a session begins with.
#[derive(Debug)]
pub(super) struct Entry {
    /// Where bytes move; the token is redeemed there.
    pub(super) http2: Http2,
    pub(super) token: Option<HeaderValue>,
    /// Streams to run at once; at least one.
    pub(super) recommended: usize,
    /// The server chose RDMA for what is large.
    pub(super) rdma: bool,
}

/// The roads that this end takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acceptable {
    Grpc,
    /// RDMA if the server has it.
    Either,
    /// RDMA for what is large enough.
    Rdma,
}

/// Addresses that the server named for the transport and that don't work from
/// here, as behind a translation of addresses.
pub(super) type Unusable = Arc<Mutex<Vec<SocketAddr>>>;

/// The addresses that are remembered as unusable.
const MAX_UNUSABLE: usize = 8;

/// Gets a token over `control` and redeems it, at the address that the server
/// names if that works, else on `control`.
///
/// # Errors
/// What the server refuses it for; those of reaching it.
pub(super) async fn enter(
    control: &Http2,
    options: &ClientOptions,
    acceptable: Acceptable,
    unusable: &Unusable,
) -> Result<Entry> {
    let entering = async {
        let details = details(control, acceptable).await?;
        let token = token(&details.auth_token)?;
        let named = match other_address(&details, control.peer()) {
            Some(address) => named(control, address, token.as_ref(), options, unusable).await,
            None => None,
        };
        let http2 = match named {
            Some(http2) => http2,
            None => {
                redeem(control, token.as_ref(), options).await?;
                control.clone()
            }
        };
        Ok(Entry {
            http2,
            token,
            recommended: (details.recommended_concurrency as usize).max(1),
            rdma: details.protocol == i32::from(Protocol::Rdma),
        })
    };
    within(options.call_timeout, entering).await
}

/// A connection to the address that the server named, with the token redeemed on
/// it; `None` if that doesn't work.
async fn named(
    control: &Http2,
    address: SocketAddr,
    token: Option<&HeaderValue>,
    options: &ClientOptions,
    unusable: &Unusable,
) -> Option<Http2> {
    if unusable.lock().contains(&address) {
        return None;
    }
    let attempt = async {
        let http2 = control.elsewhere(address, options).await?;
        redeem(&http2, token, options).await?;
        Ok::<_, CasError>(http2)
    };
    match attempt.await {
        Ok(http2) => Some(http2),
        Err(error) => {
            tracing::debug!(%error, "staying on the address that was dialed");
            let mut unusable = unusable.lock();
            // A server doesn't name many; one that does costs no memory.
            unusable.truncate(MAX_UNUSABLE - 1);
            unusable.insert(0, address);
            None
        }
    }
}

async fn details(control: &Http2, acceptable: Acceptable) -> Result<TransportDetails> {
    let protocols = acceptable.protocols();
    let request = GetTransportDetailsRequest {
        supported_protocols: protocols.iter().copied().map(i32::from).collect(),
        scope: Scope::ReadWrite.into(),
    };
    let details = ContentAddressableStorageClient::new(control.clone())
        .get_transport_details(request)
        .await
        .map_err(|status| acceptable.refused(status::from_status(&status)))?
        .into_inner();
    let chosen = Protocol::try_from(details.protocol);
    match chosen.ok().filter(|chosen| protocols.contains(chosen)) {
        Some(chosen) => {
            tracing::debug!(?chosen, fallbacks = ?details.fallbacks, "the server chose a road");
            Ok(details)
        }
        None => {
            let text = format!("the server chose the road {}", details.protocol);
            Err(acceptable.refused(CasError::new(ErrorKind::Unsupported, text)))
        }
    }
}

impl Acceptable {
    /// What the server is told, best first.
    fn protocols(self) -> &'static [Protocol] {
        match self {
            Self::Grpc => &[Protocol::Grpc],
            Self::Either => &[Protocol::Rdma, Protocol::Grpc],
            Self::Rdma => &[Protocol::Rdma],
        }
    }

    /// Says what was asked for, where the server knows no such road.
    fn refused(self, error: CasError) -> CasError {
        match (self, error.kind()) {
            (Self::Rdma, ErrorKind::Unsupported) => CasError::new(
                ErrorKind::Unsupported,
                format!("no RDMA to this server: {}", error.message()),
            ),
            _ => error,
        }
    }
}

fn token(text: &str) -> Result<Option<HeaderValue>> {
    if text.is_empty() {
        return Ok(None);
    }
    let mut token = HeaderValue::from_str(text)
        .map_err(|_| CasError::new(ErrorKind::Internal, "the server's token is not a text"))?;
    token.set_sensitive(true);
    Ok(Some(token))
}

/// The first call on a connection redeems the token. This one moves nothing, so
/// that no other has to wait behind a blob.
async fn redeem(http2: &Http2, token: Option<&HeaderValue>, options: &ClientOptions) -> Result<()> {
    let Some(token) = token else {
        return Ok(());
    };
    let request = DownloadRequest {
        metadata: Some(BlobResource {
            digest: Some(Digest::EMPTY.into()),
            range: Some(ProtoRange {
                start: 0,
                length: Some(0),
            }),
        }),
    };
    let body = call::one_message(&request)?;
    let outcome = async {
        let mut reply =
            call::open(http2.clone(), call::DOWNLOAD, Some(token.clone()), body).await?;
        while reply.next(options.idle_timeout).await?.is_some() {}
        Ok(())
    };
    match outcome.await {
        Ok(()) => Ok(()),
        Err(error) => match CasError::kind(&error) {
            ErrorKind::Unauthenticated
            | ErrorKind::PermissionDenied
            | ErrorKind::Unavailable
            | ErrorKind::Timeout
            | ErrorKind::NoSpace => Err(error),
            // Whatever it thinks of the empty blob, it took the token.
            _ => Ok(()),
        },
    }
}

/// The address at which bytes move, if it is another than `peer`.
fn other_address(details: &TransportDetails, peer: Option<SocketAddr>) -> Option<SocketAddr> {
    let net::SocketAddress { ip, port } = details.server_addr.as_ref()?;
    let ip = match ip.as_ref()?.ip_addr.as_ref()? {
        ProtoIp::V4(bits) => IpAddr::V4(Ipv4Addr::from_bits(*bits)),
        ProtoIp::V6(bytes) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[..]).ok()?)),
    };
    let port = u16::try_from(*port).ok().filter(|port| *port != 0)?;
    let address = SocketAddr::new(ip.to_canonical(), port);
    let dialed = peer.map(|peer| SocketAddr::new(peer.ip().to_canonical(), peer.port()));
    (!ip.is_unspecified() && Some(address) != dialed).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(ip: ProtoIp, port: u32) -> TransportDetails {
        TransportDetails {
            server_addr: Some(net::SocketAddress {
                ip: Some(net::IpAddress { ip_addr: Some(ip) }),
                port,
            }),
            ..TransportDetails::default()
        }
    }

    #[test]
    fn only_another_address_is_dialed() {
        let peer: SocketAddr = "127.0.0.1:7420".parse().unwrap();
        let other = |details: &TransportDetails| other_address(details, Some(peer));
        assert_eq!(other(&TransportDetails::default()), None);
        assert_eq!(other(&told(ProtoIp::V4(0x7f00_0001), 7420)), None);
        assert_eq!(other(&told(ProtoIp::V4(0), 7420)), None);
        assert_eq!(other(&told(ProtoIp::V4(0x7f00_0001), 0)), None);
        assert_eq!(other(&told(ProtoIp::V4(0x7f00_0001), 1 << 16)), None);
        assert_eq!(other(&told(ProtoIp::V6(vec![1; 15].into()), 1)), None);
        let found = other(&told(ProtoIp::V4(0x7f00_0001), 7421));
        assert_eq!(found, Some("127.0.0.1:7421".parse().unwrap()));
        let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets().to_vec();
        assert_eq!(other(&told(ProtoIp::V6(mapped.into()), 7420)), None);
    }
}
