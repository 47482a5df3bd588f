//! The RDMA ports of this machine, as far as this build can use them.

use zako_rdma::devices::{Report, Wish};

/// The devices, the limit on pinned memory, and what would be used.
#[cfg(feature = "rdma")]
pub(crate) fn report(wish: &Wish) -> Report {
    zako_rdma::verbs::report(wish)
}

/// The limit on pinned memory, and how to build what can use devices.
#[cfg(not(feature = "rdma"))]
pub(crate) fn report(_: &Wish) -> Report {
    Report {
        unavailable: Some(NOT_BUILT_IN.to_owned()),
        memory_limit: zako_rdma::memory_limit::MemoryLimit::current(),
        devices: Vec::new(),
        candidates: Vec::new(),
    }
}

#[cfg(not(feature = "rdma"))]
const NOT_BUILT_IN: &str = "RDMA is not built into this zako";
