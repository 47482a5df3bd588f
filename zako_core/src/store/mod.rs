//! The stores: on local disk, in memory, and one in front of another.

pub mod local;

pub use local::{Clock, Durability, LocalStore, StoreOptions, SystemClock, VerifyOnRead};
