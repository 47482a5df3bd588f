//! What a server allows, and its bounds.

use std::time::Duration;

use super::admission::Caps;
use crate::negotiate::{GateLimits, Peer};

/// How a server behaves. Sizes are in bytes.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Whether calls that move or delete blobs need a token (default: yes).
    pub require_token: bool,
    /// How long a token can be redeemed (30 s).
    pub token_ttl: Duration,
    /// How long a session without a call lives (5 min).
    pub session_idle: Duration,
    /// Tokens outstanding at once (10,000).
    pub max_tokens: usize,
    /// Sessions alive at once (4,096).
    pub max_sessions: usize,
    /// Connections at once; further ones are closed at once (4,096).
    pub max_connections: usize,
    /// Connections at once of one address, or of one network of 64 bits of IPv6; further
    /// ones are closed at once (1,024). Those of Unix sockets are counted together with
    /// all others only.
    pub max_connections_per_address: usize,
    /// How long a connection may be there without a call before it is ended; answering
    /// the server's pings doesn't count (10 min).
    pub connection_idle_timeout: Duration,
    /// Calls that run at once on a connection (256).
    pub max_streams_per_connection: u32,
    /// How long a call's sender may send nothing that counts before the call is
    /// ended and an upload is parked (60 s).
    pub upload_idle_timeout: Duration,
    /// How long a part of an answer, up to 256 KiB or a download's message, may stay
    /// unread before the call is dropped, and a connection take nothing (60 s).
    pub download_idle_timeout: Duration,
    /// How long calls that run may go on after the shutdown began (30 s).
    pub drain_timeout: Duration,
    /// How long a new connection may take to begin with HTTP/2 (10 s).
    pub handshake_timeout: Duration,
    /// How long a connection may be without a call before a shutdown closes it (5 s): its
    /// client couldn't know that it came too late.
    pub first_call_timeout: Duration,
    /// Who may verify the store and collect its garbage. With an authorizer, who has the role of
    /// an admin may, unless it is nobody.
    pub maintenance: MaintenanceAccess,
    /// The longest HTTP/2 frame that is taken (256 KiB).
    pub max_frame_bytes: u32,
    /// What a peer may send on a stream before it is read (1 MiB).
    pub stream_window_bytes: u32,
    /// What the peers of all connections together may send before it is read (1 GiB).
    /// When that is nearly shared out, new connections get less than
    /// [`connection_window_bytes`](Self::connection_window_bytes), but 64 KiB at least,
    /// as HTTP/2 has it.
    pub max_receive_bytes: u64,
    /// What calls hold of what they have read, in all: parts of small blobs and of messages of
    /// which the rest has not come, and those that are being stored (256 MiB). When half of it
    /// is taken, who holds some and brings nothing for 2 s is refused; no call gets more than
    /// half of what it leaves.
    pub max_held_bytes: u64,
    /// What a peer may send on a connection before it is read (4 MiB).
    pub connection_window_bytes: u32,
    /// The headers of a call (16 KiB).
    pub max_header_bytes: u32,
    /// The longest message of an upload (16 MiB). It costs no memory.
    pub max_message_bytes: u32,
    /// The longest request of a call that carries no bulk (1 MiB).
    pub max_request_bytes: usize,
    /// The payload of a download's messages (256 KiB).
    pub download_message_bytes: usize,
    /// How often a connection is checked for a peer that is gone (20 s).
    pub keepalive_interval: Duration,
    /// How long the peer may take to answer that check (20 s).
    pub keepalive_timeout: Duration,
}

/// Who may verify the store and collect its garbage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum MaintenanceAccess {
    /// Callers on this machine: the loopback address and Unix sockets.
    #[default]
    Loopback,
    /// Everyone who can connect.
    Anyone,
    /// No one.
    Nobody,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            require_token: true,
            token_ttl: Duration::from_secs(30),
            session_idle: Duration::from_secs(5 * 60),
            max_tokens: 10_000,
            max_sessions: 4096,
            max_connections: 4096,
            max_connections_per_address: 1024,
            connection_idle_timeout: Duration::from_secs(10 * 60),
            max_streams_per_connection: 256,
            upload_idle_timeout: Duration::from_secs(60),
            download_idle_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(10),
            first_call_timeout: Duration::from_secs(5),
            maintenance: MaintenanceAccess::default(),
            max_frame_bytes: 256 * 1024,
            stream_window_bytes: 1024 * 1024,
            max_receive_bytes: 1 << 30,
            max_held_bytes: 256 << 20,
            connection_window_bytes: 4 * 1024 * 1024,
            max_header_bytes: 16 * 1024,
            max_message_bytes: 16 * 1024 * 1024,
            max_request_bytes: 1024 * 1024,
            download_message_bytes: crate::transport::grpc::frame::DEFAULT_PAYLOAD,
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(20),
        }
    }
}

impl ServerOptions {
    pub(super) fn caps(&self) -> Caps {
        Caps {
            all: self.max_connections,
            per_address: self.max_connections_per_address,
        }
    }

    pub(super) fn gate_limits(&self) -> GateLimits {
        GateLimits {
            require_token: self.require_token,
            token_ttl: self.token_ttl,
            session_idle: self.session_idle,
            max_tokens: self.max_tokens,
            max_sessions: self.max_sessions,
            max_streams: self.max_streams_per_connection,
        }
    }
}

impl MaintenanceAccess {
    /// Whether this caller may.
    pub fn allows(self, peer: &Peer) -> bool {
        match self {
            Self::Loopback => peer.is_local(),
            Self::Anyone => true,
            Self::Nobody => false,
        }
    }
}
