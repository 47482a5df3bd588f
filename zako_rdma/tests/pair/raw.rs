//! A client that says what it likes.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use zako_protobuf::rdma::{ClientMessage, ServerMessage, client_message};
use zako_rdma::fabric::{Access, Endpoint, EndpointOptions, Fabric, Work};
use zako_rdma::memory::{Slab, Slot};
use zako_rdma::session::{
    Client, Code, Control, Hello, Message, NONCE_BYTES, Role, ServerSession, SessionError,
    SessionOptions, Status, accept,
};

use super::{Pair, incoming, options};

/// The client's end, in the hands of a test.
pub(crate) struct Raw {
    pub(crate) outgoing: mpsc::Sender<ClientMessage>,
    pub(crate) incoming: mpsc::Receiver<ServerMessage>,
    pub(crate) hello: Hello,
    /// What the server said of itself.
    pub(crate) peer: Option<Hello>,
    endpoint: Box<dyn Endpoint>,
    slab: Arc<Slab>,
    nonce: Slot,
}

/// The server's end of a session that is being set up.
pub(crate) type Accepting = tokio::task::JoinHandle<Result<ServerSession, SessionError>>;

impl Raw {
    /// A client that has said nothing yet.
    pub(crate) fn new(pair: &Pair) -> (Self, Accepting) {
        Self::with(pair, options(), 4096)
    }

    /// One that can pull `grant_bytes` at once, of a server with other options.
    pub(crate) fn with(
        pair: &Pair,
        options: SessionOptions,
        grant_bytes: u32,
    ) -> (Self, Accepting) {
        let (outgoing, from_client) = mpsc::channel(4);
        let (to_client, from_server) = mpsc::channel(4);
        let control = Control::new(to_client, incoming(from_client));
        let fabric: Arc<dyn Fabric> = pair.far.clone();
        let budget = pair.far_budget.clone();
        let accepting =
            tokio::spawn(async move { accept(fabric, control, options, &budget).await });
        let mut endpoint = pair.near.endpoint(&EndpointOptions::default()).unwrap();
        let slab = Slab::new(9, 4096).unwrap();
        let mut nonce = slab.take().unwrap();
        nonce[..NONCE_BYTES].fill(7);
        let memory = endpoint.register(&slab, Access::Read).unwrap();
        let hello = Hello {
            address: endpoint.address(),
            memory,
            grant_bytes,
            transfers: 4,
        };
        let raw = Self {
            outgoing,
            incoming: from_server,
            hello,
            peer: None,
            endpoint,
            slab,
            nonce,
        };
        (raw, accepting)
    }

    /// A client with an open session.
    pub(crate) async fn open(pair: &Pair) -> (Self, ServerSession) {
        let (mut raw, accepting) = Self::new(pair);
        raw.shake().await;
        (raw, accepting.await.unwrap().unwrap())
    }

    /// As [`open`](Self::open), with what [`with`](Self::with) takes.
    pub(crate) async fn open_with(
        pair: &Pair,
        options: SessionOptions,
        grant_bytes: u32,
    ) -> (Self, ServerSession) {
        let (mut raw, accepting) = Self::with(pair, options, grant_bytes);
        raw.shake().await;
        (raw, accepting.await.unwrap().unwrap())
    }

    /// All of its memory behind the nonce's slot, which nothing can be read into any more.
    pub(crate) fn memory(&self) -> Slot {
        self.slab.take_run(8).unwrap()
    }

    pub(crate) async fn shake(&mut self) {
        self.say(Message::Hello(self.hello)).await;
        let Some(Message::Hello(peer)) = self.next().await else {
            panic!("no answer");
        };
        self.endpoint.connect(&peer.address).unwrap();
        self.peer = Some(peer);
        self.say(Message::Ready([7; NONCE_BYTES])).await;
        assert!(matches!(self.next().await, Some(Message::Ready(_))));
        self.say(Message::Checked(Status::ok(0))).await;
        assert_eq!(self.next().await, Some(Message::Checked(Status::ok(0))));
    }

    pub(crate) async fn say(&self, message: Message) {
        self.send(Client::write(message).unwrap()).await;
    }

    pub(crate) async fn send(&self, message: ClientMessage) {
        // A session that has ended hears nothing.
        let _gone = self.outgoing.send(message).await;
    }

    pub(crate) async fn wire(&self, message: client_message::Message) {
        self.send(ClientMessage {
            message: Some(message),
        })
        .await;
    }

    pub(crate) async fn next(&mut self) -> Option<Message> {
        let message = self.incoming.recv().await?;
        Some(Client::read(message).unwrap())
    }

    /// READs from the server's memory.
    pub(crate) async fn read(&mut self, offset: u64, length: u32) -> Vec<u8> {
        let memory = self.peer.unwrap().memory;
        let work = Work::Read {
            into: self.slab.take_run(length.div_ceil(4096) as usize).unwrap(),
            length,
            address: memory.part(offset, length.into()).unwrap(),
            key: memory.key,
        };
        self.endpoint.post(1, work).unwrap();
        let mut completions = Vec::new();
        while completions.is_empty() {
            poll_fn(|context| self.endpoint.poll_ready(context))
                .await
                .unwrap();
            self.endpoint.poll(&mut completions).unwrap();
        }
        assert_eq!(completions[0].outcome, Ok(length));
        completions[0].slot[..length as usize].to_vec()
    }

    /// What the server closes the session with.
    pub(crate) async fn closed(&mut self) -> Option<Code> {
        let limit = Duration::from_secs(60);
        while let Some(message) = timeout(limit, self.next()).await.expect("it ends") {
            if let Message::Close(status) = message {
                assert!(self.incoming.recv().await.is_none(), "its last message");
                return Some(status.code);
            }
        }
        None
    }
}
