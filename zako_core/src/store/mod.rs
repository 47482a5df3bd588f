//! The stores: on local disk, in memory, and one in front of another.

mod memory;

pub use memory::MemoryStore;
