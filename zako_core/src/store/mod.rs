//! The stores: on local disk, in memory, and one in front of another.

mod memory;
mod read_through;

pub use memory::MemoryStore;
pub use read_through::ReadThrough;
