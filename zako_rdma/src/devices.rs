//! The RDMA devices of a machine, and which of their addresses is used and why.
//!
//! Nothing here needs a card or libibverbs: with feature `verbs`, the module of that
//! name fills these types.

use std::fmt;
use std::net::Ipv6Addr;

use serde::Serialize;

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
    InfiniBand,
    /// Ethernet frames of their own kind; can't be routed.
    RoceV1,
    /// UDP.
    RoceV2,
    /// A number that has no name.
    Unknown,
}

/// What to choose among; what is `None` is free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// A device by name.
    pub device: Option<String>,
    /// A port by number.
    pub port: Option<u8>,
    /// A GID by index.
    pub gid_index: Option<u32>,
}

/// Something that could be used, and the verdict on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// The device's name.
    pub device: String,
    /// The port's number, unless the verdict is on the device.
    pub port: Option<u8>,
    /// The address, unless the verdict is on the device or the port.
    pub gid: Option<Gid>,
    /// It is the one.
    pub used: bool,
    /// Why it is or isn't, for people.
    pub reason: String,
}

/// Judges every address; the one that is used comes with `used`, at most one.
pub fn choose(devices: &[Device], wish: &Wish) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    // The place of each usable one in `candidates`, by rank; the first of the best wins.
    let mut best: Option<(u8, usize)> = None;
    for device in devices {
        let unusable = |port: Option<u8>, gid: Option<Gid>, reason: String| Candidate {
            device: device.name.clone(),
            port,
            gid,
            used: false,
            reason,
        };
        if let Some(problem) = device_problem(device, wish) {
            candidates.push(unusable(None, None, problem));
            continue;
        }
        for port in &device.ports {
            if let Some(problem) = port_problem(port, wish) {
                candidates.push(unusable(Some(port.number), None, problem));
                continue;
            }
            for gid in &port.gids {
                let (rank, reason) = match gid_rank(gid, port.link_layer, wish) {
                    Ok((rank, reason)) => (Some(rank), reason),
                    Err(reason) => (None, reason),
                };
                if let Some(rank) = rank
                    && best.is_none_or(|(least, _)| rank < least)
                {
                    best = Some((rank, candidates.len()));
                }
                candidates.push(unusable(Some(port.number), Some(*gid), reason));
            }
        }
    }
    if let Some((_, place)) = best
        && let Some(candidate) = candidates.get_mut(place)
    {
        candidate.used = true;
    }
    let used = best.map(|(_, place)| place);
    for (place, candidate) in candidates.iter_mut().enumerate() {
        if used != Some(place) && candidate.reason.is_empty() {
            candidate.reason = "usable, but another one comes first".to_owned();
        } else if used == Some(place) {
            candidate.reason = match candidate.gid {
                Some(gid) => used_because(&gid, wish),
                None => continue,
            };
        }
    }
    candidates
}

fn device_problem(device: &Device, wish: &Wish) -> Option<String> {
    if wish
        .device
        .as_ref()
        .is_some_and(|name| *name != device.name)
    {
        return Some("another device is configured".to_owned());
    }
    if let Some(problem) = &device.problem {
        return Some(problem.clone());
    }
    if device.iwarp {
        return Some("iWARP: its connections can only be made by rdma_cm".to_owned());
    }
    device.ports.is_empty().then(|| "it has no port".to_owned())
}

fn port_problem(port: &Port, wish: &Wish) -> Option<String> {
    if wish.port.is_some_and(|number| number != port.number) {
        return Some("another port is configured".to_owned());
    }
    if port.state != PortState::Active {
        return Some(format!("the port is {}, not active", port.state));
    }
    port.gids
        .is_empty()
        .then(|| "it has no GID; for RoCE, give its interface an IP address".to_owned())
}

/// The rank of a usable address, lower is better, with an empty reason; or why it isn't.
fn gid_rank(gid: &Gid, link: LinkLayer, wish: &Wish) -> Result<(u8, String), String> {
    if gid.index > u32::from(u8::MAX) {
        return Err("its index is above 255, which no address can say".to_owned());
    }
    if let Some(index) = wish.gid_index {
        return if index == gid.index {
            Ok((0, String::new()))
        } else {
            Err("another GID is configured".to_owned())
        };
    }
    let ipv4 = gid.value.to_ipv4_mapped();
    if gid.value.is_loopback() || ipv4.is_some_and(|ip| ip.is_loopback()) {
        return Err("a loopback address, which no other machine can reach".to_owned());
    }
    let link_local = gid.value.is_unicast_link_local();
    match (link, gid.kind) {
        (LinkLayer::Ethernet, GidKind::RoceV2) if ipv4.is_some() => Ok((0, String::new())),
        (LinkLayer::Ethernet, GidKind::RoceV2) if !link_local => Ok((1, String::new())),
        (LinkLayer::InfiniBand, GidKind::InfiniBand) => Ok((2, String::new())),
        (LinkLayer::Ethernet, GidKind::RoceV2) => Ok((3, String::new())),
        (_, GidKind::RoceV1) => {
            Err("RoCE v1, which can't be routed; only used if it is configured".to_owned())
        }
        _ => Err("of a kind that doesn't go with the port".to_owned()),
    }
}

fn used_because(gid: &Gid, wish: &Wish) -> String {
    if wish.gid_index.is_some() {
        return "it is configured".to_owned();
    }
    match gid.kind {
        GidKind::RoceV2 if gid.value.to_ipv4_mapped().is_some() => {
            "the first RoCE v2 address with IPv4 on an active port"
        }
        GidKind::RoceV2 if gid.value.is_unicast_link_local() => {
            "link-local RoCE v2, as there is no better one: it reaches one network only"
        }
        GidKind::RoceV2 => "the first RoCE v2 address with global IPv6 on an active port",
        _ => "the first address of an active InfiniBand port",
    }
    .to_owned()
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

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.used { "used" } else { "not used" };
        match (self.port, &self.gid) {
            (Some(port), Some(gid)) => write!(f, "port {port} {gid}: ")?,
            (Some(port), None) => write!(f, "port {port}: ")?,
            _ => {}
        }
        write!(f, "{verdict}: {}", self.reason)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn gid(index: u32, value: &str, kind: GidKind) -> Gid {
        Gid {
            index,
            value: value.parse().unwrap(),
            kind,
        }
    }

    fn device(name: &str, state: PortState, link_layer: LinkLayer, gids: Vec<Gid>) -> Device {
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

    fn used(devices: &[Device], wish: &Wish) -> Option<(String, u32)> {
        let candidates = choose(devices, wish);
        assert!(candidates.iter().all(|one| !one.reason.is_empty()));
        let mut used = candidates.iter().filter(|one| one.used);
        let first = used
            .next()
            .map(|one| (one.device.clone(), one.gid.unwrap().index));
        assert!(used.next().is_none());
        first
    }

    fn roce() -> Vec<Gid> {
        vec![
            gid(0, "fe80::1", GidKind::RoceV1),
            gid(1, "fe80::1", GidKind::RoceV2),
            gid(4, "2001:db8::1", GidKind::RoceV2),
            gid(7, "::ffff:192.0.2.1", GidKind::RoceV1),
            gid(9, "::ffff:192.0.2.1", GidKind::RoceV2),
        ]
    }

    #[test]
    fn roce_v2_with_ipv4_comes_first() {
        let devices = [
            device(
                "ib0",
                PortState::Active,
                LinkLayer::InfiniBand,
                vec![gid(0, "fe80::2", GidKind::InfiniBand)],
            ),
            device("down0", PortState::Down, LinkLayer::Ethernet, roce()),
            device("eth0", PortState::Active, LinkLayer::Ethernet, roce()),
        ];
        assert_eq!(used(&devices, &Wish::default()), Some(("eth0".into(), 9)));
        assert_eq!(
            used(&devices[..2], &Wish::default()),
            Some(("ib0".into(), 0))
        );
        assert_eq!(used(&devices[1..2], &Wish::default()), None);
    }

    #[test]
    fn an_address_of_loopback_or_of_an_index_too_high_is_passed_over() {
        let gids = vec![
            gid(0, "::ffff:127.0.0.1", GidKind::RoceV2),
            gid(256, "::ffff:192.0.2.1", GidKind::RoceV2),
        ];
        let devices = [device("eth0", PortState::Active, LinkLayer::Ethernet, gids)];
        assert_eq!(used(&devices, &Wish::default()), None);
    }

    #[test]
    fn what_is_configured_is_used_or_nothing() {
        let devices = [
            device("a", PortState::Active, LinkLayer::Ethernet, roce()),
            device("b", PortState::Active, LinkLayer::Ethernet, roce()),
        ];
        let mut wish = Wish {
            device: Some("b".to_owned()),
            ..Wish::default()
        };
        assert_eq!(used(&devices, &wish), Some(("b".into(), 9)));
        wish.gid_index = Some(0);
        assert_eq!(
            used(&devices, &wish),
            Some(("b".into(), 0)),
            "RoCE v1, as configured"
        );
        wish.gid_index = Some(2);
        assert_eq!(used(&devices, &wish), None, "a hole");
        wish.gid_index = None;
        wish.port = Some(2);
        assert_eq!(used(&devices, &wish), None);
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
