//! A client's end of TLS.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;

use super::{TlsError, VERSIONS, certificate, provider};
use crate::transport::stream::Stream;
use crate::transport::tls::TlsStream;

/// Whom a client trusts, and what it shows of itself. By default it trusts the
/// authorities that its machine does, and shows nothing.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsClientOptions {
    /// The authorities to trust instead of the machine's, in PEM.
    pub ca: Option<Vec<u8>>,
    /// What it shows to servers that want to see a certificate.
    pub identity: Option<TlsClientIdentity>,
    /// The name that the server's certificate must have, where it isn't that of the URL.
    pub server_name: Option<String>,
}

/// A client's certificate and key.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsClientIdentity {
    certificates: Vec<u8>,
    key: Vec<u8>,
}

/// Opens TLS connections to one server; they share what is needed to resume sessions.
#[derive(Clone)]
pub(crate) struct TlsConnector {
    connector: tokio_rustls::TlsConnector,
    server_name: ServerName<'static>,
}

impl TlsClientIdentity {
    /// A certificate, with those that lead to its authority, and its private key, in PEM.
    pub fn new(certificates: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self {
            certificates: certificates.into(),
            key: key.into(),
        }
    }
}

impl TlsClientOptions {
    /// What rustls needs to connect to a server that speaks one of these protocols, by their
    /// names in ALPN. Reads the machine's authorities, if they are to be trusted: that takes
    /// a while.
    ///
    /// # Errors
    /// [`TlsError`] if a certificate or a key can't be used.
    pub fn rustls_config(&self, protocols: &[&[u8]]) -> Result<ClientConfig, TlsError> {
        let authorities = match &self.ca {
            Some(ca) => certificate::authorities(ca)?,
            None => of_this_machine()?,
        };
        let other = |error: rustls::Error| TlsError::Other(error.to_string());
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(other)?
            .with_root_certificates(authorities);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (certified, _) = certificate::certified(&identity.certificates, &identity.key)?;
                let resolver = SingleCertAndKey::from(certified);
                builder.with_client_cert_resolver(Arc::new(resolver))
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(config)
    }
}

impl TlsConnector {
    /// For connections to `host`. As slow as
    /// [`rustls_config`](TlsClientOptions::rustls_config).
    pub(crate) fn new(host: &str, options: &TlsClientOptions) -> Result<Self, TlsError> {
        let name = options.server_name.as_deref().unwrap_or(host);
        let server_name = ServerName::try_from(name.to_owned())
            .map_err(|_| TlsError::ServerName(name.to_owned()))?;
        let config = options.rustls_config(&[b"h2"])?;
        Ok(Self {
            connector: Arc::new(config).into(),
            server_name,
        })
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// What [`explain`](super::explain) can explain.
    pub(crate) async fn connect(&self, tcp: TcpStream) -> io::Result<Stream> {
        let name = self.server_name.clone();
        let stream = self.connector.connect(name, tcp).await?;
        let (tcp, session) = stream.into_inner();
        Ok(Stream::Tls(Box::new(TlsStream::new(tcp, session.into()))))
    }
}

fn of_this_machine() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    // Some machines have a few that are damaged.
    let (taken, _) = store.add_parsable_certificates(found.certs);
    if taken == 0 {
        let why = found.errors.first();
        let why = why.map_or_else(String::new, |error| format!(": {error}"));
        return Err(TlsError::NoAuthorities(why));
    }
    Ok(store)
}

impl fmt::Debug for TlsClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClientIdentity").finish_non_exhaustive()
    }
}

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnector")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}
