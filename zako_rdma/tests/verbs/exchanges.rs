//! Two endpoints of one process: what they move arrives as it was.

use std::sync::Arc;

use zako_rdma::fabric::{Access, EndpointOptions, Fabric, FailureKind, Work};
use zako_rdma::memory::{PAGE, Pages, Slab};

use crate::Case;
use crate::endpoints::{End, kinds, pair, pattern, run};

pub(crate) const CASES: &[Case] = &[
    ("a message arrives", a_message_arrives),
    ("memory is read", memory_is_read),
    ("memory is written", memory_is_written),
    ("memory of any pages", memory_of_any_pages),
    ("many reads at once", many_reads_at_once),
    ("no wakeup is lost", no_wakeup_is_lost),
    ("another runtime", another_runtime),
    (
        "what is refused gives the slot back",
        what_is_refused_gives_the_slot_back,
    ),
    (
        "memory can be registered after connecting",
        memory_can_be_registered_later,
    ),
];

const SIZES: [usize; 5] = [0, 1, 4095, PAGE, (1 << 20) - 1];

fn a_message_arrives(fabric: &Arc<dyn Fabric>) {
    let (mut one, mut other) = pair(fabric, Access::Local, 1 << 20);
    for (id, size) in SIZES.into_iter().enumerate() {
        let sent = pattern(size, id as u64);
        let into = other.slot(&[]);
        other.post(100 + id as u64, Work::Receive { into });
        let from = one.slot(&sent);
        one.post(
            id as u64,
            Work::Send {
                from,
                length: size as u32,
            },
        );
        let ended = one.completions(1);
        assert_eq!(kinds(&ended), [Ok(size as u32)]);
        assert_eq!(ended[0].id, id as u64);
        let arrived = other.completions(1);
        assert_eq!(kinds(&arrived), [Ok(size as u32)]);
        assert_eq!(arrived[0].id, 100 + id as u64);
        assert!(arrived[0].slot[..size] == sent, "{size} bytes differ");
    }
    assert_eq!(one.endpoint.outstanding() + other.endpoint.outstanding(), 0);
}

fn memory_is_read(fabric: &Arc<dyn Fabric>) {
    let (mut one, other) = pair(fabric, Access::Read, 1 << 20);
    // So that no slot lies at the beginning of its slab.
    let _first = (one.slot(&[]), other.slot(&[]));
    for (id, size) in SIZES.into_iter().enumerate() {
        let there = other.slot(&pattern(size, id as u64));
        let address = other.memory.part(there.offset(), size as u64).unwrap();
        one.read(id as u64, size as u32, address, other.memory.key);
        let ended = one.completions(1);
        assert_eq!(kinds(&ended), [Ok(size as u32)]);
        assert!(
            ended[0].slot[..size] == there[..size],
            "{size} bytes differ"
        );
        assert!(
            ended[0].slot[size..].iter().all(|byte| *byte == 0),
            "no more came"
        );
    }
}

fn memory_is_written(fabric: &Arc<dyn Fabric>) {
    let (mut one, other) = pair(fabric, Access::ReadWrite, 1 << 20);
    // So that no slot lies at the beginning of its slab.
    let _first = (one.slot(&[]), other.slot(&[]));
    for (id, size) in SIZES.into_iter().enumerate() {
        let there = other.slot(&[]);
        let address = other.memory.part(there.offset(), size as u64).unwrap();
        let from = one.slot(&pattern(size, id as u64));
        one.post(
            id as u64,
            Work::Write {
                from,
                length: size as u32,
                address,
                key: other.memory.key,
            },
        );
        let ended = one.completions(1);
        assert_eq!(kinds(&ended), [Ok(size as u32)]);
        assert!(
            there[..size] == ended[0].slot[..size],
            "{size} bytes differ"
        );
        assert!(there[size..].iter().all(|byte| *byte == 0), "no more came");
    }
}

/// What a machine doesn't have falls back to plain pages; what was got is printed.
fn memory_of_any_pages(fabric: &Arc<dyn Fabric>) {
    for pages in [Pages::Plain, Pages::Huge, Pages::Tmpfs] {
        let (mut one, mut other) = pair(fabric, Access::Local, PAGE);
        let slab = Slab::with_pages(3, 1 << 20, pages).unwrap();
        println!("       asked for {pages:?} pages, got {:?}", slab.pages());
        let memory = other.endpoint.register(&slab, Access::Read).unwrap();
        let into = Slab::with_pages(1, 1 << 20, pages).unwrap();
        one.endpoint.register(&into, Access::Local).unwrap();
        let mut there: Vec<_> = (0..3).map(|_| slab.take().unwrap()).collect();
        there[2].copy_from_slice(&pattern(1 << 20, 5));
        one.post(
            1,
            Work::Read {
                into: into.take().unwrap(),
                length: 1 << 20,
                address: memory.part(there[2].offset(), 1 << 20).unwrap(),
                key: memory.key,
            },
        );
        let ended = one.completions(1);
        assert_eq!(kinds(&ended), [Ok(1 << 20)]);
        assert!(ended[0].slot[..] == there[2][..]);
    }
}

fn many_reads_at_once(fabric: &Arc<dyn Fabric>) {
    let (mut one, other) = pair(fabric, Access::Read, 1 << 16);
    let there: Vec<_> = (0..8)
        .map(|seed| other.slot(&pattern(1 << 16, seed)))
        .collect();
    for round in 0..4_u64 {
        for (id, slot) in there.iter().enumerate() {
            let address = other.memory.part(slot.offset(), slot.len() as u64).unwrap();
            one.read(round * 8 + id as u64, 1 << 16, address, other.memory.key);
        }
        let mut ended = Vec::new();
        while ended.len() < there.len() {
            ended.extend(one.completions(1));
        }
        for (id, completion) in ended.iter().enumerate() {
            assert_eq!(completion.id, round * 8 + id as u64, "in order");
            assert!(completion.slot[..] == there[id][..], "read {id} differs");
        }
    }
}

/// Each side only goes on when it was woken, with and without something to see already.
fn no_wakeup_is_lost(fabric: &Arc<dyn Fabric>) {
    const ROUNDS: u64 = 300;
    let (mut one, mut other) = pair(fabric, Access::Local, PAGE);
    for end in [&mut one, &mut other] {
        let into = end.slot(&[]);
        end.post(0, Work::Receive { into });
    }
    let play = async |end: &mut End, starts: bool| {
        for round in 0..ROUNDS {
            for sends in [starts, !starts] {
                if sends {
                    let from = end.slot(&round.to_le_bytes());
                    end.post(1, Work::Send { from, length: 8 });
                    continue;
                }
                loop {
                    let completion = end.completed(1).await;
                    let mut received = None;
                    for one in completion {
                        assert!(one.outcome.is_ok(), "{one:?}");
                        if one.id == 0 {
                            received = Some(u64::from_le_bytes(one.slot[..8].try_into().unwrap()));
                        }
                    }
                    if let Some(received) = received {
                        assert_eq!(received, round);
                        let into = end.slot(&[]);
                        end.post(0, Work::Receive { into });
                        break;
                    }
                }
            }
        }
    };
    run(async {
        tokio::join!(play(&mut one, true), play(&mut other, false));
    });
}

/// An endpoint can be waited for on one runtime after another.
fn another_runtime(fabric: &Arc<dyn Fabric>) {
    let (mut one, mut other) = pair(fabric, Access::Local, PAGE);
    for id in 0..3 {
        let into = other.slot(&[]);
        other.post(id, Work::Receive { into });
        let waits = std::thread::spawn(move || {
            let arrived = other.completions(1);
            (other, kinds(&arrived))
        });
        // Long enough for it to wait, mostly; it has to work either way.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let from = one.slot(&[1]);
        one.post(id, Work::Send { from, length: 1 });
        assert_eq!(kinds(&one.completions(1)), [Ok(1)]);
        let outcome;
        (other, outcome) = waits.join().unwrap();
        assert_eq!(outcome, [Ok(1)]);
    }
}

fn what_is_refused_gives_the_slot_back(fabric: &Arc<dyn Fabric>) {
    let options = EndpointOptions {
        depth: 2,
        ..EndpointOptions::default()
    };
    let mut endpoint = fabric.endpoint(&options).unwrap();
    let slab = Slab::new(4, PAGE).unwrap();
    let receive = || Work::Receive {
        into: slab.take().unwrap(),
    };
    let (error, slot) = endpoint.post(1, receive()).unwrap_err();
    assert_eq!(error.kind(), FailureKind::Bounds, "not registered");
    drop(slot);
    endpoint.register(&slab, Access::Local).unwrap();
    let send = |length| Work::Send {
        from: slab.take().unwrap(),
        length,
    };
    let (error, _) = endpoint.post(1, send(1)).unwrap_err();
    assert_eq!(error.kind(), FailureKind::Device, "not connected");
    endpoint.connect(&endpoint.address()).unwrap();
    let (error, _) = endpoint.post(1, send(PAGE as u32 + 1)).unwrap_err();
    assert_eq!(error.kind(), FailureKind::Bounds, "longer than the slot");
    endpoint.post(1, receive()).unwrap();
    endpoint.post(2, receive()).unwrap();
    let (error, _) = endpoint.post(3, receive()).unwrap_err();
    assert_eq!(error.kind(), FailureKind::Full);
    assert_eq!((endpoint.outstanding(), slab.free()), (2, 2));
    let again = endpoint.connect(&endpoint.address()).unwrap_err();
    assert_eq!(again.kind(), FailureKind::Device, "connected before");
}

fn memory_can_be_registered_later(fabric: &Arc<dyn Fabric>) {
    let (mut one, mut other) = pair(fabric, Access::Local, PAGE);
    let more = Slab::new(1, PAGE).unwrap();
    let memory = other.endpoint.register(&more, Access::Read).unwrap();
    let mut there = more.take().unwrap();
    there.fill(9);
    one.read(1, PAGE as u32, memory.address, memory.key);
    let ended = one.completions(1);
    assert_eq!(kinds(&ended), [Ok(PAGE as u32)]);
    assert!(ended[0].slot[..] == there[..]);
}
