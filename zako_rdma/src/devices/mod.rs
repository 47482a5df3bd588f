//! The RDMA devices of a machine, and which of their addresses is used and why.
//!
//! Nothing here needs a card or libibverbs: with feature `verbs`, the module of that
//! name fills these types.

mod choice;

use std::fmt;
use std::net::Ipv6Addr;

use serde::Serialize;

pub use choice::{Candidate, Wish, choose};

use crate::memory_limit::{HOW_TO_RAISE, MemoryLimit};

/// What there is, and what of it would be used.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Why there is no RDMA at all, if there is none.
    pub unavailable: Option<String>,
    /// What the process may pin.
    pub memory_limit: MemoryLimit,
    /// The devices.
    pub devices: Vec<Device>,
    /// Every address (or port, or device without one) with the verdict on it.
    pub candidates: Vec<Candidate>,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Such as `mlx5_0`.
    pub name: String,
    /// iWARP, whose connections only rdma_cm can make.
    pub iwarp: bool,
    /// Why nothing could be found out, if that is so.
    pub problem: Option<String>,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// A port of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Port {
    /// From 1.
    pub number: u8,
    /// Whether it can be used.
    pub state: PortState,
    /// What it is plugged into.
    pub link_layer: LinkLayer,
    /// Bytes that a packet may carry now.
    pub mtu: u16,
    /// Bytes that a packet could carry.
    pub max_mtu: u16,
    /// Its local identifier; 0 for Ethernet.
    pub lid: u16,
    /// Its addresses. Their indices may have holes.
    pub gids: Vec<Gid>,
}

/// The state of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PortState {
    /// Not plugged in, or the interface is down.
    Down,
    /// Waits for a subnet manager.
    Initializing,
    /// Has been configured, and is not active yet.
    Armed,
    /// Works.
    Active,
    /// Active, and lost its link for a moment.
    Deferred,
    /// A number that has no name.
    Unknown,
}

/// What a port is plugged into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkLayer {
    /// InfiniBand.
    #[serde(rename = "infiniband")]
    InfiniBand,
    /// Ethernet: RoCE or iWARP.
    Ethernet,
}

/// An address of a port: its global identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Gid {
    /// Where it is in the port's table.
    pub index: u32,
    /// Its value.
    pub value: Ipv6Addr,
    /// Its kind.
    pub kind: GidKind,
}

/// What carries the packets of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GidKind {
    /// InfiniBand.
    #[serde(rename = "infiniband")]
    InfiniBand,
    /// Ethernet frames of their own kind; can't be routed.
    RoceV1,
    /// UDP.
    RoceV2,
    /// A number that has no name.
    Unknown,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(why) = &self.unavailable {
            writeln!(f, "RDMA is unavailable: {why}")?;
        }
        for device in &self.devices {
            writeln!(f, "{}", device.name)?;
            for port in &device.ports {
                writeln!(
                    f,
                    "  port {}: {}, {}, MTU {} (up to {}), LID {}",
                    port.number, port.state, port.link_layer, port.mtu, port.max_mtu, port.lid
                )?;
            }
            for candidate in &self.candidates {
                if candidate.device == device.name {
                    writeln!(f, "  {candidate}")?;
                }
            }
        }
        writeln!(f, "memory that may be pinned: {}", self.memory_limit)?;
        if self.memory_limit.room().is_some() {
            writeln!(f, "  {HOW_TO_RAISE}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GID {} {} ({})", self.index, self.value, self.kind)
    }
}

impl fmt::Display for GidKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InfiniBand => "InfiniBand",
            Self::RoceV1 => "RoCE v1",
            Self::RoceV2 => "RoCE v2",
            Self::Unknown => "of an unknown kind",
        })
    }
}

impl fmt::Display for LinkLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InfiniBand => "InfiniBand",
            Self::Ethernet => "Ethernet",
        })
    }
}

impl fmt::Display for PortState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Down => "down",
            Self::Initializing => "initializing",
            Self::Armed => "armed",
            Self::Active => "active",
            Self::Deferred => "active deferred",
            Self::Unknown => "in an unknown state",
        })
    }
}

/// Devices to test with.
#[cfg(test)]
mod samples {
    #![allow(clippy::unwrap_used)]

    use super::*;

    pub(super) fn gid(index: u32, value: &str, kind: GidKind) -> Gid {
        Gid {
            index,
            value: value.parse().unwrap(),
            kind,
        }
    }

    pub(super) fn device(
        name: &str,
        state: PortState,
        link_layer: LinkLayer,
        gids: Vec<Gid>,
    ) -> Device {
        Device {
            name: name.to_owned(),
            iwarp: false,
            problem: None,
            ports: vec![Port {
                number: 1,
                state,
                link_layer,
                mtu: 4096,
                max_mtu: 4096,
                lid: 0,
                gids,
            }],
        }
    }

    pub(super) fn roce() -> Vec<Gid> {
        vec![
            gid(0, "fe80::1", GidKind::RoceV1),
            gid(1, "fe80::1", GidKind::RoceV2),
            gid(4, "2001:db8::1", GidKind::RoceV2),
            gid(7, "::ffff:192.0.2.1", GidKind::RoceV1),
            gid(9, "::ffff:192.0.2.1", GidKind::RoceV2),
        ]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::samples::{device, gid, roce};
    use super::*;

    #[test]
    fn values_have_names_in_json() {
        let device = device(
            "ib0",
            PortState::Active,
            LinkLayer::InfiniBand,
            vec![
                gid(0, "fe80::2", GidKind::InfiniBand),
                gid(1, "::ffff:192.0.2.1", GidKind::RoceV2),
            ],
        );
        let json = serde_json::to_value(&device).unwrap();
        let port = &json["ports"][0];
        assert_eq!(
            (&port["state"], &port["link_layer"]),
            (&"active".into(), &"infiniband".into())
        );
        assert_eq!(port["gids"][0]["kind"], "infiniband");
        assert_eq!(port["gids"][1]["kind"], "roce_v2");
        assert_eq!(port["gids"][1]["value"], "::ffff:192.0.2.1");
    }

    #[test]
    fn the_report_names_what_is_used_and_why_the_rest_is_not() {
        let devices = vec![device(
            "eth0",
            PortState::Active,
            LinkLayer::Ethernet,
            roce(),
        )];
        let report = Report {
            unavailable: None,
            memory_limit: MemoryLimit {
                limit: Some(8 << 20),
                exempt: false,
                pinned: 0,
            },
            candidates: choose(&devices, &Wish::default()),
            devices,
        };
        let text = report.to_string();
        for part in [
            "port 1: active, Ethernet, MTU 4096",
            "GID 9 ::ffff:192.0.2.1 (RoCE v2): used: the first RoCE v2",
            "GID 0 fe80::1 (RoCE v1): not used: RoCE v1",
            "GID 4 2001:db8::1 (RoCE v2): not used: usable, but",
            "8192 KiB; 0 KiB pinned",
            "ulimit -l unlimited",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }
}
