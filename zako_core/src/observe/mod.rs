//! What a program that embeds a store, a server or a client can learn of it while it
//! runs.
//!
//! An [`Observer`] is told of each event once, on the thread that it happened on. This
//! crate knows no metrics library: an observer turns events into what it likes.

mod call;
mod many;
mod store;
pub mod trace;

use std::fmt;

pub use call::{CallEnd, CallKind, Interface, Lookup};
pub use many::Observers;
pub use store::{Corruption, Eviction, EvictionReason, GroupCommit};

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

    /// A group of small blobs was written.
    fn committed(&self, commit: &GroupCommit) {
        let _ = commit;
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
