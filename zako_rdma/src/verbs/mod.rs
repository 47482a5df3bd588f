//! The fabric of real cards, over libibverbs.
//!
//! libibverbs is opened when it is first needed, so a program with this starts where it
//! is absent, and says so. What is dropped goes in the right order whoever drops it
//! first: a queue pair holds its completion queue and protection domain, these hold the
//! context, and a region holds the memory that it makes known.

mod completion_queue;
mod context;
mod endpoint;
mod fabric;
mod list;
mod notification;
mod posted;
mod queue_pair;
mod reaper;
mod region;
mod status;
mod symbols;
mod work_queue;

pub use fabric::VerbsFabric;
pub use list::report;
