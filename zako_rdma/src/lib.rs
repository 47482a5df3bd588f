//! RDMA for Zako.
//!
//! [`fabric`] is what a session needs of a network card: endpoints (queue pairs) that
//! post work and tell when it is done. [`memory`] is the memory that a card may touch,
//! in slots that have one owner each.

pub mod fabric;
pub mod memory;
