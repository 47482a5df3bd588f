//! Whose account it is.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use zako_core::access::{Consumer, Identity};

use super::limits::{LimitTable, Limits};

/// Who has an account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    Identity(String),
    /// All that call from there and show nothing of themselves.
    Network(IpAddr),
    /// Those on Unix sockets who show nothing of themselves.
    Local,
    /// Those for whom there was no place.
    Others,
}

impl Key {
    pub(super) fn of(caller: &Consumer<'_>) -> Self {
        let known = caller.identity.map(Identity::name);
        match (
            known.filter(|name| *name != Identity::ANONYMOUS),
            caller.address,
        ) {
            (Some(name), _) => Self::Identity(name.to_owned()),
            (None, Some(address)) => Self::Network(Consumer::network(address)),
            (None, None) => Self::Local,
        }
    }

    pub(super) fn limits<'a>(&self, table: &'a LimitTable) -> &'a Limits {
        match self {
            Self::Identity(name) => table.of(name),
            Self::Others if !table.default.is_none() => &table.default,
            Self::Network(_) | Self::Local | Self::Others => table.of(Identity::ANONYMOUS),
        }
    }

    /// Whether it has limits of its own.
    pub(super) fn is_named(&self, table: &LimitTable) -> bool {
        matches!(self, Self::Identity(name) if table.identities.contains_key(name))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(name) => write!(f, "identity:{name}"),
            Self::Network(network @ IpAddr::V4(_)) => write!(f, "address:{network}"),
            Self::Network(network) => write!(f, "network:{network}/64"),
            Self::Local => f.write_str("local"),
            Self::Others => f.write_str("others"),
        }
    }
}

impl FromStr for Key {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once(':') {
            Some(("identity", name)) => Ok(Self::Identity(name.to_owned())),
            Some(("address", address)) => address.parse().map(Self::Network).map_err(drop),
            Some(("network", network)) => {
                let address = network.strip_suffix("/64").ok_or(())?;
                address.parse().map(Self::Network).map_err(drop)
            }
            None if text == "local" => Ok(Self::Local),
            None if text == "others" => Ok(Self::Others),
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use zako_core::access::{Rights, Role};

    use super::*;

    #[test]
    fn keys_round_trip() {
        for text in [
            "identity:a:b",
            "address:10.0.0.1",
            "network:2001:db8::/64",
            "local",
            "others",
        ] {
            assert_eq!(text.parse::<Key>().unwrap().to_string(), text);
        }
        assert!("planet:earth".parse::<Key>().is_err());
    }

    #[test]
    fn who_shows_nothing_is_an_address() {
        let address = Some("10.0.0.1".parse().unwrap());
        let named = |name: &str| Identity::new(name, Rights::everywhere(Role::Read));
        let key = |identity: Option<&Identity>| Key::of(&Consumer::new(identity, address));
        assert_eq!(key(Some(&named("ci"))).to_string(), "identity:ci");
        assert_eq!(
            key(Some(&named("anonymous"))).to_string(),
            "address:10.0.0.1"
        );
        assert_eq!(key(None).to_string(), "address:10.0.0.1");
        assert_eq!(Key::of(&Consumer::new(None, None)), Key::Local);
    }
}
