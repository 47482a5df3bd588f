//! TLS: who a server is, who its clients are, and that nobody else hears them.
//!
//! [`TlsAcceptor`] is a server's end: [`Server`](crate::server::Server) and
//! [`Port`](crate::server::Port) take it, and its certificates can be replaced while they
//! serve. [`TlsClientOptions`] says whom a [`Client`](crate::client::Client) trusts, and
//! what it shows of itself. The library behind both is rustls, with ring's cryptography.

mod acceptor;
mod certificate;
mod connector;
mod error;
mod handshakes;

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, ring};

pub(crate) use acceptor::Application;
pub use acceptor::{ClientAuth, TlsAcceptor, TlsPrepared, TlsServerOptions};
pub use certificate::Validity;
pub(crate) use connector::TlsConnector;
pub use connector::{TlsClientIdentity, TlsClientOptions};
pub use error::TlsError;
pub(crate) use error::explain;

/// TLS 1.3, and 1.2 for those that have nothing newer.
static VERSIONS: &[&rustls::SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

/// One for all: none is installed for the whole process, which is its owner's to do.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(ring::default_provider()));
    Arc::clone(&PROVIDER)
}
