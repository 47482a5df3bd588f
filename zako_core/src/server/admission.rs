//! Which connections a port takes in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::access::Consumer;
use crate::negotiate::PeerAddr;

/// Refusals are told of this often: a flood must not fill the log.
const TELL_PERIOD: Duration = Duration::from_secs(1);

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caps {
    /// In all.
    pub(super) all: usize,
    /// Of one address; of IPv6, of one network of 64 bits. Unix sockets have none.
    pub(super) per_address: usize,
}

/// The connections of a port, by where they come from.
#[derive(Debug, Default)]
pub(super) struct Admission(Arc<Mutex<Places>>);

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Mutex<Places>>,
    network: Option<IpAddr>,
}

#[derive(Debug, Default)]
struct Places {
    taken: usize,
    by_network: HashMap<IpAddr, usize>,
    /// Refused since that was told last.
    refused: u64,
    told: Option<Instant>,
}

impl Admission {
    /// A place for a connection from there, if there is one.
    pub(super) fn admit(&self, addr: &PeerAddr, caps: Caps) -> Option<Place> {
        let network = match addr {
            PeerAddr::Tcp { remote, .. } => Some(Consumer::network(remote.ip())),
            PeerAddr::Unix { .. } => None,
        };
        let mut places = self.0.lock();
        if places.taken >= caps.all {
            places.refuse(addr, "too many connections");
            return None;
        }
        if let Some(network) = network {
            let own = places.by_network.get(&network).copied().unwrap_or_default();
            if own >= caps.per_address {
                places.refuse(addr, "too many connections from one address");
                return None;
            }
            places.by_network.insert(network, own + 1);
        }
        places.taken += 1;
        drop(places);
        let places = Arc::clone(&self.0);
        Some(Place { places, network })
    }
}

impl Places {
    fn refuse(&mut self, addr: &PeerAddr, why: &str) {
        self.refused += 1;
        let now = Instant::now();
        if self.told.is_none_or(|told| now - told >= TELL_PERIOD) {
            tracing::warn!(peer = ?addr, refused = self.refused, "refused: {why}");
            (self.refused, self.told) = (0, Some(now));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.places.lock();
        places.taken -= 1;
        if let Some(network) = &self.network
            && let Some(own) = places.by_network.get_mut(network)
        {
            *own -= 1;
            if *own == 0 {
                places.by_network.remove(network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(remote: &str) -> PeerAddr {
        PeerAddr::Tcp {
            local: "127.0.0.1:1".parse().unwrap(),
            remote: remote.parse().unwrap(),
        }
    }

    #[test]
    fn places_are_counted_by_network_and_given_back() {
        let admission = Admission::default();
        let caps = Caps {
            all: 4,
            per_address: 2,
        };
        let admit = |remote: &str| admission.admit(&from(remote), caps);
        let first = admit("10.0.0.1:1").unwrap();
        let _mapped = admit("[::ffff:10.0.0.1]:2").unwrap();
        assert!(admit("10.0.0.1:3").is_none());
        drop(first);
        let _again = admit("10.0.0.1:4").unwrap();
        let _site = admit("[2001:db8::1]:1").unwrap();
        let other = admit("[2001:db8::2]:1").unwrap();
        assert!(admit("10.0.0.9:1").is_none(), "four are there");
        drop(other);
        assert!(admit("10.0.0.9:1").is_some());
        let unix = PeerAddr::Unix { user: None };
        assert!(admission.admit(&unix, caps).is_some());
        drop((_mapped, _again, _site));
        let places = admission.0.lock();
        assert_eq!((places.taken, places.by_network.len()), (0, 0));
    }
}
