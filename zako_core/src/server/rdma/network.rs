//! A part of the network, by its addresses.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// The addresses with one prefix, such as `10.20.0.0/16` or `fd00::/8`; an address alone
/// is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(IpNet);

/// A text that names no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network: write it as 10.20.0.0/16 or fd00::/8")]
pub struct ParseNetworkError(String);

impl Network {
    /// Whether the address is one of them. An IPv4 address that is written as an IPv6 one
    /// counts as itself.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }
}

impl FromStr for Network {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, ParseNetworkError> {
        let alone = || {
            text.parse::<IpAddr>()
                .map(|ip| IpNet::from(ip.to_canonical()))
        };
        match text.parse::<IpNet>().or_else(|_| alone()) {
            Ok(network) => Ok(Self(network.trunc())),
            Err(_) => Err(ParseNetworkError(text.to_owned())),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_its_addresses_only() {
        let has = |network: &str, ip: &str| {
            let network: Network = network.parse().unwrap();
            network.contains(ip.parse().unwrap())
        };
        assert!(has("10.20.0.0/16", "10.20.255.1"));
        assert!(has("10.20.3.4/16", "10.20.255.1"));
        assert!(!has("10.20.0.0/16", "10.21.0.1"));
        assert!(has("10.20.0.0/16", "::ffff:10.20.0.1"));
        assert!(has("127.0.0.1", "127.0.0.1"));
        assert!(!has("127.0.0.1", "127.0.0.2"));
        assert!(has("fd00::/8", "fd12::1"));
        assert!(!has("0.0.0.0/0", "fd12::1"));
        for text in ["", "10.0.0.0/33", "10.0.0/8", "host", "10.0.0.0/-1"] {
            let error = text.parse::<Network>().unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
