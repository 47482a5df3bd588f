//! Where a server is.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::cas::{CasError, ErrorKind};

/// The port on which a server listens when nothing else is said.
pub const DEFAULT_PORT: u16 = 7420;

/// The longest part of a bad text that an error shows, in characters.
const SHOWN: usize = 120;

/// Where a server is: `http://HOST:PORT`, `https://HOST:PORT` for TLS, `HOST:PORT`, `HOST`
/// (port [`DEFAULT_PORT`]), `[IPv6]:PORT`, or `unix:/path/to.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerUrl(Place);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Tcp { host: String, port: u16, tls: bool },
    Unix(PathBuf),
}

impl ServerUrl {
    /// A server on a Unix socket.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self(Place::Unix(path.into()))
    }

    /// Whether the connection is encrypted, and the server shows who it is.
    pub fn is_tls(&self) -> bool {
        matches!(self.0, Place::Tcp { tls: true, .. })
    }

    /// The same, but encrypted or not.
    pub(super) fn with_tls(mut self, encrypted: bool) -> Self {
        if let Place::Tcp { tls, .. } = &mut self.0 {
            *tls = encrypted;
        }
        self
    }

    /// The path of the socket, if it is a Unix socket.
    pub fn socket_path(&self) -> Option<&Path> {
        match &self.0 {
            Place::Unix(path) => Some(path),
            Place::Tcp { .. } => None,
        }
    }

    pub(super) fn place(&self) -> &Place {
        &self.0
    }
}

impl Default for ServerUrl {
    /// The default port of this machine.
    fn default() -> Self {
        SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT)).into()
    }
}

impl From<SocketAddr> for ServerUrl {
    fn from(address: SocketAddr) -> Self {
        Self(Place::Tcp {
            host: address.ip().to_string(),
            port: address.port(),
            tls: false,
        })
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Tcp { host, port, tls } => {
                let scheme = if *tls { "https" } else { "http" };
                match host.contains(':') {
                    true => write!(f, "{scheme}://[{host}]:{port}"),
                    false => write!(f, "{scheme}://{host}:{port}"),
                }
            }
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for ServerUrl {
    type Err = CasError;

    fn from_str(text: &str) -> Result<Self, CasError> {
        let bad = |why: &str| Err(refusal(text, why));
        if text.is_empty() {
            return bad("it is empty");
        }
        if let Some(c) = text.chars().find(|c| c.is_whitespace() || c.is_control()) {
            return bad(&format!("it has the character {c:?}"));
        }
        if let Some(path) = text.strip_prefix("unix:") {
            let path = match path.strip_prefix("//") {
                Some(rest) if rest.starts_with('/') => rest,
                Some(_) => return bad("unix:// takes no host: write unix:/path/to.sock"),
                None => path,
            };
            return match path {
                "" => bad("unix: needs the path of a socket"),
                _ => Ok(Self::unix(path)),
            };
        }
        let (authority, tls) = match text.split_once("://") {
            None => (text, false),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (rest, false),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (rest, true),
            Some((scheme, _)) => {
                return bad(&format!(
                    "the scheme {scheme:?} is none of http, https, unix"
                ));
            }
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if let Some(c) = authority.chars().find(|c| "/?#@".contains(*c)) {
            return bad(&format!("it ends with the port, {c:?} has no place in it"));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let Some((host, port)) = rest.split_once(']') else {
                    return bad("the ] behind the IPv6 address is missing");
                };
                if !matches!(host.parse(), Ok(IpAddr::V6(_))) {
                    return bad(&format!("{host:?} is not an IPv6 address"));
                }
                match port.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if port.is_empty() => (host, None),
                    None => return bad("only :PORT may follow the ]"),
                }
            }
            None => match authority.split_once(':') {
                Some((_, port)) if port.contains(':') => {
                    return bad("an IPv6 address stands in brackets: [::1]:7420");
                }
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        if host.is_empty() {
            return bad("the host is missing");
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => match port.parse() {
                Ok(0) => return bad("the port 0 can't be connected to"),
                Ok(number) if port.bytes().all(|c| c.is_ascii_digit()) => number,
                _ => return bad(&format!("{port:?} is not a port (1 to 65535)")),
            },
        };
        Ok(Self(Place::Tcp {
            host: host.to_owned(),
            port,
            tls,
        }))
    }
}

fn refusal(text: &str, why: &str) -> CasError {
    let shown: String = text.chars().take(SHOWN).collect();
    let why: String = why.chars().take(2 * SHOWN).collect();
    let text = format!("{shown:?} is no address of a server: {why}");
    CasError::new(ErrorKind::InvalidArgument, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        text.parse::<ServerUrl>().unwrap().to_string()
    }

    #[test]
    fn all_forms_parse_and_print_canonically() {
        for (text, canonical) in [
            ("http://localhost:80", "http://localhost:80"),
            ("https://localhost:80", "https://localhost:80"),
            ("HTTPS://[::1]/", "https://[::1]:7420"),
            ("HTTP://localhost:80/", "http://localhost:80"),
            ("localhost", "http://localhost:7420"),
            ("10.0.0.1:9", "http://10.0.0.1:9"),
            ("[::1]", "http://[::1]:7420"),
            ("http://[::1]:65535", "http://[::1]:65535"),
            ("unix:/run/zako.sock", "unix:/run/zako.sock"),
            ("unix:///run/zako.sock", "unix:/run/zako.sock"),
            ("unix:zako.sock", "unix:zako.sock"),
        ] {
            assert_eq!(shown(text), canonical);
            assert_eq!(shown(canonical), canonical);
        }
        assert_eq!(ServerUrl::default().to_string(), "http://127.0.0.1:7420");
        let six = ServerUrl::from(SocketAddr::from(([0u16; 8], 7)));
        assert_eq!(six.to_string(), "http://[::]:7");
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (text, part) in [
            ("", "empty"),
            ("a b:1", "' '"),
            ("http://", "host is missing"),
            (":7420", "host is missing"),
            ("host:", "\"\" is not a port"),
            ("host:0", "port 0"),
            ("host:+7", "\"+7\" is not a port"),
            ("host:65536", "\"65536\" is not a port"),
            ("http://host:1/path", "'/'"),
            ("user@host:1", "'@'"),
            ("::1", "brackets"),
            ("[::1", "]"),
            ("[::1]7", ":PORT"),
            ("[host]:7", "not an IPv6"),
            ("ftp://host", "\"ftp\""),
            ("unix:", "path"),
            ("unix://host/path", "no host"),
        ] {
            let error = text.parse::<ServerUrl>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
        let long = format!("http://{}:x", "h".repeat(100_000));
        let error = long.parse::<ServerUrl>().unwrap_err();
        assert!(error.to_string().len() < 1_000);
    }
}
