//! Two devices, and the wire between them: needs `ZAKO_RDMA_PEER_DEVICE`, which
//! `scripts/soft-roce --two-devices` sets, and cuts the wire.

use std::process::Command;
use std::sync::Arc;

use zako_rdma::fabric::{Access, EndpointOptions, Fabric, FailureKind};
use zako_rdma::memory::PAGE;

use crate::Case;
use crate::endpoints::{End, kinds, pattern, until};

pub(crate) const CASES: &[Case] = &[("a wire that is cut", a_wire_that_is_cut)];

fn a_wire_that_is_cut(fabric: &Arc<dyn Fabric>) {
    let wish = crate::wish("ZAKO_RDMA_PEER");
    let Some(device) = wish.device.clone() else {
        println!("       *** NOT TESTED: there is no ZAKO_RDMA_PEER_DEVICE ***");
        return;
    };
    let far = crate::fabric(&wish).unwrap();
    let mut one = End::new(fabric, Access::Read, 1 << 20);
    let mut other = End::new(&far, Access::Read, 1 << 20);
    one.endpoint.connect(&other.endpoint.address()).unwrap();
    other.endpoint.connect(&one.endpoint.address()).unwrap();
    let there = other.slot(&pattern(1 << 20, 1));
    let address = other.memory.address + there.offset();
    one.read(1, 1 << 20, address, other.memory.key);
    let ended = one.completions(1);
    assert_eq!(kinds(&ended), [Ok(1 << 20)]);
    assert!(ended[0].slot[..] == there[..], "across the wire");

    set_link(&device, "down");
    one.read(2, PAGE as u32, address, other.memory.key);
    one.read(3, PAGE as u32, address, other.memory.key);
    let (gone, flushed) = (Err(FailureKind::PeerGone), Err(FailureKind::Flushed));
    assert_eq!(kinds(&one.completions(2)), [gone, flushed]);
    let refused = far.endpoint(&EndpointOptions::default()).map(drop);
    assert_eq!(refused.unwrap_err().kind(), FailureKind::Unavailable);
    set_link(&device, "up");
    until("a port that is active again", || {
        far.endpoint(&EndpointOptions::default()).is_ok()
    });
}

/// Sets the network interface that a soft-RoCE device stands on.
fn set_link(device: &str, state: &str) {
    let parent = format!("/sys/class/infiniband/{device}/parent");
    let parent = std::fs::read_to_string(parent).unwrap();
    let set = Command::new("ip")
        .args(["link", "set", parent.trim(), state])
        .status();
    assert!(set.unwrap().success());
}
