//! Where a port is that stands beside the server's own.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use zako_core::server::ListenAddr;

/// Where a port is, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PortChoice {
    /// Beside the server's own.
    Auto,
    Off,
    At(ListenAddr),
}

impl PortChoice {
    /// The address, for a server that listens on `listen`; `beside` has the one beside an
    /// address with a number.
    pub(super) fn address(
        &self,
        listen: &ListenAddr,
        beside: impl FnOnce(SocketAddr) -> Option<SocketAddr>,
    ) -> Option<ListenAddr> {
        match (self, listen) {
            (Self::Off, _) => None,
            (Self::At(addr), _) => Some(addr.clone()),
            (Self::Auto, ListenAddr::Unix(_)) => None,
            // Who takes a free port has no use for one that is not free by chance.
            (Self::Auto, ListenAddr::Tcp(addr)) if addr.port() == 0 => None,
            (Self::Auto, ListenAddr::Tcp(addr)) => beside(*addr).map(ListenAddr::Tcp),
        }
    }
}

impl FromStr for PortChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => text.parse().map(Self::At).map_err(|_| {
                format!("{text:?} is no place to listen: write IP:PORT, unix:/PATH, auto or off")
            }),
        }
    }
}

impl fmt::Display for PortChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("off"),
            Self::At(addr) => addr.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_beside_a_port_with_a_number() {
        let address = |choice: &str, listen: &str| {
            let (choice, listen): (PortChoice, ListenAddr) =
                (choice.parse().unwrap(), listen.parse().unwrap());
            assert_eq!(choice.to_string().parse(), Ok(choice.clone()));
            let beside = |addr: SocketAddr| {
                let port = addr.port().checked_add(1)?;
                Some(SocketAddr::new(addr.ip(), port))
            };
            let addr = choice.address(&listen, beside);
            addr.map(|addr| addr.to_string())
        };
        assert_eq!(address("auto", "[::]:80").unwrap(), "[::]:81");
        assert_eq!(address("auto", "127.0.0.1:65535"), None);
        assert_eq!(address("auto", "127.0.0.1:0"), None);
        assert_eq!(address("auto", "unix:/run/zako"), None);
        assert_eq!(address("off", "127.0.0.1:7420"), None);
        assert_eq!(address("[::1]:0", "unix:x").unwrap(), "[::1]:0");
        assert_eq!(address("unix:y", "127.0.0.1:1").unwrap(), "unix:y");
        assert!("everywhere".parse::<PortChoice>().is_err());
    }
}
