//! One connection and the transport session on it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use zako_protobuf::cas::content_addressable_storage_client::ContentAddressableStorageClient;
use zako_protobuf::cas::{GetTransportDetailsRequest, Scope, TransportDetails};
use zako_protobuf::net::{self, Protocol, ip_address::IpAddr as ProtoIp};
use zako_protobuf::range::BlobRange as ProtoRange;
use zako_protobuf::transport::{BlobResource, DownloadRequest};

use super::dial::Http2;
use super::{ClientOptions, call, status};
use crate::Digest;
use crate::cas::{CasError, ErrorKind, Result};

/// A connection to the server, and the session that its token opened.
#[derive(Debug)]
pub(super) struct Connection {
    control: Http2,
    session: Mutex<Option<Arc<Session>>>,
    /// One negotiates, the others wait for what comes of it.
    negotiating: tokio::sync::Mutex<()>,
    retired: AtomicBool,
}

/// A transport session: a redeemed token, and room for the streams that the
/// server recommends.
#[derive(Debug)]
pub(super) struct Session {
    /// Where bytes move: the connection itself, or one to the address that the
    /// server named.
    http2: Http2,
    token: Option<HeaderValue>,
    streams: Arc<Semaphore>,
    recommended: usize,
    pub(super) waiting: AtomicUsize,
}

/// The right to one stream of a session, until it is dropped.
#[derive(Debug)]
pub(super) struct Lane {
    seat: Seat,
    _permit: OwnedSemaphorePermit,
}

/// A session and its connection.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    connection: Arc<Connection>,
    session: Arc<Session>,
}

impl Connection {
    pub(super) fn new(control: Http2) -> Self {
        Self {
            control,
            session: Mutex::new(None),
            negotiating: tokio::sync::Mutex::new(()),
            retired: AtomicBool::new(false),
        }
    }

    /// Whether no new call should begin here. Those under way go on.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
            || self.control.is_closed()
            || self
                .current()
                .is_some_and(|session| session.http2.is_closed())
    }

    /// Draws the consequence of a call's error: a connection on which the server
    /// was not to be had is not used again.
    pub(super) fn judge(&self, error: &CasError) {
        if error.kind() == ErrorKind::Unavailable {
            self.retired.store(true, Ordering::Relaxed);
            if let Some(session) = self.current() {
                session.streams.close();
            }
        }
    }

    pub(super) fn http2(&self) -> Http2 {
        self.control.clone()
    }

    /// The session, if there is one.
    pub(super) fn current(&self) -> Option<Arc<Session>> {
        self.session.lock().clone()
    }

    /// The session; negotiates one if there is none.
    ///
    /// # Errors
    /// Those of the negotiation.
    pub(super) async fn session(&self, options: &ClientOptions) -> Result<Arc<Session>> {
        if let Some(session) = self.current() {
            return Ok(session);
        }
        let _turn = self.negotiating.lock().await;
        if let Some(session) = self.current() {
            return Ok(session);
        }
        let session = Arc::new(Session::open(&self.control, options).await?);
        *self.session.lock() = Some(session.clone());
        Ok(session)
    }

    /// Gives up a session that the server doesn't know any more.
    pub(super) fn expire(&self, session: &Arc<Session>) {
        let mut current = self.session.lock();
        if current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, session))
        {
            *current = None;
        }
        // Who waits for a stream of it must wait for one of the next session.
        session.streams.close();
    }
}

impl Session {
    pub(super) fn recommended(&self) -> usize {
        self.recommended
    }

    pub(super) fn available(&self) -> usize {
        self.streams.available_permits()
    }

    /// A stream that is free at once.
    pub(super) fn try_lane(self: &Arc<Self>, connection: &Arc<Connection>) -> Option<Lane> {
        let permit = self.streams.clone().try_acquire_owned().ok()?;
        Some(self.lane(connection, permit))
    }

    /// The next stream that is free; `None` if the session ends before.
    pub(super) async fn wait_lane(self: &Arc<Self>, connection: &Arc<Connection>) -> Option<Lane> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        let permit = self.streams.clone().acquire_owned().await.ok()?;
        Some(self.lane(connection, permit))
    }

    fn lane(self: &Arc<Self>, connection: &Arc<Connection>, permit: OwnedSemaphorePermit) -> Lane {
        Lane {
            seat: Seat {
                connection: connection.clone(),
                session: self.clone(),
            },
            _permit: permit,
        }
    }

    /// Gets a token and redeems it.
    async fn open(control: &Http2, options: &ClientOptions) -> Result<Self> {
        let within = options.call_timeout;
        let opening = async {
            let details = details(control).await?;
            let token = token(&details.auth_token)?;
            let elsewhere = other_address(&details, control.peer());
            let http2 = match elsewhere {
                None => control.clone(),
                Some(address) => match Http2::connect(&address.into(), options).await {
                    Ok(http2) => http2,
                    Err(error) => {
                        tracing::debug!(%error, "staying on the address that was dialed");
                        control.clone()
                    }
                },
            };
            if let Some(token) = &token {
                redeem(&http2, token, options).await?;
            }
            let recommended = (details.recommended_concurrency as usize).max(1);
            let streams = recommended.min(options.streams_per_connection());
            Ok(Self {
                http2,
                token,
                streams: Arc::new(Semaphore::new(streams)),
                recommended: streams,
                waiting: AtomicUsize::new(0),
            })
        };
        match timeout(within, opening).await {
            Ok(done) => done,
            Err(_) => Err(CasError::new(
                ErrorKind::Timeout,
                format!("the server opened no session within {within:?}"),
            )),
        }
    }
}

impl Lane {
    pub(super) fn http2(&self) -> Http2 {
        self.seat.session.http2.clone()
    }

    /// The token that each call carries, if the server wants one.
    pub(super) fn token(&self) -> Option<HeaderValue> {
        self.seat.session.token.clone()
    }

    /// A call for generated code.
    pub(super) fn request<M>(&self, message: M) -> tonic::Request<M> {
        let mut request = tonic::Request::new(message);
        if let Some(token) = &self.seat.session.token
            && let Ok(token) = MetadataValue::try_from(token.as_bytes())
        {
            request.metadata_mut().insert(call::TOKEN, token);
        }
        request
    }

    pub(super) fn seat(&self) -> Seat {
        self.seat.clone()
    }
}

impl Seat {
    /// Draws the consequences of a call's error.
    pub(super) fn judge(&self, error: &CasError) {
        match error.kind() {
            ErrorKind::Unauthenticated => self.connection.expire(&self.session),
            _ => self.connection.judge(error),
        }
    }
}

async fn details(control: &Http2) -> Result<TransportDetails> {
    let request = GetTransportDetailsRequest {
        supported_protocols: vec![Protocol::Grpc.into()],
        scope: Scope::ReadWrite.into(),
    };
    let details = ContentAddressableStorageClient::new(control.clone())
        .get_transport_details(request)
        .await
        .map_err(|status| status::from_status(&status))?
        .into_inner();
    if details.protocol != i32::from(Protocol::Grpc) {
        return Err(CasError::new(
            ErrorKind::Unsupported,
            format!("the server chose the road {}", details.protocol),
        ));
    }
    Ok(details)
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
async fn redeem(http2: &Http2, token: &HeaderValue, options: &ClientOptions) -> Result<()> {
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
