//! RDMA: the device, and the memory that may be pinned for it.

use zako_core::client::SessionOptions;
use zako_rdma::memory_limit::MemoryLimit;

use super::Check;
use crate::config::{ClientConfig, DeviceChoice, RdmaChoice, ServerConfig, TransportChoice};
use crate::fabric::{self, Unavailable};
use crate::quantity::bytes;

/// What is asked for by name must be there; what isn't asked for is no fault.
pub(super) fn checks(client: &ClientConfig, server: &ServerConfig) -> Vec<Check> {
    let trusted = &server.rdma_trust.value;
    let mut checks = Vec::new();
    match &server.rdma.value {
        RdmaChoice::Off => {}
        RdmaChoice::On(device) if device.is_explicit() && trusted.0.is_empty() => {
            checks.push(Check::broken(
                "rdma",
                format!("is {device}, and no network is trusted with it"),
                "Name one with --rdma-trust, whose help says what that means.",
            ));
        }
        RdmaChoice::On(device) if !trusted.0.is_empty() => {
            checks.push(check("rdma", device, device.is_explicit()));
        }
        RdmaChoice::On(_) => {}
    }
    let device = &client.rdma_device.value;
    let strict = client.transport.value == TransportChoice::Rdma;
    if checks.is_empty() || strict || device.is_explicit() {
        checks.push(check("rdma-device", device, strict));
    }
    checks.push(memory());
    checks
}

fn check(name: &'static str, device: &DeviceChoice, needed: bool) -> Check {
    match fabric::open(device, &SessionOptions::default()) {
        Ok(port) => Check::ok(name, port.fabric.name()),
        // No fault, unless it is a wish; the memory has a check of its own.
        Err(why) if !needed => Check::ok(name, why.to_string()),
        Err(why) => Check::broken(name, why.to_string(), why.advice().unwrap_or_default()),
    }
}

fn memory() -> Check {
    const NAME: &str = "locked memory";
    let limit = MemoryLimit::current();
    let found = match limit.limit {
        None => "unlimited".to_owned(),
        Some(most) if limit.exempt => {
            format!("at most {}, but not for this process", bytes(most))
        }
        Some(most) => format!("at most {}", bytes(most)),
    };
    match fabric::check_memory(&limit, &SessionOptions::default()) {
        Err(Unavailable::MemoryLimit { needed, .. }) => Check::ok(
            NAME,
            format!("{found}; an RDMA session pins {}", bytes(needed)),
        ),
        _ => Check::ok(NAME, found),
    }
}
