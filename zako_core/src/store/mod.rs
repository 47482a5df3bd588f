//! The stores: on local disk, in memory, and one in front of another.

pub(crate) mod format;
pub(crate) mod keyed_hash;
pub mod local;
mod memory;
mod read_through;
pub(crate) mod slab;
mod upload_name;

pub use format::{Formats, FoundFormat};
pub use local::{Clock, Durability, LocalStore, StoreOptions, SystemClock, VerifyOnRead};
pub use memory::MemoryStore;
pub use read_through::ReadThrough;
