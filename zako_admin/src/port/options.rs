//! What the admin port allows.

use std::time::Duration;

use zako_core::server::PortOptions;

/// What the admin port allows.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct AdminOptions {
    /// Names that requests may call this host by, beside its addresses and `localhost`
    /// (none). Under any other name a page of somebody else's could read what is here.
    pub names: Vec<String>,
    /// Connections at once; further ones are closed at once (64).
    pub max_connections: usize,
    /// The longest head of a request, in bytes (16 KiB).
    pub max_header_bytes: usize,
    /// How long a head may take to come (10 s).
    pub header_timeout: Duration,
    /// How long a connection may take in all; each has one request (60 s).
    pub connection_timeout: Duration,
    /// How long requests may go on after the shutdown began (1 s).
    pub drain_timeout: Duration,
}

impl Default for AdminOptions {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            max_connections: 64,
            max_header_bytes: 16 << 10,
            header_timeout: Duration::from_secs(10),
            connection_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(1),
        }
    }
}

impl AdminOptions {
    pub(super) fn port(&self) -> PortOptions {
        let mut options = PortOptions::default();
        options.max_connections = self.max_connections;
        options.write_idle_timeout = self.header_timeout;
        options.drain_timeout = self.drain_timeout;
        options
    }
}
