//! What happened in the last minutes: an observer for the status page.
//!
//! Every call passes here, so threads count in shards of their own, each behind a lock that
//! others take only to read. A shard holds what came since it was last emptied into the
//! ring of slots: when its span of time is over, or when somebody reads.

mod failures;
mod histogram;
mod peers;
mod ring;
mod slot;
mod view;

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use zako_core::observe::{CallEnd, Corruption, Eviction, GroupCommit, Interface, Lookup, Observer};

pub(crate) use view::{Activity, FailureRow, InterfaceRow, PeerRow, Point, ReasonRow};

use self::peers::{PeerTable, Traffic};
use self::ring::{Ring, Totals};
use self::slot::Slot;

/// The length of a slot.
pub(crate) const SPAN: Duration = Duration::from_secs(5);

/// Slots that are kept: 15 minutes of them.
pub(crate) const SLOTS: usize = 180;

/// The interfaces, in their order.
const INTERFACES: [Interface; 5] = [
    Interface::Zako,
    Interface::RemoteExecution,
    Interface::Http,
    Interface::Rdma,
    Interface::Admin,
];

/// Callers that a shard keeps at most until it is emptied.
const PEERS_A_SHARD: usize = 32;

/// Keeps what happened in the last 15 minutes, in bounded memory.
pub struct Recorder {
    began: Instant,
    shards: Box<[Shard]>,
    ring: Mutex<Ring>,
    /// Connections by the number of their interface.
    connections: [AtomicI64; INTERFACES.len()],
}

/// What some threads counted since it was last emptied. Apart from other shards' lines of
/// the core's cache.
#[repr(align(128))]
struct Shard(Mutex<Counts>);

struct Counts {
    /// The number of the span that it counts.
    span: u64,
    slot: Slot,
    peers: PeerTable,
    totals: Totals,
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl Recorder {
    /// One that has seen nothing.
    pub fn new() -> Self {
        let threads = std::thread::available_parallelism().map_or(4, usize::from);
        let shard = |_| {
            Shard(Mutex::new(Counts {
                span: 0,
                slot: Slot::default(),
                peers: PeerTable::new(PEERS_A_SHARD),
                totals: Totals::default(),
            }))
        };
        Self {
            began: Instant::now(),
            // Threads are numbered as they come, and not all of them make calls.
            shards: (0..(2 * threads).clamp(4, 64)).map(shard).collect(),
            ring: Mutex::default(),
            connections: Default::default(),
        }
    }

    /// What happened, up to the last span that has ended.
    pub(crate) fn activity(&self) -> Activity {
        let (now, span) = (SystemTime::now(), self.span());
        let mut ring = self.ring.lock();
        for shard in &self.shards {
            shard.0.lock().empty_into(&mut ring);
        }
        let connections = self.connections.each_ref();
        let connections = connections.map(|count| count.load(Ordering::Relaxed).max(0));
        view::activity(&mut ring, span, now, connections)
    }

    fn span(&self) -> u64 {
        self.began.elapsed().as_secs() / SPAN.as_secs()
    }

    /// Counts something that happens in this span.
    fn count(&self, span: u64, count: impl FnOnce(&mut Counts)) {
        let mut counts = self.shards[thread_number() % self.shards.len()].0.lock();
        if counts.span != span || counts.peers.is_full() {
            // Who reads takes the ring first and then shards, so this may not wait.
            drop(counts);
            let mut ring = self.ring.lock();
            counts = self.shards[thread_number() % self.shards.len()].0.lock();
            counts.empty_into(&mut ring);
            counts.span = span;
        }
        count(&mut counts);
    }

    /// As [`Observer::call`], at a time.
    fn count_call(&self, call: &CallEnd<'_>, span: u64) {
        let traffic = Traffic {
            calls: 1,
            received: call.received,
            sent: call.sent,
        };
        let spans = call.duration.as_secs() / SPAN.as_secs() + 1;
        let failed = failures::is_failure(call);
        // Who looks at the page is not what it is about.
        let is_traffic = call.interface != Interface::Admin;
        self.count(span, |counts| {
            let interface = &mut counts.totals.interfaces[number(call.interface)];
            interface.traffic.add(traffic);
            interface.failed += u64::from(failed);
            if !is_traffic {
                return;
            }
            counts.slot.call(call);
            if spans <= 2 {
                counts.slot.received += call.received;
                counts.slot.sent += call.sent;
            }
            let identity = call.identity.map(|identity| identity.name());
            counts.peers.count(call.peer, identity, traffic);
        });
        let is_long = spans > 2 && is_traffic;
        if is_long || failed {
            let mut ring = self.ring.lock();
            if is_long {
                ring.spread(span, spans, call.received, call.sent);
            }
            if failed {
                ring.failures.count(call, SystemTime::now());
            }
        }
    }
}

impl Counts {
    fn empty_into(&mut self, ring: &mut Ring) {
        if let Some(slot) = ring.slot(self.span) {
            slot.add(&self.slot);
        }
        self.slot = Slot::default();
        ring.peers(self.span).take(&mut self.peers);
        ring.totals.add(&self.totals);
        self.totals = Totals::default();
    }
}

impl Observer for Recorder {
    fn call(&self, call: &CallEnd<'_>) {
        self.count_call(call, self.span());
    }

    fn lookup(&self, lookup: &Lookup) {
        self.count(self.span(), |counts| counts.slot.lookup(lookup));
    }

    fn connected(&self, interface: Interface) {
        self.connections[number(interface)].fetch_add(1, Ordering::Relaxed);
    }

    fn disconnected(&self, interface: Interface) {
        self.connections[number(interface)].fetch_sub(1, Ordering::Relaxed);
    }

    fn committed(&self, commit: &GroupCommit) {
        self.count(self.span(), |counts| counts.slot.commit(commit));
    }

    fn evicted(&self, eviction: &Eviction) {
        let Eviction {
            reason,
            blobs,
            bytes,
            ..
        } = *eviction;
        self.count(self.span(), |counts| {
            counts.slot.evicted(reason, blobs, bytes);
            let at = slot::REASONS.iter().position(|known| *known == reason);
            if let Some(at) = at {
                counts.totals.evicted[at].0 += blobs;
                counts.totals.evicted[at].1 += bytes;
            }
        });
    }

    fn corrupt(&self, _: &Corruption) {
        self.count(self.span(), |counts| counts.totals.corrupt += 1);
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

/// The place of an interface in arrays of them.
fn number(interface: Interface) -> usize {
    let found = INTERFACES.iter().position(|known| *known == interface);
    found.unwrap_or_default()
}

/// The number of this thread, from 0.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
    }
    NUMBER.with(|number| {
        number.get().unwrap_or_else(|| {
            let next = NEXT.fetch_add(1, Ordering::Relaxed);
            number.set(Some(next));
            next
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(peer: &str, sent: u64) -> CallEnd<'_> {
        let mut call = CallEnd::new(Interface::Zako, "/a/b");
        (call.peer, call.sent) = (peer, sent);
        call.duration = Duration::from_micros(100);
        call
    }

    #[test]
    fn all_that_threads_count_adds_up() {
        let recorder = Recorder::new();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for number in 0..1000 {
                        // Spans that go back and forth between threads.
                        recorder.count_call(&call("10.0.0.1", 3), number / 300);
                    }
                });
            }
            for _ in 0..100 {
                recorder.activity();
            }
        });
        let activity = recorder.activity();
        let zako = &activity.interfaces[0];
        assert_eq!((zako.calls, zako.sent_bytes), (8000, 24_000));
        assert_eq!(activity.peers[0].calls, 8000);
        let slots = recorder.ring.lock().range(0, 3);
        assert_eq!(slots.iter().map(|slot| slot.calls).sum::<u64>(), 8000);
    }

    #[test]
    fn memory_is_bounded_whoever_calls() {
        let recorder = Recorder::new();
        for number in 0..100_000u64 {
            let peer = format!("2001:db8::{number:x}");
            recorder.count_call(&call(&peer, 1), number / 1000);
            recorder.count_call(&call("heavy", 1000), number / 1000);
        }
        let activity = recorder.activity();
        assert_eq!(activity.peers[0].peer, "heavy");
        assert!(
            activity.peers.len() <= view::PEERS,
            "{}",
            activity.peers.len()
        );
        let listed: u64 = activity.peers.iter().map(|peer| peer.calls).sum();
        let rest = activity.other_peers;
        assert!(rest.calls > 0 && listed + rest.calls <= 200_000);
    }

    #[test]
    fn failures_evictions_and_connections_are_counted() {
        let recorder = Recorder::new();
        let mut failed = call("p", 0);
        failed.code = 8;
        recorder.call(&failed);
        recorder.evicted(&Eviction::new(
            zako_core::observe::EvictionReason::Expired,
            2,
            30,
        ));
        recorder.connected(Interface::Http);
        recorder.connected(Interface::Http);
        recorder.disconnected(Interface::Http);
        let activity = recorder.activity();
        assert_eq!(activity.failures[0].code_name, "RESOURCE_EXHAUSTED");
        assert_eq!(activity.interfaces[0].failed, 1);
        let http = activity.interfaces.iter().find(|row| row.name == "http");
        assert_eq!(http.unwrap().connections, 1);
        let expired = activity
            .evictions
            .iter()
            .find(|row| row.reason == "expired");
        assert_eq!(expired.map(|row| (row.blobs, row.bytes)), Some((2, 30)));
    }
}
