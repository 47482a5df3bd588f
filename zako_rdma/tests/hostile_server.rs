//! Servers that break the protocol: the client's session ends, with the reason.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pair;

use std::sync::Arc;
use std::time::Duration;

use pair::{FREED, Pair, content, in_virtual_time, incoming, options, until};
use tokio::sync::mpsc;
use tokio::time::timeout;
use zako_digest::{Digest, hash};
use zako_protobuf::rdma::{ClientMessage, ServerMessage};
use zako_rdma::fabric::{Access, Endpoint, EndpointOptions, Fabric};
use zako_rdma::memory::Slab;
use zako_rdma::session::{
    ClientSession, Code, Control, Hello, Message, NONCE_BYTES, Role, Server, SessionError, Status,
    TransferError, connect,
};
use zako_rdma::soft::Faults;

/// The server's end, in the hands of a test.
struct Raw {
    outgoing: mpsc::Sender<ServerMessage>,
    incoming: mpsc::Receiver<ClientMessage>,
    endpoint: Box<dyn Endpoint>,
    hello: Hello,
}

type Connecting = tokio::task::JoinHandle<Result<ClientSession, SessionError>>;

impl Raw {
    fn new(pair: &Pair) -> (Self, Connecting) {
        let (outgoing, from_server) = mpsc::channel(4);
        let (to_server, from_client) = mpsc::channel(4);
        let control = Control::new(to_server, incoming(from_server));
        let fabric: Arc<dyn Fabric> = pair.near.clone();
        let budget = pair.near_budget.clone();
        let connecting =
            tokio::spawn(async move { connect(fabric, control, options(), &budget).await });
        let mut endpoint = pair.far.endpoint(&EndpointOptions::default()).unwrap();
        let slab = Slab::new(9, 4096).unwrap();
        slab.take().unwrap()[..NONCE_BYTES].fill(7);
        let memory = endpoint.register(&slab, Access::Read).unwrap();
        let hello = Hello {
            address: endpoint.address(),
            memory,
            grant_bytes: 4096,
            transfers: 4,
        };
        let raw = Self {
            outgoing,
            incoming: from_client,
            endpoint,
            hello,
        };
        (raw, connecting)
    }

    async fn open(pair: &Pair) -> (Self, ClientSession) {
        let (mut raw, connecting) = Self::new(pair);
        let Some(Message::Hello(peer)) = raw.next().await else {
            panic!("no offer");
        };
        raw.endpoint.connect(&peer.address).unwrap();
        raw.say(Message::Hello(raw.hello)).await;
        raw.say(Message::Ready([7; NONCE_BYTES])).await;
        assert!(matches!(raw.next().await, Some(Message::Ready(_))));
        raw.say(Message::Checked(Status::ok(0))).await;
        assert_eq!(raw.next().await, Some(Message::Checked(Status::ok(0))));
        (raw, connecting.await.unwrap().unwrap())
    }

    async fn say(&self, message: Message) {
        let _gone = self.outgoing.send(Server::write(message).unwrap()).await;
    }

    async fn next(&mut self) -> Option<Message> {
        let message = self.incoming.recv().await?;
        Some(Server::read(message).unwrap())
    }

    async fn closed(&mut self) -> Option<Code> {
        let limit = Duration::from_secs(60);
        while let Some(message) = timeout(limit, self.next()).await.expect("it ends") {
            if let Message::Close(status) = message {
                return Some(status.code);
            }
        }
        None
    }
}

fn blob() -> Digest {
    hash::bytes(&content(10_000, 9))
}

fn accepted(transfer: u64) -> Message {
    Message::Accepted { transfer }
}

fn grant(offset: u64, length: u32) -> Message {
    Message::Grant {
        transfer: 1,
        offset,
        length,
    }
}

fn end(status: Status) -> Message {
    Message::End {
        transfer: 1,
        status,
    }
}

fn done(status: Status) -> Message {
    Message::Done {
        transfer: 1,
        status,
    }
}

fn release(grants: u32) -> Message {
    Message::Release {
        transfer: 1,
        grants,
    }
}

/// Answers a Get, or a Put, with these messages; the last is at fault.
async fn fault(put: bool, script: Vec<Message>, code: Code) {
    let pair = Pair::new(1, Faults::default());
    let (mut raw, client) = Raw::open(&pair).await;
    let told = format!("{script:?}");
    let asking = tokio::spawn({
        let client = client.clone();
        async move {
            match put {
                true => {
                    let mut expose = client.put(&blob(), 0).await?;
                    // More than there are slots: it waits for releases.
                    while expose.send(&[1; 100]).await.is_ok() {}
                    expose.finish().await.map(|_| ())
                }
                false => {
                    let mut pull = client.get(&blob(), 0..blob().size()).await?;
                    while let Some(step) = pull.next().await {
                        step?;
                    }
                    Ok(())
                }
            }
        }
    });
    assert!(matches!(
        raw.next().await,
        Some(Message::Get { .. } | Message::Put { .. })
    ));
    for message in script {
        raw.say(message).await;
    }
    assert_eq!(raw.closed().await, Some(code), "{told}");
    let error = client.freed().await;
    assert!(error.is_violation(), "{error:?} for {told}");
    assert_eq!(error.status().code, code, "{told}");
    // The transfer may have had an end of its own before.
    assert!(asking.await.unwrap().is_err(), "{told}");
    let after = client.get(&blob(), 0..1).await.unwrap_err();
    assert_eq!(after, TransferError::Session(error));
    until(|| client.free_slots() == FREED).await;
    drop(raw);
    pair.assert_clean();
}

#[test]
fn an_answer_to_a_get_that_cannot_be_ends_the_session() {
    in_virtual_time(async {
        let ok = || Status::ok(0);
        for (script, code) in [
            (vec![accepted(2)], Code::FailedPrecondition),
            (vec![accepted(1), accepted(1)], Code::FailedPrecondition),
            (vec![grant(0, 1)], Code::FailedPrecondition),
            (vec![end(ok())], Code::FailedPrecondition),
            (vec![accepted(1), end(ok())], Code::FailedPrecondition),
            (
                vec![accepted(1), grant(0, 4096), end(ok())],
                Code::FailedPrecondition,
            ),
            (vec![accepted(1), done(ok())], Code::FailedPrecondition),
            (vec![accepted(1), release(1)], Code::FailedPrecondition),
            (vec![accepted(1), grant(0, 4097)], Code::InvalidArgument),
            (vec![accepted(1), grant(9 * 4096, 1)], Code::InvalidArgument),
            (
                vec![accepted(1), grant(u64::MAX, 4096)],
                Code::InvalidArgument,
            ),
            (
                vec![accepted(1), grant(0, 4096), grant(0, 4096), grant(0, 4096)],
                Code::InvalidArgument,
            ),
            (
                vec![accepted(1), Message::Ready([0; NONCE_BYTES])],
                Code::FailedPrecondition,
            ),
        ] {
            fault(false, script, code).await;
        }
    });
}

#[test]
fn an_answer_to_a_put_that_cannot_be_ends_the_session() {
    in_virtual_time(async {
        let ok = || Status::ok(0);
        for script in [
            vec![done(ok())],
            vec![accepted(1), accepted(1)],
            vec![accepted(1), done(ok())],
            vec![accepted(1), release(u32::MAX)],
            vec![accepted(1), grant(0, 1)],
            vec![accepted(1), end(ok())],
            vec![release(1)],
        ] {
            fault(true, script, Code::FailedPrecondition).await;
        }
    });
}

#[test]
fn a_server_that_begins_wrongly_is_left() {
    in_virtual_time(async {
        type First = fn(&Raw) -> Message;
        let firsts: [First; 4] = [
            |_| Message::Ready([7; NONCE_BYTES]),
            |_| Message::Checked(Status::ok(0)),
            |_| accepted(1),
            |_| end(Status::cancelled()),
        ];
        for first in firsts {
            let pair = Pair::new(1, Faults::default());
            let (mut raw, connecting) = Raw::new(&pair);
            raw.say(first(&raw)).await;
            let error = connecting.await.unwrap().unwrap_err();
            assert!(matches!(error, SessionError::OutOfOrder(_)), "{error:?}");
            assert_eq!(raw.closed().await, Some(Code::FailedPrecondition));
            drop(raw);
            until(|| pair.network.endpoints() == 0).await;
            pair.assert_clean();
        }
        // One that has no room says so.
        let pair = Pair::new(1, Faults::default());
        let (raw, connecting) = Raw::new(&pair);
        let full = Status::new(Code::ResourceExhausted, "no room");
        raw.say(Message::Close(full.clone())).await;
        let error = connecting.await.unwrap().unwrap_err();
        assert_eq!(error, SessionError::Peer(full));
    });
}
