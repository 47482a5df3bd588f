//! A server's end of TLS.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::certificate::{self, Validity};
use super::handshakes::Handshakes;
use super::{TlsError, VERSIONS, provider};
use crate::transport::plaintext;
use crate::transport::stream::Stream;
use crate::transport::tls::TlsStream;

/// Handshakes under way at once, of all ports.
const MOST_HANDSHAKES: usize = 256;

/// The first byte of a TLS record with a handshake.
const HANDSHAKE: u8 = 22;

/// Takes TLS connections. Cheap to clone: all clones share what
/// [`replace`](Self::replace) sets.
#[derive(Clone)]
pub struct TlsAcceptor(Arc<Inner>);

struct Inner {
    current: RwLock<TlsPrepared>,
    handshakes: Arc<Handshakes>,
}

/// Certificates that can be used, for a [`TlsAcceptor`].
#[derive(Clone)]
pub struct TlsPrepared {
    http2: Arc<ServerConfig>,
    http1: Arc<ServerConfig>,
    validity: Validity,
}

/// What a server shows of itself, and wants to see of its clients.
#[non_exhaustive]
#[derive(Clone, Default)]
pub struct TlsServerOptions {
    /// Its certificate and those that lead to a well-known authority, in PEM.
    pub certificates: Vec<u8>,
    /// The certificate's private key, in PEM.
    pub key: Vec<u8>,
    /// The certificates of the authorities that its clients' are from, in PEM.
    pub client_ca: Option<Vec<u8>>,
    /// Whether clients need certificates.
    pub client_auth: ClientAuth,
}

/// Whether clients need certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    /// They aren't asked for one.
    #[default]
    None,
    /// Who has none may connect too; who shows one must be from the authorities.
    Optional,
    /// Who has none may not connect.
    Required,
}

/// What is spoken inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Application {
    Http2,
    Http1,
}

/// A connection whose handshake is over.
pub(crate) struct Greeting {
    pub(crate) stream: Stream,
    /// The client's own certificate, in DER, if it showed one: it was checked.
    pub(crate) certificate: Option<Arc<[u8]>>,
}

impl TlsServerOptions {
    /// A server with this certificate and key, which asks its clients for none.
    pub fn new(certificates: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self {
            certificates: certificates.into(),
            key: key.into(),
            ..Self::default()
        }
    }

    /// Wants certificates of its clients, too, by these authorities.
    #[must_use]
    pub fn with_clients(mut self, ca: impl Into<Vec<u8>>, auth: ClientAuth) -> Self {
        self.client_ca = Some(ca.into());
        self.client_auth = auth;
        self
    }
}

impl TlsAcceptor {
    /// Takes connections by these certificates.
    ///
    /// # Errors
    /// [`TlsError`] if they can't be used, at all or at this time.
    pub fn new(options: &TlsServerOptions) -> Result<Self, TlsError> {
        Ok(Self::of(TlsPrepared::new(options)?))
    }

    /// Takes connections by these certificates.
    pub fn of(certificates: TlsPrepared) -> Self {
        Self(Arc::new(Inner {
            current: RwLock::new(certificates),
            handshakes: Handshakes::new(MOST_HANDSHAKES),
        }))
    }

    /// Takes further connections by these certificates; those that there are go on. Their
    /// clients can't resume their sessions, and shake hands anew when they come again.
    ///
    /// # Errors
    /// [`TlsError`] if they can't be used: all stays as it was.
    pub fn replace(&self, options: &TlsServerOptions) -> Result<(), TlsError> {
        self.apply(TlsPrepared::new(options)?);
        Ok(())
    }

    /// As [`replace`](Self::replace), by what was checked before.
    pub fn apply(&self, certificates: TlsPrepared) {
        *self.0.current.write() = certificates;
    }

    /// When the server's certificates are good.
    pub fn validity(&self) -> Validity {
        self.0.current.read().validity
    }

    /// Shakes hands, for as long as the caller waits.
    pub(crate) async fn accept(
        &self,
        tcp: TcpStream,
        application: Application,
    ) -> io::Result<Greeting> {
        let handshake = self.0.handshakes.begin();
        let accepted = handshake
            .displaced
            .run_until_cancelled(self.shake_hands(tcp, application));
        let crowded = || Err(io::Error::other("too many handshakes were under way"));
        accepted.await.unwrap_or_else(crowded)
    }

    async fn shake_hands(
        &self,
        mut tcp: TcpStream,
        application: Application,
    ) -> io::Result<Greeting> {
        let mut first = [0];
        if tcp.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first[0] != HANDSHAKE {
            refuse_plaintext(&mut tcp, application).await?;
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the client doesn't speak TLS",
            ));
        }
        let config = self.0.current.read().config(application);
        let accepting = tokio_rustls::TlsAcceptor::from(config).accept(tcp);
        let stream = match accepting.into_fallible().await {
            Ok(stream) => stream,
            Err((error, mut tcp)) => {
                // The client was told why, by an alert.
                let _ = leave(&mut tcp).await;
                return Err(error);
            }
        };
        let (tcp, session) = stream.into_inner();
        let certificate = session.peer_certificates();
        let certificate = certificate.and_then(<[_]>::first);
        if let Some(certificate) = certificate {
            // A session that is resumed brings along what was checked when it began.
            let validity = Validity::of(certificate).map_err(io::Error::other)?;
            validity
                .check(SystemTime::now())
                .map_err(io::Error::other)?;
        }
        let certificate = certificate.map(|certificate| Arc::from(certificate.as_ref()));
        Ok(Greeting {
            stream: Stream::Tls(Box::new(TlsStream::new(tcp, session.into()))),
            certificate,
        })
    }
}

impl TlsPrepared {
    /// Checks them.
    ///
    /// # Errors
    /// [`TlsError`] if they can't be used, at all or at this time.
    pub fn new(options: &TlsServerOptions) -> Result<Self, TlsError> {
        let (certified, validity) = certificate::certified(&options.certificates, &options.key)?;
        let other = |error: rustls::Error| TlsError::Other(error.to_string());
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(other)?;
        let builder = match (options.client_auth, &options.client_ca) {
            (ClientAuth::None, _) => builder.with_no_client_auth(),
            (_, None) => return Err(TlsError::NoClientAuthority),
            (auth, Some(ca)) => {
                let authorities = Arc::new(certificate::authorities(ca)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(authorities, provider());
                let verifier = match auth {
                    ClientAuth::Required => verifier,
                    _ => verifier.allow_unauthenticated(),
                };
                let verifier = verifier
                    .build()
                    .map_err(|error| TlsError::Other(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        // Tickets keep the sessions with the clients, and none with the server.
        config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(other)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let mut http1 = config.clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            http2: Arc::new(config),
            http1: Arc::new(http1),
            validity,
        })
    }

    fn config(&self, application: Application) -> Arc<ServerConfig> {
        Arc::clone(match application {
            Application::Http2 => &self.http2,
            Application::Http1 => &self.http1,
        })
    }
}

/// Tells who speaks without TLS to speak it.
async fn refuse_plaintext(tcp: &mut TcpStream, application: Application) -> io::Result<()> {
    tcp.write_all(match application {
        Application::Http2 => plaintext::REFUSAL_HTTP2,
        Application::Http1 => plaintext::REFUSAL_HTTP1,
    })
    .await?;
    leave(tcp).await
}

/// Closes the connection once the peer does, which lets it read what it was told.
async fn leave(tcp: &mut TcpStream) -> io::Result<()> {
    tcp.shutdown().await?;
    // A socket that is closed with bytes unread takes the answer back.
    let mut rest = tcp.take(64 << 10);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(())
}

impl fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsAcceptor")
            .field("validity", &self.validity())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for TlsPrepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsPrepared")
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for TlsServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServerOptions")
            .field("client_auth", &self.client_auth)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_shown() {
        let options = TlsServerOptions::new("certificate", "secret");
        assert!(!format!("{options:?}").contains("secret"));
        let bytes = format!("{:?}", b"secret");
        assert!(!format!("{options:?}").contains(bytes.trim_matches(['[', ']'])));
    }
}
