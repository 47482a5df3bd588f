//! Peers that break the protocol end their own session, and no other.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pair;

use std::time::Duration;

use bytes::Bytes;
use pair::raw::Raw;
use pair::{Blobs, FREED, Pair, content, get_all, in_virtual_time, until};
use tokio::time::timeout;
use zako_digest::{BlobRange, Digest, hash};
use zako_protobuf::rdma::{self, ClientMessage, client_message::Message as Wire};
use zako_rdma::fabric::FailureKind;
use zako_rdma::session::{
    BudgetUsed, ClientSession, Code, Message, NONCE_BYTES, Pull, Request, ServerSession,
    SessionError, Status,
};
use zako_rdma::soft::Faults;

/// A client with an open session beside one that does nothing wrong.
struct Stage {
    pair: Pair,
    good: ClientSession,
    digest: Digest,
    bytes: Vec<u8>,
}

impl Stage {
    async fn new() -> Self {
        let pair = Pair::new(1, Faults::default());
        let (good, server) = pair.open().await;
        let blobs = Blobs::default();
        let bytes = content(100_000, 1);
        let digest = blobs.add(&bytes);
        blobs.serve(server);
        Self {
            pair,
            good,
            digest,
            bytes,
        }
    }

    /// The session that was wronged is gone with all that it had; the good one works.
    async fn assert_unharmed(&self) {
        let one = BudgetUsed {
            sessions: 1,
            bytes: (9 + 12) * 4096,
        };
        until(|| self.pair.far_budget.used() == one).await;
        assert!(get_all(&self.good, &self.digest).await.unwrap() == self.bytes);
    }
}

fn blob() -> Digest {
    hash::bytes(&content(10_000, 9))
}

fn get(transfer: u64) -> Message {
    Message::Get {
        transfer,
        digest: blob(),
        range: BlobRange::FULL,
    }
}

fn put(transfer: u64) -> Message {
    Message::Put {
        transfer,
        digest: blob(),
        offset: 0,
    }
}

fn grant(offset: u64, length: u32) -> Message {
    Message::Grant {
        transfer: 1,
        offset,
        length,
    }
}

fn end(transfer: u64, status: Status) -> Message {
    Message::End { transfer, status }
}

fn done(transfer: u64, status: Status) -> Message {
    Message::Done { transfer, status }
}

fn wire_get(change: impl FnOnce(&mut rdma::Get)) -> Wire {
    let mut get = rdma::Get {
        transfer: 1,
        digest: Some(blob().into()),
        range: Some(BlobRange::FULL.into()),
    };
    change(&mut get);
    Wire::Get(get)
}

/// What is sent on an open session, one message after another; the last is at fault.
async fn fault(script: Vec<Wire>, code: Code) {
    let stage = Stage::new().await;
    let (mut raw, mut server) = Raw::open(&stage.pair).await;
    let told = format!("{script:?}");
    for message in script {
        raw.wire(message).await;
    }
    // Nobody takes what is asked for.
    let mut asked = Vec::new();
    let ended = async {
        while let Some(request) = server.next().await {
            asked.push(request);
        }
        server.ended().await
    };
    let limit = Duration::from_secs(60);
    let error = timeout(limit, ended).await.expect("it ends");
    assert!(error.is_violation(), "{error:?} for {told}");
    assert_eq!(error.status().code, code, "{error:?} for {told}");
    assert_eq!(raw.closed().await, Some(code), "{told}");
    drop(asked);
    server.freed().await;
    assert_eq!(server.free_slots(), FREED);
    stage.assert_unharmed().await;
}

#[test]
fn a_malformed_message_ends_the_session() {
    in_virtual_time(async {
        let short = Bytes::from_static(&[0; 31]);
        for message in [
            Wire::Ready(rdma::Ready {
                nonce: Bytes::from_static(&[0; 63]),
            }),
            Wire::Checked(rdma::Checked { status: None }),
            Wire::Close(rdma::Close { status: None }),
            Wire::Offer(rdma::Endpoint {
                version: 1,
                ..rdma::Endpoint::default()
            }),
            wire_get(|get| get.digest = None),
            wire_get(|get| get.range = None),
            wire_get(|get| get.digest.as_mut().unwrap().blake3 = short),
            Wire::Put(rdma::Put::default()),
            Wire::Grant(rdma::Grant::default()),
            Wire::Release(rdma::Release::default()),
            Wire::End(rdma::End::default()),
            Wire::Done(rdma::Done::default()),
        ] {
            fault(vec![message], Code::InvalidArgument).await;
        }
        let stage = Stage::new().await;
        let (mut raw, _server) = Raw::open(&stage.pair).await;
        raw.send(ClientMessage { message: None }).await;
        assert_eq!(raw.closed().await, Some(Code::InvalidArgument));
    });
}

#[test]
fn a_message_out_of_order_ends_the_session() {
    in_virtual_time(async {
        use zako_rdma::session::{Client, Role};
        let (raw, _accepting) = Raw::new(&Pair::new(1, Faults::default()));
        let ok = || Status::ok(0);
        for script in [
            vec![Message::Hello(raw.hello)],
            vec![Message::Ready([7; NONCE_BYTES])],
            vec![Message::Checked(ok())],
            // Numbers that don't rise.
            vec![get(0)],
            vec![get(5), get(5)],
            vec![put(5), get(4)],
            // More than there may be.
            vec![get(1), put(2), get(3), put(4), get(5)],
            // Of no transfer, or not of that kind.
            vec![grant(0, 1)],
            vec![end(1, ok())],
            vec![done(1, ok())],
            vec![Message::Release {
                transfer: 1,
                grants: 1,
            }],
            vec![get(1), grant(0, 1)],
            vec![get(1), end(1, ok())],
            vec![put(1), done(1, ok())],
            // Before the server begins.
            vec![put(1), grant(0, 1)],
            vec![put(1), end(1, ok())],
            vec![get(1), done(1, ok())],
            // Behind a last word.
            vec![put(1), end(1, Status::cancelled()), grant(0, 1)],
            vec![
                put(1),
                end(1, Status::cancelled()),
                end(1, Status::cancelled()),
            ],
            vec![
                get(1),
                done(1, Status::cancelled()),
                done(1, Status::cancelled()),
            ],
            vec![
                get(1),
                Message::Release {
                    transfer: 1,
                    grants: 1,
                },
            ],
        ] {
            let script = script.into_iter().map(|message| {
                let message = Client::write(message).unwrap();
                message.message.unwrap()
            });
            fault(script.collect(), Code::FailedPrecondition).await;
        }
    });
}

/// An upload that the server has begun with.
async fn uploading(stage: &Stage) -> (Raw, ServerSession, Pull) {
    let (mut raw, mut server) = Raw::open(&stage.pair).await;
    raw.say(put(1)).await;
    let Some(Request::Put(request)) = server.next().await else {
        panic!("no request");
    };
    let pull = request.accept();
    assert_eq!(raw.next().await, Some(Message::Accepted { transfer: 1 }));
    (raw, server, pull)
}

#[test]
fn a_grant_that_cannot_be_ends_the_session() {
    in_virtual_time(async {
        let length = 9 * 4096;
        for (grants, code) in [
            // Beyond the memory, past all numbers, longer than a slot, more than the blob.
            (vec![grant(length - 1, 2)], Code::InvalidArgument),
            (vec![grant(u64::MAX, 1)], Code::InvalidArgument),
            (vec![grant(u64::MAX - 1, 4096)], Code::InvalidArgument),
            (vec![grant(0, 4097)], Code::InvalidArgument),
            (vec![grant(0, 4096); 3], Code::InvalidArgument),
            // The end before the bytes.
            (
                vec![grant(0, 4096), end(1, Status::ok(0))],
                Code::FailedPrecondition,
            ),
        ] {
            let stage = Stage::new().await;
            let (mut raw, server, pull) = uploading(&stage).await;
            for message in grants {
                raw.say(message).await;
            }
            assert_eq!(raw.closed().await, Some(code));
            assert_eq!(server.ended().await.status().code, code);
            drop(pull);
            server.freed().await;
            assert_eq!(server.free_slots(), FREED);
            stage.assert_unharmed().await;
        }
    });
}

#[test]
fn who_releases_or_is_done_too_early_ends_the_session() {
    in_virtual_time(async {
        for message in [
            Message::Release {
                transfer: 1,
                grants: 2,
            },
            Message::Release {
                transfer: 1,
                grants: u32::MAX,
            },
            done(1, Status::ok(0)),
        ] {
            let stage = Stage::new().await;
            let (mut raw, mut server) = Raw::open(&stage.pair).await;
            raw.say(get(1)).await;
            let Some(Request::Get(request)) = server.next().await else {
                panic!("no request");
            };
            let mut expose = request.accept();
            expose.send(&[1; 4096]).await.unwrap();
            assert_eq!(raw.next().await, Some(Message::Accepted { transfer: 1 }));
            assert!(matches!(raw.next().await, Some(Message::Grant { .. })));
            raw.say(message).await;
            assert_eq!(raw.closed().await, Some(Code::FailedPrecondition));
            assert!(expose.send(&[1; 5000]).await.is_err());
            drop(expose);
            server.freed().await;
            assert_eq!(server.free_slots(), FREED);
            stage.assert_unharmed().await;
        }
    });
}

#[test]
fn memory_that_is_not_what_was_offered_ends_the_session() {
    in_virtual_time(async {
        // Longer than it is: found when it is read.
        let stage = Stage::new().await;
        let (mut raw, accepting) = Raw::new(&stage.pair);
        raw.hello.memory.length *= 2;
        raw.shake().await;
        let mut server = accepting.await.unwrap().unwrap();
        raw.say(put(1)).await;
        let Some(Request::Put(request)) = server.next().await else {
            panic!("no request");
        };
        let mut pull = request.accept();
        assert_eq!(raw.next().await, Some(Message::Accepted { transfer: 1 }));
        raw.say(grant(0, 4096)).await;
        raw.say(grant(9 * 4096, 4096)).await;
        raw.say(grant(0, 1)).await;
        assert_eq!(pull.next().await.unwrap().unwrap().len(), 4096);
        pull.next().await.unwrap().unwrap_err();
        let error = server.ended().await;
        let SessionError::Fabric(cause) = &error else {
            panic!("{error:?}");
        };
        assert_eq!(cause.kind(), FailureKind::RemoteAccess, "the first error");
        assert_eq!(raw.closed().await, Some(Code::Unavailable));
        drop(pull);
        server.freed().await;
        assert_eq!(server.free_slots(), FREED);
        stage.assert_unharmed().await;

        // A wrong key, or another address: found by the check.
        type Lie = fn(&mut Raw);
        let lies: [Lie; 3] = [
            |raw| raw.hello.memory.key += 1,
            |raw| raw.hello.memory.address += 64,
            |raw| raw.hello.address.packet_sequence ^= 1,
        ];
        for lie in lies {
            let stage = Stage::new().await;
            let (mut raw, accepting) = Raw::new(&stage.pair);
            lie(&mut raw);
            raw.say(Message::Hello(raw.hello)).await;
            raw.say(Message::Ready([7; NONCE_BYTES])).await;
            raw.say(Message::Checked(Status::ok(0))).await;
            let error = accepting.await.unwrap().unwrap_err();
            assert!(matches!(error, SessionError::Unreachable(_)), "{error:?}");
            assert_eq!(raw.closed().await, Some(Code::Unavailable));
            stage.assert_unharmed().await;
        }
    });
}

#[test]
fn a_beginning_out_of_order_ends_before_anything_is_taken() {
    in_virtual_time(async {
        type First = fn(&Raw) -> Message;
        let firsts: [First; 4] = [
            |_| Message::Ready([7; NONCE_BYTES]),
            |_| Message::Checked(Status::ok(0)),
            |_| get(1),
            |_| done(1, Status::cancelled()),
        ];
        let stage = Stage::new().await;
        let before = stage.pair.network.registered();
        for first in firsts {
            let (mut raw, accepting) = Raw::new(&stage.pair);
            let registered = stage.pair.network.registered();
            raw.say(first(&raw)).await;
            let error = accepting.await.unwrap().unwrap_err();
            assert_eq!(error.status().code, Code::FailedPrecondition, "{error:?}");
            assert_eq!(raw.closed().await, Some(Code::FailedPrecondition));
            assert_eq!(stage.pair.network.registered(), registered);
        }
        // And behind the offer.
        let seconds: [First; 3] = [
            |raw| Message::Hello(raw.hello),
            |_| get(1),
            |_| Message::Checked(Status::ok(0)),
        ];
        for second in seconds {
            let (mut raw, accepting) = Raw::new(&stage.pair);
            raw.say(Message::Hello(raw.hello)).await;
            raw.say(second(&raw)).await;
            let error = accepting.await.unwrap().unwrap_err();
            assert_eq!(error.status().code, Code::FailedPrecondition, "{error:?}");
            assert_eq!(raw.closed().await, Some(Code::FailedPrecondition));
        }
        until(|| stage.pair.network.registered() == before).await;
        stage.assert_unharmed().await;
    });
}

#[test]
fn who_does_not_read_is_not_waited_for() {
    in_virtual_time(async {
        let stage = Stage::new().await;
        let (raw, server) = Raw::open(&stage.pair).await;
        let flood = async {
            for transfer in 1..100_000 {
                raw.say(Message::Get {
                    transfer,
                    digest: blob(),
                    range: BlobRange::new(20_000, 1),
                })
                .await;
                raw.say(done(transfer, Status::cancelled())).await;
                if raw.outgoing.is_closed() {
                    return;
                }
            }
            panic!("everything was taken");
        };
        let limit = Duration::from_secs(60);
        timeout(limit, flood).await.unwrap();
        let error = server.freed().await;
        assert!(matches!(error, SessionError::Timeout(_)), "{error:?}");
        assert_eq!(server.free_slots(), FREED);
        stage.assert_unharmed().await;
    });
}
