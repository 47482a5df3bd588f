//! The stores: on local disk, in memory, and one in front of another.

pub mod local;
mod memory;
mod read_through;
mod upload_name;

pub use local::{Clock, Durability, LocalStore, StoreOptions, SystemClock, VerifyOnRead};
pub use memory::MemoryStore;
pub use read_through::ReadThrough;
