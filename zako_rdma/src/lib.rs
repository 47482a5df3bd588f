//! RDMA for Zako.
//!
//! [`fabric`] is what a session needs of a network card: endpoints (queue pairs) that
//! post work and tell when it is done. [`memory`] is the memory that a card may touch,
//! in slots that have one owner each. [`session`] moves blobs between two ends over any
//! fabric. [`probe`] tries out whether RDMA works, and how fast. With feature `verbs`, `verbs` is the fabric of real cards, and [`devices`] says
//! which there are.

pub mod devices;
pub mod fabric;
pub mod memory;
pub mod memory_limit;
pub mod probe;
mod runs;
pub mod session;
#[cfg(feature = "soft-fabric")]
pub mod soft;
#[cfg(feature = "verbs")]
pub mod verbs;
