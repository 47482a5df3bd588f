//! The configuration of the admin port.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use clap::Args;
use serde::{Deserialize, Deserializer};
use zako_core::server::ListenAddr;

use super::layers::from_text;
use super::{Layers, PortChoice, Setting};
use crate::failure::Failure;

/// The keys of the admin port: flags of `zako serve`, and the table `[admin]` of `zako.toml`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct AdminKeys {
    /// Where operators find health, metrics and the status page: ADDR:PORT or unix:/PATH;
    /// auto (on 127.0.0.1, two ports after that of --listen; none beside port 0 or a Unix
    /// socket); or off [env: ZAKO_ADMIN] [default: auto]
    #[arg(long = "admin", id = "admin", value_name = "ADDR:PORT")]
    #[serde(deserialize_with = "from_text")]
    pub(crate) listen: Option<PortChoice>,

    /// A name that the admin port may be asked by, beside addresses and localhost; can be
    /// given several times [env: ZAKO_ADMIN_HOST] [default: none]
    #[arg(long = "admin-host", value_name = "NAME", help_heading = "Access")]
    pub(crate) host: Option<Vec<HostNames>>,
}

/// What is configured of the admin port.
#[derive(Clone, Debug)]
pub(crate) struct AdminConfig {
    pub(crate) listen: Setting<PortChoice>,
    pub(crate) host: Setting<HostNames>,
}

/// Names of hosts, with commas or spaces between them, or `none`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostNames(pub(crate) Vec<String>);

impl AdminConfig {
    /// The flags' names: a variable is named for its flag.
    pub(super) const KEYS: &[&str] = &["admin", "admin-host"];

    /// # Errors
    /// A variable's value can't be read.
    pub(crate) fn resolve(flags: AdminKeys, layers: &Layers<'_>) -> Result<Self, Failure> {
        let file = layers.file().admin().clone();
        Ok(Self {
            listen: layers.pick("admin", flags.listen, file.listen, PortChoice::Auto)?,
            host: layers.pick(
                "admin-host",
                HostNames::all(flags.host),
                HostNames::all(file.host),
                HostNames::default(),
            )?,
        })
    }

    /// Where the admin port is, beside a server that listens on `listen`: on this machine's
    /// own address, unless another one is named.
    pub(crate) fn address(&self, listen: &ListenAddr) -> Option<ListenAddr> {
        self.listen.value.address(listen, beside)
    }
}

fn beside(server: SocketAddr) -> Option<SocketAddr> {
    let port = server.port().checked_add(2)?;
    Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

impl HostNames {
    /// All of them in one.
    fn all(lists: Option<Vec<Self>>) -> Option<Self> {
        let lists = lists?.into_iter().flat_map(|list| list.0);
        Some(Self(lists.collect()))
    }
}

impl FromStr for HostNames {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "none" {
            return Ok(Self::default());
        }
        let is_name = |name: &str| {
            let of_name = |c: char| c.is_ascii_alphanumeric() || ['-', '.', '_'].contains(&c);
            name.len() <= 253 && name.chars().all(of_name)
        };
        text.split([',', ' '])
            .filter(|part| !part.is_empty())
            .map(|part| match is_name(part) {
                true => Ok(part.to_owned()),
                false => Err(format!(
                    "{part:?} is no name of a host: write it as cache.example.com, without a port"
                )),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl<'de> Deserialize<'de> for HostNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for HostNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("none"),
            names => f.write_str(&names.join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_on_loopback_two_ports_behind_the_servers() {
        let beside = |listen: &str| {
            let addr = PortChoice::Auto.address(&listen.parse().unwrap(), beside);
            addr.map(|addr| addr.to_string())
        };
        assert_eq!(beside("127.0.0.1:7420").unwrap(), "127.0.0.1:7422");
        assert_eq!(beside("0.0.0.0:7420").unwrap(), "127.0.0.1:7422");
        assert_eq!(beside("[::]:80").unwrap(), "127.0.0.1:82");
        assert_eq!(beside("127.0.0.1:65534"), None);
        assert_eq!(beside("127.0.0.1:0"), None);
        assert_eq!(beside("unix:/run/zako"), None);
    }

    #[test]
    fn names_of_hosts_are_lists() {
        let names: HostNames = "a.example, b_2.example".parse().unwrap();
        assert_eq!(names.0, ["a.example", "b_2.example"]);
        assert_eq!(names.to_string().parse(), Ok(names));
        assert_eq!("none".parse(), Ok(HostNames::default()));
        for bad in ["a:80", "http://a", "*.a"] {
            assert!(bad.parse::<HostNames>().is_err(), "{bad}");
        }
    }
}
