//! The devices that the environment names.

use std::sync::Arc;

use zako_rdma::devices::Wish;
use zako_rdma::fabric::{Fabric, Result};
use zako_rdma::verbs::VerbsFabric;

/// The variables of the servers' device, and of the second one, by their beginning.
pub(crate) const SERVER: &str = "ZAKO_RDMA";
pub(crate) const PEER: &str = "ZAKO_RDMA_PEER";

pub(crate) fn wish(prefix: &str) -> Wish {
    let variable = |name| std::env::var(format!("{prefix}_{name}")).ok();
    Wish {
        device: variable("DEVICE"),
        port: None,
        gid_index: variable("GID_INDEX").map(|index| index.parse().unwrap()),
    }
}

pub(crate) fn open(prefix: &str) -> Result<Arc<dyn Fabric>> {
    Ok(VerbsFabric::open(&wish(prefix))?)
}

/// The clients' device: the second one, if there are two.
pub(crate) fn near() -> Arc<dyn Fabric> {
    let prefix = match wish(PEER).device {
        Some(_) => PEER,
        None => SERVER,
    };
    open(prefix).unwrap()
}
