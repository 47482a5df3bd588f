//! By which names requests may call this host.
//!
//! A page of somebody else's can make a browser ask any address, but not change the name
//! that it asks by: a name that somebody points at this machine (DNS rebinding) is refused.

use std::net::IpAddr;

use http::uri::Authority;
use http::{Request, Version, header};

/// Why a request is refused for its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHost {
    /// There is none, or more than one, or it can't be read.
    Malformed,
    /// It is somebody else's name, or a name that nobody configured.
    Unknown,
}

/// Whether a request calls this host by an address, by `localhost` or by one of `names`.
pub(super) fn check<B>(request: &Request<B>, names: &[String]) -> Result<(), BadHost> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(
            Authority::try_from(host.as_bytes())
                .ok()
                // Not what a host header has.
                .filter(|host| !host.as_str().contains('@'))
                .ok_or(BadHost::Malformed)?,
        ),
        // Health checks of load balancers; every browser sends one.
        (None, _) if request.version() < Version::HTTP_11 => None,
        _ => return Err(BadHost::Malformed),
    };
    let target = request.uri().authority();
    let known = |authority: &Authority| is_known(authority.host(), names);
    if host.iter().chain(target).all(known) {
        Ok(())
    } else {
        Err(BadHost::Unknown)
    }
}

fn is_known(host: &str, names: &[String]) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    bare.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || names.iter().any(|name| name.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(version: Version, hosts: &[&str], target: &str) -> Result<(), BadHost> {
        let mut request = Request::builder().version(version).uri(target);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        check(&request.body(()).unwrap(), &["cache.example".to_owned()])
    }

    #[test]
    fn addresses_localhost_and_configured_names_are_known() {
        for host in [
            "127.0.0.1:7422",
            "10.0.0.7",
            "[::1]:7422",
            "[fe80::1]",
            "localhost:1",
            "LOCALHOST.",
            "Cache.Example:80",
        ] {
            assert_eq!(checked(Version::HTTP_11, &[host], "/"), Ok(()), "{host}");
        }
    }

    #[test]
    fn other_names_are_not() {
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "cache.example.evil",
            "xcache.example",
            "7f000001.rebind.example:7422",
        ] {
            let checked = checked(Version::HTTP_11, &[host], "/");
            assert_eq!(checked, Err(BadHost::Unknown), "{host}");
        }
        let absolute = checked(Version::HTTP_11, &["127.0.0.1"], "http://evil.example/");
        assert_eq!(absolute, Err(BadHost::Unknown));
    }

    #[test]
    fn there_is_exactly_one_but_in_http_1_0() {
        assert_eq!(checked(Version::HTTP_10, &[], "/"), Ok(()));
        for hosts in [
            &[][..],
            &["localhost", "evil.example"],
            &["localhost", "localhost"],
            &["a b"],
            &[""],
            &["x@localhost"],
        ] {
            let checked = checked(Version::HTTP_11, hosts, "/");
            assert_eq!(checked, Err(BadHost::Malformed), "{hosts:?}");
        }
    }
}
