//! How a client behaves.

use std::time::Duration;

use zako_rdma::session::SessionOptions;

use super::RetryPolicy;
use crate::access::Secret;

/// How a client behaves. Sizes are in bytes.
///
/// ```
/// use zako_core::client::ClientOptions;
///
/// let mut options = ClientOptions::default();
/// options.max_connections = 1;
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub struct ClientOptions {
    /// The longest that one attempt to connect may take.
    pub connect_timeout: Duration,
    /// The longest that a call with one short answer may take; a batch of blobs may
    /// take a second more for each 16 KiB of them. Calls that work
    /// through a whole store (verify, garbage collection) are only watched by
    /// [`keepalive`](Self::keepalive).
    pub call_timeout: Duration,
    /// The longest that a stream of bytes may stand still while this side waits
    /// for the other.
    pub idle_timeout: Duration,
    /// How often, and after which pauses, what failed in passing is tried again.
    pub retry: RetryPolicy,
    /// The most connections to the server (4). Another one is opened when the streams
    /// that the server recommends for one are all in use, and for each further blob of
    /// 8 MiB or more that moves at once: one connection is the work of one core.
    pub max_connections: usize,
    /// Whom to trust, and what to show, over `https://`.
    #[cfg(feature = "tls")]
    pub tls: crate::tls::TlsClientOptions,
    /// How bytes move.
    pub transport: TransportChoice,
    /// Hash every blob that is read whole and refuse it if it is another. Switched
    /// off, a damaged wire goes unnoticed.
    pub verify: bool,
    /// How often a connection with calls under way is probed; a peer that is silent
    /// for as long once more is given up.
    pub keepalive: Duration,
    /// What the server may send ahead on one stream (64 KiB to 16 MiB). A stream gets no
    /// more than this for each round trip. With glibc's allocator as it comes, 512 KiB
    /// are faster over short ways: it gives memory back and takes it again for more.
    pub stream_window: u32,
    /// What it may send ahead on one connection. Bounds the streams on a
    /// connection too, so that a blob that is read slowly can't hold up others.
    pub connection_window: u32,
    /// The longest HTTP/2 frame accepted (16 KiB to 1 MiB).
    pub frame_bytes: u32,
    /// The payload of one message of an upload (at most 1 MiB).
    pub message_bytes: usize,
    /// The most that the blobs of one batch add up to (the protocol's limit: 4 MiB).
    pub batch_bytes: u64,
    /// The largest blob that goes into a batch; larger ones have streams of their
    /// own. [`Cas::fetch`](crate::cas::Cas::fetch) reads up to so much at once.
    pub small_blob_bytes: u64,
    /// The smallest blob, or part of one, that moves over RDMA where that is to be had
    /// (64 KiB); the setting up of a transfer outweighs what smaller ones save.
    pub rdma_from_bytes: u64,
    /// For how long RDMA is not tried after it failed (1 s); twice as long after each
    /// further failure, up to a minute.
    pub rdma_hold_off: Duration,
    /// What shows the server who this is; sent with each call. Never over a connection
    /// that others can read, unless that is allowed.
    pub token: Option<Secret>,
    /// Whether the token may be sent as it is over networks.
    pub allow_plaintext_token: bool,
    /// The namespace in which calls are made; the empty one is that of those who name
    /// none.
    pub namespace: String,
    /// How the session over RDMA behaves. Each slot is memory that is pinned while it is
    /// open: 24 MiB with the defaults. It is closed after a minute without use.
    pub rdma: SessionOptions,
}

/// How bytes move between client and server.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TransportChoice {
    /// The fastest road that both ends have.
    #[default]
    Auto,
    /// gRPC.
    Grpc,
    /// RDMA for all that is large enough for it
    /// ([`ClientOptions::rdma_from_bytes`]), else gRPC. Where RDMA can't be had or fails, so
    /// does the transfer.
    Rdma,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            retry: RetryPolicy::default(),
            max_connections: 4,
            #[cfg(feature = "tls")]
            tls: crate::tls::TlsClientOptions::default(),
            transport: TransportChoice::Auto,
            verify: true,
            keepalive: Duration::from_secs(20),
            stream_window: 1 << 20,
            connection_window: 16 << 20,
            frame_bytes: 256 << 10,
            // With its prefix in one frame of the usual 256 KiB.
            message_bytes: 255 << 10,
            // More in a call is hardly faster, and both ends hold it.
            batch_bytes: 2 << 20,
            small_blob_bytes: 256 << 10,
            rdma_from_bytes: 64 << 10,
            rdma_hold_off: Duration::from_secs(1),
            token: None,
            allow_plaintext_token: false,
            namespace: String::new(),
            rdma: SessionOptions {
                idle_timeout: Some(Duration::from_secs(60)),
                ..SessionOptions::default()
            },
        }
    }
}

impl ClientOptions {
    /// These options, with what is out of bounds brought into them.
    pub(super) fn bounded(mut self) -> Self {
        self.max_connections = self.max_connections.max(1);
        self.stream_window = self.stream_window.clamp(64 << 10, 16 << 20);
        self.connection_window = self
            .connection_window
            .clamp(2 * self.stream_window, (1 << 31) - 1);
        self.frame_bytes = self.frame_bytes.clamp(16 << 10, 1 << 20);
        self.message_bytes = self.message_bytes.clamp(1 << 10, 1 << 20);
        self.batch_bytes = self.batch_bytes.clamp(1 << 10, 4 << 20);
        let with_digest = self.batch_bytes - super::batch::ENTRY_OVERHEAD;
        self.small_blob_bytes = self.small_blob_bytes.min(with_digest);
        // There is nothing to pull of the empty blob.
        self.rdma_from_bytes = self.rdma_from_bytes.max(1);
        self
    }

    /// The most streams on one connection: one window is left for answers to
    /// other calls, which would starve behind blobs that nobody reads.
    pub(super) fn streams_per_connection(&self) -> usize {
        (self.connection_window / self.stream_window - 1) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_a_stream() {
        let mut options = ClientOptions::default();
        assert_eq!(options.clone().bounded(), options);
        assert_eq!(options.streams_per_connection(), 15);
        options.stream_window = u32::MAX;
        options.connection_window = 0;
        options.max_connections = 0;
        let options = options.bounded();
        assert_eq!(options.streams_per_connection(), 1);
        assert_eq!(options.max_connections, 1);
    }
}
