//! Several observers as one.

use std::sync::Arc;
use std::time::Duration;

use super::{
    CallEnd, Corruption, Eviction, GroupCommit, Interface, Lookup, Observer, RdmaEvent, Synced,
};

/// Tells each of them, in their order.
#[derive(Clone, Debug, Default)]
pub struct Observers(Vec<Arc<dyn Observer>>);

impl Observers {
    /// These.
    pub fn new(all: Vec<Arc<dyn Observer>>) -> Self {
        Self(all)
    }
}

impl Observer for Observers {
    fn call(&self, call: &CallEnd<'_>) {
        self.0.iter().for_each(|one| one.call(call));
    }

    fn lookup(&self, lookup: &Lookup) {
        self.0.iter().for_each(|one| one.lookup(lookup));
    }

    fn connected(&self, interface: Interface) {
        self.0.iter().for_each(|one| one.connected(interface));
    }

    fn disconnected(&self, interface: Interface) {
        self.0.iter().for_each(|one| one.disconnected(interface));
    }

    fn rdma(&self, event: RdmaEvent) {
        self.0.iter().for_each(|one| one.rdma(event));
    }

    fn committed(&self, commit: &GroupCommit) {
        self.0.iter().for_each(|one| one.committed(commit));
    }

    fn synced(&self, what: Synced, took: Duration) {
        self.0.iter().for_each(|one| one.synced(what, took));
    }

    fn evicted(&self, eviction: &Eviction) {
        self.0.iter().for_each(|one| one.evicted(eviction));
    }

    fn corrupt(&self, corruption: &Corruption) {
        self.0.iter().for_each(|one| one.corrupt(corruption));
    }
}
