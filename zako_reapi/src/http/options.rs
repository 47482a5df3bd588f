//! What the HTTP cache allows, and its bounds.

use std::time::Duration;

use zako_core::server::PortOptions;

/// How the HTTP cache behaves. Sizes are in bytes.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Connections at once; further ones are closed at once (4,096).
    pub max_connections: usize,
    /// Connections at once of one address, or of one network of 64 bits of IPv6; further
    /// ones are closed at once (1,024).
    pub max_connections_per_address: usize,
    /// How long the head of a request may take (10 s).
    pub header_timeout: Duration,
    /// How long a connection may rest between requests (5 min).
    pub keep_alive_timeout: Duration,
    /// The head of a request (64 KiB).
    pub max_header_bytes: usize,
    /// How long a body may bring next to nothing before the request ends and what came
    /// of it is dropped (60 s).
    pub body_idle_timeout: Duration,
    /// How long a peer may read nothing of an answer (60 s).
    pub answer_idle_timeout: Duration,
    /// How long requests that run may go on after the shutdown began (30 s).
    pub drain_timeout: Duration,
    /// The largest blob or value that is taken (1 TiB: the store's own bound comes
    /// first).
    pub max_blob_bytes: u64,
    /// The memory for bodies that are held whole, of all requests together (128 MiB); half
    /// as much again is for decompressing.
    pub max_memory_bytes: usize,
    /// Answers that are compressed at once; further ones go as they are (32).
    pub max_compressions: usize,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_connections_per_address: 1024,
            header_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(300),
            max_header_bytes: 64 << 10,
            body_idle_timeout: Duration::from_secs(60),
            answer_idle_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
            max_blob_bytes: 1 << 40,
            max_memory_bytes: 128 << 20,
            max_compressions: 32,
        }
    }
}

impl HttpOptions {
    pub(super) fn port(&self) -> PortOptions {
        let mut port = PortOptions::default();
        port.max_connections = self.max_connections;
        port.max_connections_per_address = self.max_connections_per_address;
        port.write_idle_timeout = self.answer_idle_timeout;
        port.drain_timeout = self.drain_timeout;
        port
    }
}
