//! One accepted connection, as negotiation sees it.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::session::Session;
use super::token::TokenHash;
use crate::Hash;
use crate::access::{Authorizer, Credentials, Identity, Recognition};
use crate::cas::Result;

/// An accepted connection. All its calls share one, and with the last of them and
/// the connection itself its session ends.
#[derive(Debug)]
pub struct Peer {
    pub(super) id: u64,
    addr: PeerAddr,
    /// In DER, checked.
    certificate: Option<Arc<[u8]>>,
    /// The other end's address without its port: `10.0.0.7`, `unix`.
    host: String,
    pub(super) session: Mutex<Option<Session>>,
    /// The tokens that it was given lately, the oldest first.
    pub(super) tokens: Mutex<VecDeque<TokenHash>>,
    recognition: Recognition,
}

/// The two ends of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerAddr {
    /// TCP.
    Tcp {
        /// This side's address.
        local: SocketAddr,
        /// The other side's.
        remote: SocketAddr,
    },
    /// A Unix socket.
    Unix {
        /// The user that the peer's process runs as, where the system tells.
        user: Option<u32>,
    },
}

/// Who a peer is, where that is known beyond its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerIdentity {
    /// A user of this machine, by number.
    User(u32),
    /// An identity, by the hash of its name.
    Named(Hash),
}

impl Peer {
    /// A connection without a session.
    pub fn new(addr: PeerAddr) -> Arc<Self> {
        Self::with_certificate(addr, None)
    }

    /// A connection without a session, whose client showed this certificate (DER) in its
    /// TLS handshake and was checked for it.
    pub fn with_certificate(addr: PeerAddr, certificate: Option<Arc<[u8]>>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            host: match &addr {
                PeerAddr::Tcp { remote, .. } => remote.ip().to_canonical().to_string(),
                PeerAddr::Unix { .. } => "unix".to_owned(),
            },
            addr,
            certificate,
            session: Mutex::new(None),
            tokens: Mutex::default(),
            recognition: Recognition::default(),
        })
    }

    /// Its two ends.
    pub fn addr(&self) -> &PeerAddr {
        &self.addr
    }

    /// The other end's IP address; `None` on a Unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        match &self.addr {
            PeerAddr::Tcp { remote, .. } => Some(remote.ip()),
            PeerAddr::Unix { .. } => None,
        }
    }

    /// The other end's address without its port: `10.0.0.7`, `unix`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Who the peer is; `None` if only its address is known.
    pub fn identity(&self) -> Option<PeerIdentity> {
        match self.addr {
            PeerAddr::Unix { user } => user.map(PeerIdentity::User),
            PeerAddr::Tcp { .. } => None,
        }
    }

    /// What the connection shows of who the peer is.
    pub fn credentials(&self) -> Credentials<'_> {
        Credentials {
            certificate: self.certificate.as_deref(),
            user: match self.addr {
                PeerAddr::Unix { user } => user,
                PeerAddr::Tcp { .. } => None,
            },
            is_local: self.is_local(),
            ..Credentials::default()
        }
    }

    /// Who makes a call with this `authorization`.
    ///
    /// # Errors
    /// As for [`Authorizer::identify`].
    pub fn identify(
        &self,
        authorizer: &dyn Authorizer,
        authorization: Option<&[u8]>,
    ) -> Result<Identity> {
        let credentials = Credentials {
            authorization,
            ..self.credentials()
        };
        self.recognition.identify(authorizer, &credentials)
    }

    /// Whose tokens are those that a caller gets, if they are only its own.
    pub(super) fn holder(&self, caller: Option<&Identity>) -> Option<PeerIdentity> {
        match caller {
            Some(identity) if !identity.is_anonymous() => {
                Some(PeerIdentity::Named(identity.hash()))
            }
            _ => self.identity(),
        }
    }

    /// Whether the peer runs on this machine.
    pub fn is_local(&self) -> bool {
        match &self.addr {
            PeerAddr::Unix { .. } => true,
            PeerAddr::Tcp { remote, .. } => is_loopback(remote.ip()),
        }
    }
}

/// An IPv4 address may come as an IPv6 one on a socket for both.
fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_local() {
        let tcp = |remote: &str| {
            Peer::new(PeerAddr::Tcp {
                local: "127.0.0.1:1".parse().unwrap(),
                remote: remote.parse().unwrap(),
            })
            .is_local()
        };
        assert!(tcp("127.3.2.1:9") && tcp("[::1]:9") && tcp("[::ffff:127.0.0.1]:9"));
        assert!(!tcp("10.0.0.1:9") && !tcp("[fe80::1]:9") && !tcp("[::ffff:10.0.0.1]:9"));
        assert!(Peer::new(PeerAddr::Unix { user: None }).is_local());
    }
}
