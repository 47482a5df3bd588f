//! What a program that embeds a store, a server or a client can learn of it while it
//! runs.
//!
//! An [`Observer`] is told of each event once, on the thread that it happened on. This
//! crate knows no metrics library: an observer turns events into what it likes.

mod call;
mod connected;
mod many;
mod rdma;
mod store;
pub mod trace;

use std::fmt;
use std::time::Duration;

pub use call::{CallEnd, CallKind, Interface, Lookup};
pub use connected::Connected;
pub use many::Observers;
pub use rdma::RdmaEvent;
pub use store::{Corruption, Eviction, EvictionReason, GroupCommit, Synced};

/// Is told what happens.
///
/// Every method is called from the path that bytes take: it must not block, and should
/// not allocate. Methods that aren't overridden do nothing.
pub trait Observer: fmt::Debug + Send + Sync + 'static {
    /// A call or request ended, however it did.
    fn call(&self, call: &CallEnd<'_>) {
        let _ = call;
    }

    /// Blobs or other things were looked for.
    fn lookup(&self, lookup: &Lookup) {
        let _ = lookup;
    }

    /// A connection was taken in.
    fn connected(&self, interface: Interface) {
        let _ = interface;
    }

    /// A connection ended.
    fn disconnected(&self, interface: Interface) {
        let _ = interface;
    }

    /// A session over RDMA began or ended, or there is none.
    fn rdma(&self, event: RdmaEvent) {
        let _ = event;
    }

    /// A group of small blobs was written.
    fn committed(&self, commit: &GroupCommit) {
        let _ = commit;
    }

    /// Something became durable that no group told of.
    fn synced(&self, what: Synced, took: Duration) {
        let _ = (what, took);
    }

    /// Blobs were given up to make room or since they expired.
    fn evicted(&self, eviction: &Eviction) {
        let _ = eviction;
    }

    /// A damaged blob was found.
    fn corrupt(&self, corruption: &Corruption) {
        let _ = corruption;
    }
}
