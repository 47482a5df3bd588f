//! Where the HTTP cache listens.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use zako_core::server::ListenAddr;

/// Where the HTTP cache listens, if it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HttpChoice {
    /// Beside the server's own port.
    Auto,
    Off,
    At(ListenAddr),
}

impl HttpChoice {
    /// The address, for a server that listens on `listen`.
    pub(crate) fn address(&self, listen: &ListenAddr) -> Option<ListenAddr> {
        match (self, listen) {
            (Self::Off, _) => None,
            (Self::At(addr), _) => Some(addr.clone()),
            (Self::Auto, ListenAddr::Unix(_)) => None,
            // Who takes a free port has no use for one that is not free by chance.
            (Self::Auto, ListenAddr::Tcp(addr)) if addr.port() == 0 => None,
            (Self::Auto, ListenAddr::Tcp(addr)) => {
                let next = addr.port().checked_add(1)?;
                Some(ListenAddr::Tcp(SocketAddr::new(addr.ip(), next)))
            }
        }
    }
}

impl FromStr for HttpChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => text.parse().map(Self::At).map_err(|_| {
                format!(
                    "{text:?} is no place for the HTTP cache: write IP:PORT, unix:/PATH, auto \
                     or off"
                )
            }),
        }
    }
}

impl fmt::Display for HttpChoice {
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

    fn address(http: &str, listen: &str) -> Option<String> {
        let (http, listen): (HttpChoice, ListenAddr) =
            (http.parse().unwrap(), listen.parse().unwrap());
        assert_eq!(http.to_string().parse(), Ok(http.clone()));
        http.address(&listen).map(|addr| addr.to_string())
    }

    #[test]
    fn it_is_beside_the_servers_own_port_where_that_has_a_number() {
        let beside = |listen| address("auto", listen);
        assert_eq!(beside("127.0.0.1:7420").unwrap(), "127.0.0.1:7421");
        assert_eq!(beside("[::]:80").unwrap(), "[::]:81");
        assert_eq!(beside("127.0.0.1:65535"), None);
        assert_eq!(beside("127.0.0.1:0"), None);
        assert_eq!(beside("unix:/run/zako"), None);
        assert_eq!(address("off", "127.0.0.1:7420"), None);
        assert_eq!(address("[::1]:0", "unix:x").unwrap(), "[::1]:0");
        assert!("everywhere".parse::<HttpChoice>().is_err());
    }
}
