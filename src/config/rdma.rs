//! What is configured of RDMA: devices, and who is trusted with it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use zako_core::server::Network;
use zako_rdma::devices::Wish;

use super::{Layers, Setting};
use crate::failure::Failure;

/// A device of this machine: `DEVICE[:PORT[:GID_INDEX]]`, or `auto` for the best one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeviceChoice(pub(crate) Wish);

/// Whether a server offers RDMA, and on what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RdmaChoice {
    Off,
    On(DeviceChoice),
}

/// Who is offered RDMA: networks with commas or spaces between them, or `none`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TrustedNetworks(pub(crate) Vec<Network>);

impl Layers<'_> {
    /// What a server goes by.
    ///
    /// # Errors
    /// The variable has a value that can't be read.
    pub(crate) fn rdma(&self, flag: Option<RdmaChoice>) -> Result<Setting<RdmaChoice>, Failure> {
        let file = self.file().server().rdma.clone();
        self.pick("rdma", flag, file, RdmaChoice::On(DeviceChoice::default()))
    }
}

impl DeviceChoice {
    /// Whether a device is named.
    pub(crate) fn is_explicit(&self) -> bool {
        self.0.device.is_some()
    }
}

impl TrustedNetworks {
    /// All of them in one.
    pub(super) fn all(lists: Option<Vec<Self>>) -> Option<Self> {
        let lists = lists?.into_iter().flat_map(|list| list.0);
        Some(Self(lists.collect()))
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::default());
        }
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let port = parts.next().map(str::parse::<u8>).transpose();
        let gid_index = parts.next().map(str::parse::<u8>).transpose();
        let is_name = !name.is_empty() && !name.contains(['/', ' ', ',']);
        match (port, gid_index, parts.next()) {
            (Ok(port), Ok(gid_index), None) if is_name && port != Some(0) => Ok(Self(Wish {
                device: Some(name.to_owned()),
                port,
                gid_index: gid_index.map(u32::from),
            })),
            _ => Err(format!(
                "{text:?} is no RDMA device: write it as mlx5_0, mlx5_0:1 (its port, from 1) \
                 or mlx5_0:1:3 (its GID, up to 255), or auto"
            )),
        }
    }
}

impl FromStr for RdmaChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            _ => text
                .parse()
                .map(Self::On)
                .map_err(|error| format!("{error}, or off")),
        }
    }
}

impl FromStr for TrustedNetworks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "none" {
            return Ok(Self::default());
        }
        text.split([',', ' '])
            .filter(|part| !part.is_empty())
            .map(|part| part.parse::<Network>().map_err(|error| error.to_string()))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl<'de> Deserialize<'de> for TrustedNetworks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.device.as_deref().unwrap_or("auto"))?;
        if let Some(port) = self.0.port {
            write!(f, ":{port}")?;
        }
        match self.0.gid_index {
            Some(index) => write!(f, ":{index}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for RdmaChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::On(device) => device.fmt(f),
        }
    }
}

impl fmt::Display for TrustedNetworks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, rest)) = self.0.split_first() else {
            return f.write_str("none");
        };
        first.fmt(f)?;
        rest.iter().try_for_each(|network| write!(f, ", {network}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        for text in ["auto", "off", "mlx5_0", "mlx5_0:1", "rxe0:2:255"] {
            assert_eq!(text.parse::<RdmaChoice>().unwrap().to_string(), text);
        }
        let RdmaChoice::On(device) = "rxe0:2:7".parse().unwrap() else {
            panic!("rxe0:2:7 is a device");
        };
        assert!(device.is_explicit());
        assert_eq!((device.0.port, device.0.gid_index), (Some(2), Some(7)));
        assert!(!"auto".parse::<DeviceChoice>().unwrap().is_explicit());
        for bad in [
            "", ":1", "a:", "a:0", "a:256", "a:1:256", "a:1:1:1", "a b", "../a",
        ] {
            let error = bad.parse::<RdmaChoice>().unwrap_err();
            assert!(
                error.contains(&format!("{bad:?} is no RDMA device")),
                "{error}"
            );
        }
    }

    #[test]
    fn networks_come_in_lists() {
        let list: TrustedNetworks = "10.20.0.0/16, fd00::/8 192.0.2.1".parse().unwrap();
        assert_eq!(list.to_string(), "10.20.0.0/16, fd00::/8, 192.0.2.1/32");
        assert_eq!(list.to_string().parse(), Ok(list));
        let none: TrustedNetworks = "none".parse().unwrap();
        assert_eq!(none.to_string(), "none");
        let error = "10.0.0.0/8,lan".parse::<TrustedNetworks>().unwrap_err();
        assert!(error.contains("\"lan\" is no network"), "{error}");
    }
}
