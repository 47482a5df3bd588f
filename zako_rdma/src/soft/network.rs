//! Queue pairs and what passes between them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::Faults;
use crate::fabric::{
    Access, Address, Completion, FabricError, FailureKind, Limits, RemoteMemory, Result, Work,
};
use crate::memory::{Slab, Slot};

/// A READ shorter than this is taken for one of a nonce.
const SHORT: usize = 4096;

#[derive(Debug)]
pub(super) struct Shared(Mutex<Network>);

#[derive(Debug)]
pub(super) struct Network {
    pub(super) faults: Faults,
    random: StdRng,
    pairs: HashMap<u32, Pair>,
    ports: u32,
    gids: HashSet<[u8; 16]>,
    works: u64,
    next_key: u32,
    cut: bool,
    registered: usize,
}

/// A queue pair with its protection domain and completion queue.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) address: Address,
    state: PairState,
    regions: Vec<Region>,
    pub(super) sends: VecDeque<Posted>,
    pub(super) receives: VecDeque<(u64, Slot)>,
    pub(super) completions: VecDeque<Completion>,
    /// Work whose completion never comes. The card has its memory for ever.
    pub(super) lost: usize,
    pub(super) waker: Option<Waker>,
    /// Between two tries.
    interval: Duration,
    retries: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PairState {
    Init,
    Connected(Address),
    Error,
}

#[derive(Debug)]
struct Region {
    key: u32,
    slab: Arc<Slab>,
    access: Access,
}

#[derive(Debug)]
pub(super) struct Posted {
    id: u64,
    work: Work,
    /// When it is tried next.
    pub(super) due: Instant,
    tries: u8,
    lose: bool,
    corrupt: bool,
}

/// What became of a try.
enum Tried {
    Done(u32),
    /// Nobody answered.
    Silence,
    /// The peer receives nothing now.
    NotReady,
    Refused(FabricError),
}

impl Shared {
    pub(super) fn new(seed: u64, faults: Faults) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Network {
            faults,
            random: StdRng::seed_from_u64(seed),
            pairs: HashMap::new(),
            ports: 0,
            gids: HashSet::new(),
            works: 0,
            next_key: 0,
            cut: false,
            registered: 0,
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Network> {
        self.0.lock()
    }

    pub(super) fn new_port(&self) -> u32 {
        let mut network = self.lock();
        network.ports += 1;
        network.ports
    }

    pub(super) fn set_cut(&self, cut: bool) {
        self.lock().cut = cut;
    }

    pub(super) fn outstanding(&self) -> usize {
        self.lock().pairs.values().map(Pair::outstanding).sum()
    }

    pub(super) fn endpoints(&self) -> usize {
        self.lock().pairs.len()
    }

    pub(super) fn registered(&self) -> usize {
        self.lock().registered
    }

    /// A new queue pair at a port.
    pub(super) fn open(&self, gid: [u8; 16], limits: Limits) -> Option<Address> {
        let mut network = self.lock();
        if network.pairs.len() >= network.faults.endpoints {
            return None;
        }
        let queue_pair = loop {
            let number = network.random.random_range(1..1 << 24);
            if !network.pairs.contains_key(&number) {
                break number;
            }
        };
        let address = Address {
            queue_pair,
            gid,
            lid: 0,
            packet_sequence: network.random.random_range(0..1 << 24),
            mtu: 4096,
            reads_in: limits.reads_in,
            reads_out: limits.reads_out,
        };
        network.gids.insert(gid);
        let pair = Pair {
            address,
            state: PairState::Init,
            regions: Vec::new(),
            sends: VecDeque::new(),
            receives: VecDeque::new(),
            completions: VecDeque::new(),
            lost: 0,
            waker: None,
            interval: Duration::ZERO,
            retries: 0,
        };
        network.pairs.insert(queue_pair, pair);
        Some(address)
    }
}

impl Pair {
    /// Work whose completion was not taken.
    pub(super) fn outstanding(&self) -> usize {
        self.sends.len() + self.receives.len() + self.completions.len() + self.lost
    }

    fn complete(&mut self, id: u64, outcome: Result<u32>, slot: Slot) {
        self.completions.push_back(Completion { id, outcome, slot });
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Takes it to Error: all that is posted is flushed.
    fn fail(&mut self) {
        self.state = PairState::Error;
        let sends = std::mem::take(&mut self.sends);
        for posted in sends {
            self.end(posted, Err(flushed()));
        }
        for (id, slot) in std::mem::take(&mut self.receives) {
            self.complete(id, Err(flushed()), slot);
        }
    }

    fn end(&mut self, posted: Posted, outcome: Result<u32>) {
        let slot = posted.work.into_slot();
        if posted.lose {
            // The card may touch it for ever.
            std::mem::forget(slot);
            self.lost += 1;
        } else {
            self.complete(posted.id, outcome, slot);
        }
    }

    /// Where a region of it has these bytes.
    fn region(
        &self,
        key: u32,
        address: u64,
        length: usize,
        write: bool,
    ) -> Option<(Arc<Slab>, usize)> {
        let region = self.regions.iter().find(|region| region.key == key)?;
        let allowed = match region.access {
            Access::Local => false,
            Access::Read => !write,
            Access::ReadWrite => true,
        };
        let offset = usize::try_from(address.checked_sub(region.slab.address())?).ok()?;
        let end = offset.checked_add(length)?;
        (allowed && end <= region.slab.bytes()).then(|| (Arc::clone(&region.slab), offset))
    }
}

impl Network {
    pub(super) fn pair(&mut self, number: u32) -> Result<&mut Pair> {
        self.pairs
            .get_mut(&number)
            .ok_or_else(|| FabricError::new(FailureKind::Device, "the queue pair is gone"))
    }

    pub(super) fn register(
        &mut self,
        number: u32,
        slab: &Arc<Slab>,
        access: Access,
    ) -> Result<RemoteMemory> {
        let sum = self.registered.saturating_add(slab.bytes());
        if sum > self.faults.memory_limit {
            return Err(FabricError::new(
                FailureKind::MemoryLimit,
                "no more memory may be pinned",
            ));
        }
        self.registered = sum;
        self.next_key = self.next_key.wrapping_add(0x101);
        let key = self.next_key;
        self.pair(number)?.regions.push(Region {
            key,
            slab: Arc::clone(slab),
            access,
        });
        Ok(RemoteMemory {
            address: slab.address(),
            length: slab.bytes() as u64,
            key,
        })
    }

    pub(super) fn connect(&mut self, number: u32, peer: &Address) -> Result<()> {
        if !self.gids.contains(&peer.gid) {
            return Err(FabricError::new(
                FailureKind::Address,
                "there is no way to that GID",
            ));
        }
        let pair = self.pair(number)?;
        if pair.state != PairState::Init {
            return Err(FabricError::new(
                FailureKind::Device,
                "a queue pair is connected once",
            ));
        }
        pair.state = PairState::Connected(*peer);
        Ok(())
    }

    pub(super) fn set_retries(&mut self, number: u32, timeout: u8, retries: u8) {
        if let Ok(pair) = self.pair(number) {
            pair.interval = Duration::from_nanos(4096 << timeout.min(31));
            pair.retries = retries;
        }
    }

    pub(super) fn post(
        &mut self,
        number: u32,
        id: u64,
        work: Work,
    ) -> Result<(), (FabricError, Slot)> {
        let works = self.works;
        self.works += 1;
        if self.faults.cut_at == Some(works) {
            self.cut = true;
        }
        let delay = match self.faults.delay.is_empty() {
            true => self.faults.delay.start,
            false => self.random.random_range(self.faults.delay.clone()),
        };
        let lose = self.faults.lose.contains(&works);
        let corrupt = self.faults.corrupt.contains(&works);
        let refuse = self.faults.refuse_in_error;
        let pair = match self.pair(number) {
            Ok(pair) => pair,
            Err(error) => return Err((error, work.into_slot())),
        };
        let refused =
            |kind, text: &str, work: Work| Err((FabricError::new(kind, text), work.into_slot()));
        let known = |region: &Region| Arc::ptr_eq(&region.slab, work.slot().slab());
        if !pair.regions.iter().any(known) || work.length() > work.slot().len() {
            return refused(
                FailureKind::Bounds,
                "a slot that the card doesn't know",
                work,
            );
        }
        if pair.state == PairState::Init && !matches!(work, Work::Receive { .. }) {
            return refused(
                FailureKind::Device,
                "the queue pair isn't ready to send",
                work,
            );
        }
        if refuse && pair.state == PairState::Error {
            return refused(FailureKind::Flushed, "the queue pair is in Error", work);
        }
        match work {
            Work::Receive { into } => pair.receives.push_back((id, into)),
            work => pair.sends.push_back(Posted {
                id,
                work,
                due: Instant::now() + delay,
                tries: 0,
                lose,
                corrupt,
            }),
        }
        if pair.state == PairState::Error {
            pair.fail();
        }
        Ok(())
    }

    pub(super) fn fail(&mut self, number: u32) -> Result<()> {
        self.pair(number)?.fail();
        Ok(())
    }

    /// The queue pair is gone, with all that it knew.
    pub(super) fn close(&mut self, number: u32) {
        if let Some(mut pair) = self.pairs.remove(&number) {
            pair.fail();
            let bytes: usize = pair.regions.iter().map(|region| region.slab.bytes()).sum();
            self.registered -= bytes;
        }
    }

    /// Does what is due of a queue pair's work, in its order.
    pub(super) fn advance(&mut self, number: u32) -> Result<()> {
        let now = Instant::now();
        loop {
            let pair = self.pair(number)?;
            if pair.sends.front().is_none_or(|posted| posted.due > now) {
                return Ok(());
            }
            let Some(mut posted) = pair.sends.pop_front() else {
                return Ok(());
            };
            let (interval, retries, from) = (pair.interval, pair.retries, pair.address);
            let PairState::Connected(to) = pair.state else {
                pair.end(posted, Err(flushed()));
                continue;
            };
            let error = match self.attempt(&from, &to, &mut posted) {
                Tried::Done(bytes) => {
                    self.pair(number)?.end(posted, Ok(bytes));
                    continue;
                }
                Tried::Refused(error) => {
                    // The peer's has failed too; it has no completion of it.
                    self.pair(to.queue_pair)?.fail();
                    error
                }
                Tried::Silence | Tried::NotReady if posted.tries < retries => {
                    posted.tries += 1;
                    posted.due += interval.max(Duration::from_nanos(1));
                    self.pair(number)?.sends.push_front(posted);
                    continue;
                }
                Tried::Silence => FabricError::new(
                    FailureKind::PeerGone,
                    format!("the peer did not answer {retries} retries"),
                ),
                Tried::NotReady => {
                    FabricError::new(FailureKind::NotReceiving, "the peer receives nothing")
                }
            };
            let pair = self.pair(number)?;
            pair.end(posted, Err(error));
            pair.fail();
        }
    }

    fn attempt(&mut self, from: &Address, to: &Address, posted: &mut Posted) -> Tried {
        let (cut, wrong) = (self.cut, self.faults.wrong_nonce);
        let Some(peer) = self.pairs.get_mut(&to.queue_pair) else {
            return Tried::Silence;
        };
        let PairState::Connected(back) = peer.state else {
            return Tried::Silence;
        };
        let reaches = |a: &Address, b: &Address| {
            (a.queue_pair, a.gid, a.packet_sequence) == (b.queue_pair, b.gid, b.packet_sequence)
        };
        if cut || !reaches(&peer.address, to) || !reaches(&back, from) {
            return Tried::Silence;
        }
        let refused =
            |text: &str| Tried::Refused(FabricError::new(FailureKind::RemoteAccess, text));
        let spoil = |bytes: &mut [u8]| match bytes.last_mut() {
            Some(last) if posted.corrupt => *last ^= 1,
            _ => {}
        };
        match &mut posted.work {
            Work::Read {
                into,
                length,
                address,
                key,
            } => {
                let bytes = *length as usize;
                match peer.region(*key, *address, bytes, false) {
                    Some((slab, offset)) if slab.read_at(offset, &mut into[..bytes]) => {
                        if wrong && bytes < SHORT {
                            into[..bytes].reverse();
                        }
                        spoil(&mut into[..bytes]);
                        Tried::Done(*length)
                    }
                    _ => refused("the peer allows no READ there"),
                }
            }
            Work::Write {
                from,
                length,
                address,
                key,
            } => {
                let bytes = *length as usize;
                spoil(&mut from[..bytes]);
                match peer.region(*key, *address, bytes, true) {
                    Some((slab, offset)) if slab.write_at(offset, &from[..bytes]) => {
                        Tried::Done(*length)
                    }
                    _ => refused("the peer allows no WRITE there"),
                }
            }
            Work::Send { from, length } => {
                let bytes = *length as usize;
                let Some((id, mut into)) = peer.receives.pop_front() else {
                    return Tried::NotReady;
                };
                if into.len() < bytes {
                    peer.receives.push_front((id, into));
                    return refused("the peer receives less");
                }
                into[..bytes].copy_from_slice(&from[..bytes]);
                spoil(&mut into[..bytes]);
                peer.complete(id, Ok(*length), into);
                Tried::Done(*length)
            }
            Work::Receive { .. } => refused("a receive is not sent"),
        }
    }
}

fn flushed() -> FabricError {
    FabricError::new(FailureKind::Flushed, "the queue pair was in Error before")
}
