//! An endpoint of a card.
//!
//! This file has `unsafe` code: its `drop` takes a field out.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::completion_queue::CompletionQueue;
use super::context::{ProtectionDomain, mtu_bytes, mtu_number};
use super::fabric::VerbsFabric;
use super::notification::Notification;
use super::queue_pair::{QueuePair, Route, Sending};
use super::reaper::reap;
use super::region::{Region, flags};
use super::status::refused;
use super::work_queue::{State, WorkQueue};
use crate::fabric::{
    Access, Address, Completion, Endpoint, EndpointOptions, FabricError, FailureKind, RemoteMemory,
    Result, Work,
};
use crate::memory::{Slab, Slot};

/// Numbers of queue pairs and of packets have so many bits.
const BITS_24: u32 = (1 << 24) - 1;

pub(super) struct VerbsEndpoint {
    work: ManuallyDrop<WorkQueue>,
    domain: Arc<ProtectionDomain>,
    address: Address,
    port: u8,
    gid_index: u8,
    options: EndpointOptions,
    /// What the peer may do, in flags of `region::flags`.
    access: u32,
    notification: Notification,
}

impl VerbsEndpoint {
    pub(super) fn new(fabric: &VerbsFabric, options: &EndpointOptions) -> Result<Self> {
        if options.depth == 0 || options.timeout > 31 || options.retries > 6 {
            return Err(FabricError::new(
                FailureKind::Bounds,
                format!("no endpoint can be made with {options:?}"),
            ));
        }
        let place = fabric.place()?;
        let context = fabric.context();
        let depth = options.depth.min(fabric.depth());
        let domain = ProtectionDomain::new(context)?;
        let completions = CompletionQueue::new(context, depth.saturating_mul(2))?;
        let queue_pair = QueuePair::new(&domain, &completions, depth, place.port)?;
        let limits = crate::fabric::Fabric::limits(fabric);
        let address = Address {
            queue_pair: queue_pair.number(),
            gid: place.gid,
            lid: place.lid,
            packet_sequence: random_24_bits()?,
            mtu: mtu_bytes(place.mtu),
            reads_in: limits.reads_in,
            reads_out: limits.reads_out,
        };
        let notification = Notification::new(Arc::clone(&completions));
        let work = WorkQueue::new(
            queue_pair,
            completions,
            context.verbs(),
            depth,
            limits.message_bytes,
        );
        Ok(Self {
            work: ManuallyDrop::new(work),
            domain,
            address,
            port: place.port,
            gid_index: place.gid_index,
            options: *options,
            access: 0,
            notification,
        })
    }

    fn route(&self, peer: &Address) -> Result<Route> {
        let mtu = mtu_number(peer.mtu.min(self.address.mtu))
            .filter(|_| mtu_number(peer.mtu).is_some())
            .filter(|_| peer.queue_pair <= BITS_24 && peer.packet_sequence <= BITS_24)
            .ok_or_else(|| {
                FabricError::new(
                    FailureKind::Address,
                    format!("that can't be a peer: {peer:?}"),
                )
            })?;
        Ok(Route {
            port: self.port,
            gid_index: self.gid_index,
            peer_gid: peer.gid,
            peer_lid: peer.lid,
            peer_queue_pair: peer.queue_pair,
            peer_packet_sequence: peer.packet_sequence,
            mtu,
            reads_in: self.address.reads_in.min(peer.reads_out),
            access: self.access,
        })
    }
}

impl Endpoint for VerbsEndpoint {
    fn address(&self) -> Address {
        self.address
    }

    fn register(&mut self, slab: &Arc<Slab>, access: Access) -> Result<RemoteMemory> {
        let region = Region::new(&self.domain, slab, access)?;
        let wanted = self.access | flags(access);
        if wanted != self.access && self.work.state() == State::ReadyToSend {
            self.work
                .queue_pair
                .allow(wanted)
                .map_err(|error| refused("a queue pair's rights can't be changed", &error))?;
        }
        self.access = wanted;
        let remote = region.remote();
        self.work.regions.push(region);
        Ok(remote)
    }

    fn connect(&mut self, peer: &Address) -> Result<()> {
        if self.work.state() != State::Init {
            return Err(FabricError::new(
                FailureKind::Device,
                "the queue pair has been connected before",
            ));
        }
        let route = self.route(peer)?;
        let sending = Sending {
            packet_sequence: self.address.packet_sequence,
            timeout: self.options.timeout,
            retries: self.options.retries,
            reads_out: self.address.reads_out.min(peer.reads_in),
        };
        if let Err(error) = self.work.queue_pair.receive_from(&route) {
            return Err(no_way(peer, &error));
        }
        if let Err(error) = self.work.queue_pair.send(&sending) {
            // Half connected, it would be good for nothing.
            self.work.fail()?;
            return Err(refused("a queue pair doesn't become Ready to Send", &error));
        }
        self.work.set_ready();
        Ok(())
    }

    fn post(&mut self, id: u64, work: Work) -> Result<(), (FabricError, Slot)> {
        self.work.post(id, work)
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) -> Result<()> {
        self.work.poll(completions)?;
        self.notification.polled();
        Ok(())
    }

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.notification.poll_ready(context)
    }

    fn fail(&mut self) -> Result<()> {
        self.work.fail()
    }

    fn outstanding(&self) -> usize {
        self.work.outstanding()
    }
}

impl Drop for VerbsEndpoint {
    fn drop(&mut self) {
        // SAFETY: this is the only place that takes it, runs once, and nothing uses the
        // field after it.
        let mut work = unsafe { ManuallyDrop::take(&mut self.work) };
        if work.outstanding() == 0 {
            return;
        }
        if let Err(error) = work.fail() {
            tracing::error!(%error, "an endpoint that goes");
        }
        reap(work);
    }
}

impl fmt::Debug for VerbsEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerbsEndpoint")
            .field("context", self.domain.context())
            .field("address", &self.address)
            .field("state", &self.work.state())
            .field("outstanding", &self.work.outstanding())
            .finish()
    }
}

fn no_way(peer: &Address, error: &io::Error) -> FabricError {
    use io::ErrorKind::{
        AddrNotAvailable, HostUnreachable, InvalidInput, NetworkUnreachable, TimedOut,
    };
    let gid = std::net::Ipv6Addr::from(peer.gid);
    let what = format!("there is no way to {gid}, LID {}", peer.lid);
    match error.kind() {
        AddrNotAvailable | HostUnreachable | InvalidInput | NetworkUnreachable | TimedOut => {
            FabricError::new(FailureKind::Address, format!("{what}: {error}"))
        }
        _ => refused(&what, error),
    }
}

fn random_24_bits() -> Result<u32> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| refused("the system has no random number", &error.into()))?;
    Ok(u32::from_ne_bytes(bytes) & BITS_24)
}
