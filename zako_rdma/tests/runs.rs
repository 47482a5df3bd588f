//! Slots next to each other move in one READ: what an end grants and pulls then.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pair;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use pair::raw::Raw;
use pair::{ALL_FREE, FREED, Pair, content, in_virtual_time, options, until};
use proptest::prelude::*;
use tokio::time::timeout;
use zako_digest::{BlobRange, Digest, hash};
use zako_rdma::session::{Code, Message, Pull, Request, ServerSession, SessionOptions, Status};
use zako_rdma::soft::Faults;

const SLOT: u64 = 4096;
/// Of an end's memory, with the nonce's slot.
const MEMORY: u64 = 9 * SLOT;

/// A server that moves so many slots in a READ.
fn of_runs(run_slots: u32) -> SessionOptions {
    SessionOptions {
        run_slots,
        ..options()
    }
}

fn get(transfer: u64, bytes: &[u8]) -> Message {
    Message::Get {
        transfer,
        digest: hash::bytes(bytes),
        range: BlobRange::FULL,
    }
}

fn grant(offset: u64, length: u64) -> Message {
    Message::Grant {
        transfer: 1,
        offset,
        length: length.try_into().unwrap(),
    }
}

/// An upload that the server has begun with.
async fn uploading(raw: &mut Raw, server: &mut ServerSession, digest: Digest) -> Pull {
    let put = Message::Put {
        transfer: 1,
        digest,
        offset: 0,
    };
    raw.say(put).await;
    let Some(Request::Put(request)) = server.next().await else {
        panic!("no request");
    };
    let pull = request.accept();
    assert_eq!(raw.next().await, Some(Message::Accepted { transfer: 1 }));
    pull
}

/// Exposes these bytes to whoever asks for one of them.
async fn expose(mut server: ServerSession, blobs: Vec<Vec<u8>>) {
    while let Some(Request::Get(request)) = server.next().await {
        let bytes = blobs
            .iter()
            .find(|bytes| hash::bytes(bytes) == *request.digest());
        let bytes = bytes.unwrap().clone();
        tokio::spawn(async move {
            let mut expose = request.accept();
            for step in bytes.chunks(5001) {
                expose.send(step).await.unwrap();
            }
            expose.finish().await.unwrap();
        });
    }
}

/// A client that has asked for blobs and READs what it is granted of them.
struct Reader {
    raw: Raw,
    /// No grant is longer.
    longest: u64,
    left: BTreeMap<u64, Reading>,
    lengths: Vec<u64>,
}

struct Reading {
    bytes: Vec<u8>,
    at: usize,
    granted: VecDeque<Range<u64>>,
    ended: bool,
}

impl Reader {
    async fn ask(raw: Raw, longest: u64, blobs: &[Vec<u8>]) -> Self {
        let mut left = BTreeMap::new();
        for (transfer, bytes) in (1..).zip(blobs) {
            raw.say(get(transfer, bytes)).await;
            let reading = Reading {
                bytes: bytes.clone(),
                at: 0,
                granted: VecDeque::new(),
                ended: false,
            };
            left.insert(transfer, reading);
        }
        Self {
            raw,
            longest,
            left,
            lengths: Vec::new(),
        }
    }

    /// Takes what the server says until it has nothing more to say; nothing that it grants
    /// is granted to another transfer, or before.
    async fn listen(&mut self) {
        while let Ok(message) = timeout(Duration::from_millis(1), self.raw.next()).await {
            match message.expect("the session goes on") {
                Message::Accepted { .. } => {}
                Message::Grant {
                    transfer,
                    offset,
                    length,
                } => {
                    let new = offset..offset + u64::from(length);
                    assert!(u64::from(length) <= self.longest && new.end <= MEMORY);
                    assert!(new.start >= SLOT, "the nonce's");
                    let slots = |range: &Range<u64>| range.start / SLOT..range.end.div_ceil(SLOT);
                    for old in self.left.values().flat_map(|reading| &reading.granted) {
                        let (old, new) = (slots(old), slots(&new));
                        assert!(old.end <= new.start || new.end <= old.start, "twice");
                    }
                    self.lengths.push(length.into());
                    let reading = self.left.get_mut(&transfer).unwrap();
                    reading.granted.push_back(new);
                }
                Message::End { transfer, status } => {
                    assert!(status.is_ok());
                    self.left.get_mut(&transfer).unwrap().ended = true;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// READs and releases the oldest grants of a transfer, and takes its leave at the end.
    async fn read(&mut self, transfer: u64, grants: usize) {
        let reading = self.left.get_mut(&transfer).unwrap();
        let grants = grants.min(reading.granted.len());
        for granted in reading.granted.drain(..grants) {
            let length = granted.end - granted.start;
            let bytes = self.raw.read(granted.start, length as u32).await;
            let end = reading.at + bytes.len();
            assert!(reading.bytes[reading.at..end] == bytes, "other bytes");
            reading.at = end;
        }
        if grants > 0 {
            let grants = grants as u32;
            self.raw.say(Message::Release { transfer, grants }).await;
        }
        if reading.ended && reading.granted.is_empty() {
            assert_eq!(reading.at, reading.bytes.len());
            let status = Status::ok(0);
            self.raw.say(Message::Done { transfer, status }).await;
            self.left.remove(&transfer);
        }
    }
}

/// Reads all blobs in an order of the script; the lengths of the grants.
async fn read_all(run_slots: u32, longest: u64, sizes: &[usize], script: &[usize]) -> Vec<u64> {
    let pair = Pair::new(1, Faults::default());
    let blobs: Vec<Vec<u8>> = (1..)
        .zip(sizes)
        .map(|(seed, size)| content(*size, seed))
        .collect();
    let (raw, server) = Raw::open_with(&pair, of_runs(run_slots), longest as u32).await;
    let serving = tokio::spawn(expose(server, blobs.clone()));
    let longest = longest.min(u64::from(run_slots) * SLOT);
    let mut reader = Reader::ask(raw, longest, &blobs).await;
    let mut script = script.iter().cycle();
    for _ in 0..10_000 {
        reader.listen().await;
        let able: Vec<u64> = reader
            .left
            .iter()
            .filter(|(_, reading)| reading.ended || !reading.granted.is_empty())
            .map(|(transfer, _)| *transfer)
            .collect();
        if reader.left.is_empty() {
            let lengths = std::mem::take(&mut reader.lengths);
            drop(reader);
            serving.await.unwrap();
            return lengths;
        }
        assert!(!able.is_empty(), "neither end goes on");
        let choice = script.next().unwrap();
        reader.read(able[choice % able.len()], choice / 7 + 1).await;
    }
    panic!("it goes on for ever");
}

#[test]
fn a_large_blob_moves_in_runs() {
    in_virtual_time(async {
        // 4 transfers have 8 slots, so one has 5 of them.
        let lengths = read_all(4, 4 * SLOT, &[40 * SLOT as usize], &[0]).await;
        assert_eq!(lengths, vec![4 * SLOT; 10]);
        // The last one is as long as it must be.
        let lengths = read_all(4, 4 * SLOT, &[6 * SLOT as usize + 1], &[0]).await;
        assert_eq!(lengths, [4 * SLOT, 2 * SLOT + 1]);
    });
}

#[test]
fn a_peer_of_single_slots_gets_these() {
    in_virtual_time(async {
        for (run_slots, longest) in [(4, SLOT), (1, 4 * SLOT), (4, SLOT - 1)] {
            let lengths = read_all(run_slots, longest, &[100_000], &[0, 9]).await;
            assert!(lengths.iter().all(|length| *length <= longest.min(SLOT)));
        }
    });
}

#[test]
fn a_run_that_cannot_be_ends_the_session() {
    in_virtual_time(async {
        let size = 20 * SLOT;
        let bytes = content(size as usize, 1);
        for (grants, what) in [
            (vec![grant(7 * SLOT, 3 * SLOT)], "beyond the memory"),
            (vec![grant(MEMORY, 1)], "behind it"),
            (vec![grant(u64::MAX - SLOT, 3 * SLOT)], "past all numbers"),
            (vec![grant(u64::MAX, 3 * SLOT)], "past all numbers"),
            (vec![grant(SLOT, 3 * SLOT + 1)], "longer than its server's"),
            (vec![grant(SLOT, 3 * SLOT); 7], "more than the blob has"),
        ] {
            let pair = Pair::new(1, Faults::default());
            // It could pull longer ones than the server.
            let (mut raw, mut server) = Raw::open_with(&pair, of_runs(3), 4 * SLOT as u32).await;
            let pull = uploading(&mut raw, &mut server, hash::bytes(&bytes)).await;
            for message in grants {
                raw.say(message).await;
            }
            assert_eq!(raw.closed().await, Some(Code::InvalidArgument), "{what}");
            assert!(server.ended().await.is_violation(), "{what}");
            drop(pull);
            server.freed().await;
            assert_eq!(server.free_slots(), FREED);
        }
    });
}

#[test]
fn a_run_beyond_what_is_registered_ends_the_session() {
    in_virtual_time(async {
        let pair = Pair::new(1, Faults::default());
        let (mut raw, accepting) = Raw::with(&pair, of_runs(4), 4 * SLOT as u32);
        // A lie, which only the card finds out.
        raw.hello.memory.length *= 2;
        raw.shake().await;
        let mut server = accepting.await.unwrap().unwrap();
        let digest = hash::bytes(&content(20 * SLOT as usize, 1));
        let mut pull = uploading(&mut raw, &mut server, digest).await;
        raw.say(grant(SLOT, 4 * SLOT)).await;
        raw.say(grant(7 * SLOT, 4 * SLOT)).await;
        assert_eq!(pull.next().await.unwrap().unwrap().len() as u64, 4 * SLOT);
        pull.next().await.unwrap().unwrap_err();
        assert_eq!(raw.closed().await, Some(Code::Unavailable));
        drop(pull);
        server.freed().await;
        assert_eq!(server.free_slots(), FREED);
    });
}

/// Pulls runs of a peer that grants what it likes, while some of what came is kept.
async fn pull_runs(run_slots: u32, grants: Vec<(u64, u64)>, keeps: Vec<bool>) {
    let longest = u64::from(run_slots.min(6)) * SLOT;
    // Wherever it lies and however often.
    let grants: Vec<Range<u64>> = grants
        .into_iter()
        .map(|(offset, length)| {
            let start = SLOT + offset % (MEMORY - SLOT);
            start..(start + 1 + length % longest).min(MEMORY)
        })
        .collect();
    let pair = Pair::new(1, Faults::default());
    let (mut raw, mut server) = Raw::open_with(&pair, of_runs(run_slots), 6 * SLOT as u32).await;
    let mut memory = raw.memory();
    let held = content(memory.len(), 3);
    memory.copy_from_slice(&held);
    let expected: Vec<u8> = grants
        .iter()
        .flat_map(|range| &held[(range.start - SLOT) as usize..(range.end - SLOT) as usize])
        .copied()
        .collect();
    let mut pull = uploading(&mut raw, &mut server, hash::bytes(&expected)).await;
    let count = grants.len();
    let pulling = async {
        let (mut kept, mut at) = (VecDeque::new(), 0);
        let mut keeps = keeps.iter().cycle();
        while let Some(step) = pull.next().await {
            let step = step.unwrap();
            assert!(expected[at..at + step.len()] == step, "other bytes");
            at += step.len();
            if *keeps.next().unwrap() {
                kept.push_back((at, step));
            }
            if kept.len() > 3 {
                kept.pop_front();
            }
        }
        assert_eq!(at, expected.len());
        for (end, step) in kept {
            assert!(
                expected[end - step.len()..end] == step,
                "kept bytes changed"
            );
        }
        pull.finish(Status::ok(at as u64));
    };
    let granting = async {
        for range in grants {
            raw.say(grant(range.start, range.end - range.start)).await;
        }
        raw.say(Message::End {
            transfer: 1,
            status: Status::ok(0),
        })
        .await;
        let mut released = 0;
        loop {
            match raw.next().await {
                Some(Message::Release { grants, .. }) => released += grants as usize,
                Some(Message::Done { status, .. }) => break assert!(status.is_ok()),
                other => panic!("{other:?}"),
            }
        }
        assert!(released <= count);
    };
    futures::join!(pulling, granting);
    until(|| server.free_slots() == ALL_FREE).await;
}

proptest! {
    #[test]
    fn no_slot_is_granted_twice(
        run_slots in 1..9u32,
        longest in 1..8 * SLOT,
        sizes in prop::collection::vec(1..100_000usize, 1..5),
        script in prop::collection::vec(0..40usize, 1..20),
    ) {
        // Grants of a byte are many.
        let sizes: Vec<usize> = sizes
            .into_iter()
            .map(|size| size.min(200 * longest as usize))
            .collect();
        in_virtual_time(async {
            read_all(run_slots, longest, &sizes, &script).await;
        });
    }

    #[test]
    fn runs_are_pulled_whatever_is_kept(
        run_slots in 1..9u32,
        grants in prop::collection::vec((any::<u64>(), any::<u64>()), 1..40),
        keeps in prop::collection::vec(any::<bool>(), 1..7),
    ) {
        in_virtual_time(pull_runs(run_slots, grants, keeps));
    }
}
