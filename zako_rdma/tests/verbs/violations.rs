//! What a peer may not do, and what becomes of both ends.

use std::sync::Arc;

use zako_rdma::fabric::{Access, Address, EndpointOptions, Fabric, FailureKind, Work};
use zako_rdma::memory::PAGE;

use crate::Case;
use crate::endpoints::{End, kinds, pair};

pub(crate) const CASES: &[Case] = &[
    ("a wrong key", a_wrong_key),
    ("a key of another endpoint", a_key_of_another_endpoint),
    ("below the start", below_the_start),
    ("past the end", past_the_end),
    ("reading without rights", reading_without_rights),
    ("writing without rights", writing_without_rights),
    ("memory that was deregistered", memory_that_was_deregistered),
    ("nobody receives", nobody_receives),
    ("a message too long", a_message_too_long),
    ("no way to the peer", no_way_to_the_peer),
    ("a peer that can't be", a_peer_that_cannot_be),
    ("failing flushes what is posted", failing_flushes),
];

/// Three READs of this memory: the first is refused, the others flushed, and nothing can
/// be posted after that.
fn refused(one: &mut End, address: u64, key: u32) {
    for id in 0..3 {
        one.read(id, PAGE as u32, address, key);
    }
    let ended = one.completions(3);
    let (refused, flushed) = (Err(FailureKind::RemoteAccess), Err(FailureKind::Flushed));
    assert_eq!(kinds(&ended), [refused, flushed, flushed], "{ended:?}");
    if let Err(error) = &ended[0].outcome {
        println!("       {error}");
    }
    assert!(ended[0].slot.iter().all(|byte| *byte == 0), "nothing came");
    let into = one.slot(&[]);
    let (error, _) = one.endpoint.post(9, Work::Receive { into }).unwrap_err();
    assert_eq!(error.kind(), FailureKind::Flushed);
}

/// The other end's receive is flushed: its queue pair has failed, too.
fn has_failed(other: &mut End) {
    assert_eq!(kinds(&other.completions(1)), [Err(FailureKind::Flushed)]);
}

fn with_a_receive(fabric: &Arc<dyn Fabric>, access: Access) -> (End, End) {
    let (one, mut other) = pair(fabric, access, PAGE);
    let into = other.slot(&[]);
    other.post(77, Work::Receive { into });
    (one, other)
}

fn a_wrong_key(fabric: &Arc<dyn Fabric>) {
    let (mut one, mut other) = with_a_receive(fabric, Access::Read);
    refused(&mut one, other.memory.address, other.memory.key ^ 0x5a5a);
    has_failed(&mut other);
}

fn a_key_of_another_endpoint(fabric: &Arc<dyn Fabric>) {
    let (mut one, mut other) = with_a_receive(fabric, Access::Read);
    let (mut third, third_peer) = pair(fabric, Access::Read, PAGE);
    refused(&mut one, third.memory.address, third.memory.key);
    has_failed(&mut other);
    third.read(1, 8, third_peer.memory.address, third_peer.memory.key);
    assert_eq!(kinds(&third.completions(1)), [Ok(8)], "others go on");
}

fn below_the_start(fabric: &Arc<dyn Fabric>) {
    let (mut one, mut other) = with_a_receive(fabric, Access::Read);
    refused(&mut one, other.memory.address - 1, other.memory.key);
    has_failed(&mut other);
}

fn past_the_end(fabric: &Arc<dyn Fabric>) {
    let (mut one, mut other) = with_a_receive(fabric, Access::Read);
    let (address, key) = (other.memory.address, other.memory.key);
    let end = address + other.memory.length;
    one.read(0, PAGE as u32, end - PAGE as u64, key);
    assert_eq!(
        kinds(&one.completions(1)),
        [Ok(PAGE as u32)],
        "the last page"
    );
    refused(&mut one, end - PAGE as u64 + 1, key);
    has_failed(&mut other);
}

fn reading_without_rights(fabric: &Arc<dyn Fabric>) {
    let (mut one, mut other) = with_a_receive(fabric, Access::Local);
    refused(&mut one, other.memory.address, other.memory.key);
    has_failed(&mut other);
}

fn writing_without_rights(fabric: &Arc<dyn Fabric>) {
    let (mut one, mut other) = with_a_receive(fabric, Access::Read);
    let there = other.slot(&[]);
    let from = one.slot(&[1; 64]);
    one.post(
        1,
        Work::Write {
            from,
            length: 64,
            address: other.memory.address + there.offset(),
            key: other.memory.key,
        },
    );
    assert_eq!(kinds(&one.completions(1)), [Err(FailureKind::RemoteAccess)]);
    has_failed(&mut other);
    assert!(there.iter().all(|byte| *byte == 0), "nothing was written");
}

fn memory_that_was_deregistered(fabric: &Arc<dyn Fabric>) {
    let (mut one, mut other) = with_a_receive(fabric, Access::Read);
    let gone = {
        let end = End::new(fabric, Access::Read, PAGE);
        end.memory
    };
    refused(&mut one, gone.address, gone.key);
    has_failed(&mut other);
}

fn nobody_receives(fabric: &Arc<dyn Fabric>) {
    let (mut one, _other) = pair(fabric, Access::Local, PAGE);
    let from = one.slot(&[1]);
    one.post(1, Work::Send { from, length: 1 });
    assert_eq!(kinds(&one.completions(1)), [Err(FailureKind::NotReceiving)]);
}

fn a_message_too_long(fabric: &Arc<dyn Fabric>) {
    let mut one = End::new(fabric, Access::Local, 2 * PAGE);
    let mut other = End::new(fabric, Access::Local, PAGE);
    one.endpoint.connect(&other.endpoint.address()).unwrap();
    other.endpoint.connect(&one.endpoint.address()).unwrap();
    let into = other.slot(&[]);
    other.post(1, Work::Receive { into });
    let from = one.slot(&[1]);
    one.post(
        1,
        Work::Send {
            from,
            length: 2 * PAGE as u32,
        },
    );
    assert!(one.completions(1)[0].outcome.is_err());
    assert!(other.completions(1)[0].outcome.is_err());
}

/// Some cards find out on connecting, others (soft-RoCE) when nobody answers.
fn no_way_to_the_peer(fabric: &Arc<dyn Fabric>) {
    let mut one = End::new(fabric, Access::Local, PAGE);
    let mut peer = one.endpoint.address();
    // 203.0.113.1, which is for documentation.
    peer.gid = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 203, 0, 113, 1];
    match one.endpoint.connect(&peer) {
        Err(error) => assert_eq!(error.kind(), FailureKind::Address, "{error}"),
        Ok(()) => {
            one.read(1, 8, one.memory.address, one.memory.key);
            assert_eq!(kinds(&one.completions(1)), [Err(FailureKind::PeerGone)]);
        }
    }
}

fn a_peer_that_cannot_be(fabric: &Arc<dyn Fabric>) {
    let mut endpoint = fabric.endpoint(&EndpointOptions::default()).unwrap();
    let good = endpoint.address();
    for bad in [
        Address { mtu: 0, ..good },
        Address { mtu: 1500, ..good },
        Address {
            queue_pair: 1 << 24,
            ..good
        },
        Address {
            packet_sequence: 1 << 24,
            ..good
        },
    ] {
        assert_eq!(
            endpoint.connect(&bad).unwrap_err().kind(),
            FailureKind::Address
        );
    }
    endpoint.connect(&good).unwrap();
}

fn failing_flushes(fabric: &Arc<dyn Fabric>) {
    let (mut one, _other) = pair(fabric, Access::Local, PAGE);
    for id in 0..5 {
        let into = one.slot(&[]);
        one.post(id, Work::Receive { into });
    }
    one.endpoint.fail().unwrap();
    let ended = one.completions(5);
    assert_eq!(kinds(&ended), [Err(FailureKind::Flushed); 5]);
    drop(ended);
    assert_eq!((one.endpoint.outstanding(), one.slab.free()), (0, 16));
}
