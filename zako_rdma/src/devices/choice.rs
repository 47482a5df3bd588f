//! Which address of a machine is used, and why the others aren't.

use std::fmt;

use serde::Serialize;

use super::{Device, Gid, GidKind, LinkLayer, Port, PortState};

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::devices::samples::{device, gid, roce};

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
}
