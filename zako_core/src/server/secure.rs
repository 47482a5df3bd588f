//! The TLS handshake of a connection, where there is one.

use std::sync::Arc;

use crate::negotiate::PeerAddr;
use crate::tls::{Application, TlsAcceptor};
use crate::transport::stream::Stream;

/// A connection that can be used.
pub(super) struct Secured {
    pub(super) stream: Stream,
    /// The client's own certificate, in DER, if it showed one: it was checked.
    pub(super) certificate: Option<Arc<[u8]>>,
}

impl Secured {
    /// Shakes hands if the connection is to be encrypted. What comes over a Unix socket
    /// doesn't leave the machine, and never is. `None` if that failed, which is told.
    #[cfg(feature = "tls")]
    pub(super) async fn begin(
        tls: Option<&TlsAcceptor>,
        application: Application,
        stream: Stream,
        peer: &PeerAddr,
    ) -> Option<Self> {
        let (tls, tcp) = match (tls, stream) {
            (Some(tls), Stream::Tcp(tcp)) => (tls, tcp),
            (_, stream) => return Some(Self::plain(stream)),
        };
        match tls.accept(tcp, application).await {
            Ok(greeting) => Some(Self {
                stream: greeting.stream,
                certificate: greeting.certificate,
            }),
            Err(error) => {
                tracing::debug!(?peer, %error, "a TLS handshake failed");
                None
            }
        }
    }

    #[cfg(not(feature = "tls"))]
    #[allow(clippy::unused_async, reason = "as with TLS")]
    pub(super) async fn begin(
        _: Option<&TlsAcceptor>,
        _: Application,
        stream: Stream,
        _: &PeerAddr,
    ) -> Option<Self> {
        Some(Self::plain(stream))
    }

    fn plain(stream: Stream) -> Self {
        let certificate = None;
        Self {
            stream,
            certificate,
        }
    }
}
