//! The soft fabric does what cards do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use zako_rdma::fabric::{
    Access, Completion, Endpoint, EndpointOptions, Fabric, FailureKind, RemoteMemory, Work,
};
use zako_rdma::memory::Slab;
use zako_rdma::soft::{Faults, SoftNetwork};

struct End {
    endpoint: Box<dyn Endpoint>,
    slab: Arc<Slab>,
    memory: RemoteMemory,
    seen: Vec<Completion>,
}

impl End {
    fn new(network: &SoftNetwork, access: Access) -> Self {
        let mut endpoint = network
            .fabric()
            .endpoint(&EndpointOptions::default())
            .unwrap();
        let slab = Slab::new(4, 4096).unwrap();
        let memory = endpoint.register(&slab, access).unwrap();
        Self {
            endpoint,
            slab,
            memory,
            seen: Vec::new(),
        }
    }

    fn read(&mut self, id: u64, length: u32, address: u64, key: u32) {
        let into = self.slab.take().unwrap();
        let work = Work::Read {
            into,
            length,
            address,
            key,
        };
        self.endpoint.post(id, work).unwrap();
    }

    /// The next completion: its id, and what came of it.
    async fn next(&mut self) -> (u64, Result<u32, FailureKind>) {
        while self.seen.is_empty() {
            poll_fn(|context| self.endpoint.poll_ready(context))
                .await
                .unwrap();
            self.endpoint.poll(&mut self.seen).unwrap();
        }
        let done = self.seen.remove(0);
        (done.id, done.outcome.map_err(|error| error.kind()))
    }

    async fn silent(&mut self) -> bool {
        timeout(Duration::from_secs(60), self.next()).await.is_err()
    }
}

fn two(faults: Faults, access: Access) -> (SoftNetwork, End, End) {
    let network = SoftNetwork::new(1, faults);
    let mut near = End::new(&network, Access::Read);
    let mut far = End::new(&network, access);
    near.endpoint.connect(&far.endpoint.address()).unwrap();
    far.endpoint.connect(&near.endpoint.address()).unwrap();
    (network, near, far)
}

#[tokio::test(start_paused = true)]
async fn the_first_error_is_the_cause_and_both_ends_fail() {
    let (_network, mut near, mut far) = two(Faults::default(), Access::Read);
    let RemoteMemory { address, key, .. } = far.memory;
    let into = far.slab.take().unwrap();
    far.endpoint.post(9, Work::Receive { into }).unwrap();
    near.read(1, 100, address, key);
    near.read(2, 100, address + 16384 - 99, key);
    near.read(3, 100, address, key);
    assert_eq!(near.next().await, (1, Ok(100)), "partial success");
    assert_eq!(near.next().await, (2, Err(FailureKind::RemoteAccess)));
    assert_eq!(near.next().await, (3, Err(FailureKind::Flushed)));
    assert_eq!(far.next().await, (9, Err(FailureKind::Flushed)));
    // Posting to a queue pair in Error is well, and flushed.
    near.read(4, 1, address, key);
    assert_eq!(near.next().await, (4, Err(FailureKind::Flushed)));
    assert_eq!(near.endpoint.outstanding(), 0);
    assert_eq!(near.slab.free(), 4);
}

#[tokio::test(start_paused = true)]
async fn keys_bounds_and_rights_are_checked() {
    type Place = fn(&RemoteMemory, &RemoteMemory) -> (u64, u32);
    let wrong: [Place; 4] = [
        |far, _| (far.address, far.key + 1),
        |far, _| (far.address - 1, far.key),
        |far, _| (u64::MAX, far.key),
        // The key of another protection domain.
        |_, other| (other.address, other.key),
    ];
    for place in wrong {
        let (network, mut near, far) = two(Faults::default(), Access::Read);
        let other = End::new(&network, Access::Read);
        let (address, key) = place(&far.memory, &other.memory);
        near.read(1, 10, address, key);
        assert_eq!(near.next().await, (1, Err(FailureKind::RemoteAccess)));
    }
    let (_network, mut near, far) = two(Faults::default(), Access::Local);
    near.read(1, 10, far.memory.address, far.memory.key);
    assert_eq!(near.next().await, (1, Err(FailureKind::RemoteAccess)));

    for (access, outcome) in [
        (Access::Read, Err(FailureKind::RemoteAccess)),
        (Access::ReadWrite, Ok(3)),
    ] {
        let (_network, mut near, far) = two(Faults::default(), access);
        let mut from = near.slab.take().unwrap();
        from[..3].copy_from_slice(b"abc");
        let work = Work::Write {
            from,
            length: 3,
            address: far.memory.address,
            key: far.memory.key,
        };
        near.endpoint.post(1, work).unwrap();
        assert_eq!(near.next().await, (1, outcome));
        let slot = far.slab.take().unwrap();
        assert_eq!(&slot[..3] == b"abc", outcome.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_is_not_known_comes_back() {
    let (_network, mut near, far) = two(Faults::default(), Access::Read);
    let strange = Slab::new(1, 4096).unwrap();
    for (into, length) in [
        (strange.take().unwrap(), 1),
        (near.slab.take().unwrap(), 4097),
    ] {
        let work = Work::Read {
            into,
            length,
            address: far.memory.address,
            key: far.memory.key,
        };
        let (error, slot) = near.endpoint.post(1, work).unwrap_err();
        assert_eq!(error.kind(), FailureKind::Bounds);
        drop(slot);
    }
    assert_eq!((strange.free(), near.slab.free()), (1, 4));
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_is_gone() {
    // Not connected back; gone; behind a cut link.
    let network = SoftNetwork::new(1, Faults::default());
    let mut near = End::new(&network, Access::Read);
    let far = End::new(&network, Access::Read);
    near.endpoint.connect(&far.endpoint.address()).unwrap();
    near.read(1, 1, far.memory.address, far.memory.key);
    near.read(2, 1, far.memory.address, far.memory.key);
    assert_eq!(near.next().await, (1, Err(FailureKind::PeerGone)));
    assert_eq!(near.next().await, (2, Err(FailureKind::Flushed)));

    let (_network, mut near, far) = two(Faults::default(), Access::Read);
    let memory = far.memory;
    drop(far);
    near.read(1, 1, memory.address, memory.key);
    assert_eq!(near.next().await, (1, Err(FailureKind::PeerGone)));

    let faults = Faults {
        cut_at: Some(1),
        ..Faults::default()
    };
    let (network, mut near, far) = two(faults.clone(), Access::Read);
    near.read(1, 1, far.memory.address, far.memory.key);
    assert_eq!(near.next().await, (1, Ok(1)));
    near.read(2, 1, far.memory.address, far.memory.key);
    assert_eq!(near.next().await, (2, Err(FailureKind::PeerGone)));
    drop((near, far));
    assert_eq!((network.endpoints(), network.registered()), (0, 0));

    // A link that heals in time.
    let (network, mut near, far) = two(faults, Access::Read);
    network.cut();
    near.read(1, 1, far.memory.address, far.memory.key);
    let healed = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        network.heal();
    };
    let (done, ()) = tokio::join!(near.next(), healed);
    assert_eq!(done, (1, Ok(1)));
}

#[tokio::test(start_paused = true)]
async fn a_send_needs_a_receive() {
    let (_network, mut near, mut far) = two(Faults::default(), Access::Local);
    let mut from = near.slab.take().unwrap();
    from[..5].copy_from_slice(b"hello");
    let into = far.slab.take().unwrap();
    far.endpoint.post(7, Work::Receive { into }).unwrap();
    near.endpoint
        .post(1, Work::Send { from, length: 5 })
        .unwrap();
    assert_eq!(near.next().await, (1, Ok(5)));
    poll_fn(|context| far.endpoint.poll_ready(context))
        .await
        .unwrap();
    far.endpoint.poll(&mut far.seen).unwrap();
    assert_eq!(&far.seen[0].slot[..5], b"hello");
    assert_eq!(far.next().await, (7, Ok(5)));

    let from = near.slab.take().unwrap();
    near.endpoint
        .post(2, Work::Send { from, length: 5 })
        .unwrap();
    assert_eq!(near.next().await, (2, Err(FailureKind::NotReceiving)));
}

#[tokio::test(start_paused = true)]
async fn a_lost_completion_never_comes_and_its_slot_never_returns() {
    let faults = Faults {
        lose: vec![0],
        ..Faults::default()
    };
    let (_network, mut near, far) = two(faults, Access::Read);
    near.read(1, 1, far.memory.address, far.memory.key);
    near.endpoint.poll(&mut near.seen).unwrap();
    assert!(near.silent().await);
    near.endpoint.fail().unwrap();
    assert!(near.silent().await);
    assert_eq!(near.endpoint.outstanding(), 1);
    let slab = Arc::clone(&near.slab);
    drop(near);
    assert_eq!(slab.free(), 3);
}

#[tokio::test(start_paused = true)]
async fn limits_are_kept() {
    let faults = Faults {
        memory_limit: 4 * 4096,
        endpoints: 1,
        ..Faults::default()
    };
    let network = SoftNetwork::new(1, faults);
    let mut near = End::new(&network, Access::Read);
    let more = Slab::new(1, 1).unwrap();
    let refused = near.endpoint.register(&more, Access::Local).unwrap_err();
    assert_eq!(refused.kind(), FailureKind::MemoryLimit);
    let options = EndpointOptions::default();
    let refused = network.fabric().endpoint(&options).unwrap_err();
    assert_eq!(refused.kind(), FailureKind::Resources);
    let nowhere = zako_rdma::fabric::Address {
        gid: [9; 16],
        ..near.endpoint.address()
    };
    let refused = near.endpoint.connect(&nowhere).unwrap_err();
    assert_eq!(refused.kind(), FailureKind::Address);
}
