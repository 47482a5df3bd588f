//! A client that says what it likes, over gRPC and on a queue pair of its own.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint as Http};
use tonic::{Request, Streaming};
use zako_protobuf::cas::GetTransportDetailsRequest;
use zako_protobuf::cas::content_addressable_storage_client::ContentAddressableStorageClient;
use zako_protobuf::rdma::rdma_client::RdmaClient;
use zako_protobuf::rdma::{ClientMessage, ServerMessage};
use zako_rdma::fabric::{Access, Completion, Endpoint, EndpointOptions, Work};
use zako_rdma::memory::{Slab, Slot};
use zako_rdma::session::{Client, Hello, Message, NONCE_BYTES, Role, Status};

use crate::device;

/// The client's end of a session, in the hands of a test.
pub(crate) struct Raw {
    outgoing: mpsc::Sender<ClientMessage>,
    answers: Streaming<ServerMessage>,
    /// What it says of itself, true until a test changes it.
    pub(crate) hello: Hello,
    /// What the server said of itself.
    pub(crate) server: Option<Hello>,
    /// None when it is gone, with its memory.
    endpoint: Option<Box<dyn Endpoint>>,
    pub(crate) slab: Arc<Slab>,
    _nonce: Slot,
}

const RDMA: i32 = 1;
pub(crate) const SLOT: usize = 64 << 10;
const SLOTS: u32 = 8;
const NONCE: [u8; NONCE_BYTES] = [7; NONCE_BYTES];

/// After this, an answer that has to come never will.
const PATIENCE: Duration = Duration::from_secs(60);

impl Raw {
    /// A client with a control stream that has said nothing yet.
    pub(crate) async fn new(address: &str) -> Self {
        let url = format!("http://{address}");
        let channel = Http::try_from(url).unwrap().connect().await.unwrap();
        let (outgoing, messages) = mpsc::channel(64);
        let mut request = Request::new(ReceiverStream::new(messages));
        let token = token(&channel).await.parse().unwrap();
        request.metadata_mut().insert("zako-token", token);
        let answers = RdmaClient::new(channel).session(request).await;

        let mut endpoint = device::near()
            .endpoint(&EndpointOptions::default())
            .unwrap();
        let slab = Slab::new(SLOTS, SLOT).unwrap();
        let mut nonce = slab.take().unwrap();
        nonce[..NONCE_BYTES].copy_from_slice(&NONCE);
        let memory = endpoint.register(&slab, Access::Read).unwrap();
        Self {
            outgoing,
            answers: answers.unwrap().into_inner(),
            hello: Hello {
                address: endpoint.address(),
                memory,
                grant_bytes: SLOT as u32,
                transfers: 4,
            },
            server: None,
            endpoint: Some(endpoint),
            slab,
            _nonce: nonce,
        }
    }

    /// A client with an open session.
    pub(crate) async fn open(address: &str) -> Self {
        let mut raw = Self::new(address).await;
        raw.shake().await;
        raw
    }

    /// Sets the session up with what it says of itself.
    pub(crate) async fn shake(&mut self) {
        self.offer(NONCE).await;
        let checked = self.next().await;
        assert_eq!(checked, Some(Message::Checked(Status::ok(0))));
    }

    /// Sets the session up until the server has to check.
    pub(crate) async fn offer(&mut self, nonce: [u8; NONCE_BYTES]) {
        self.say(Message::Hello(self.hello)).await;
        let Some(Message::Hello(server)) = self.next().await else {
            panic!("no answer");
        };
        self.server = Some(server);
        self.endpoint().connect(&server.address).unwrap();
        self.say(Message::Ready(nonce)).await;
        assert!(matches!(self.next().await, Some(Message::Ready(_))));
        self.say(Message::Checked(Status::ok(0))).await;
    }

    pub(crate) async fn say(&self, message: Message) {
        // A session that has ended hears nothing.
        let _gone = self.outgoing.send(Client::write(message).unwrap()).await;
    }

    /// The next message, `None` when the session has ended.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        let answer = timeout(PATIENCE, self.answers.message()).await;
        let message = answer.expect("an answer").ok()??;
        Some(Client::read(message).unwrap())
    }

    /// What the server ends the session with.
    pub(crate) async fn end(&mut self) -> Status {
        let mut last = None;
        while let Some(message) = self.next().await {
            last = Some(message);
        }
        match last {
            Some(Message::Close(status)) => status,
            last => panic!("it ends without a close: {last:?}"),
        }
    }

    /// The completion of work on the server's memory.
    pub(crate) async fn done(&mut self, work: Work) -> Completion {
        let endpoint = self.endpoint();
        endpoint.post(1, work).unwrap();
        let mut completions = Vec::new();
        let completed = async {
            while completions.is_empty() {
                let ready = poll_fn(|context| endpoint.poll_ready(context));
                ready.await.unwrap();
                endpoint.poll(&mut completions).unwrap();
            }
        };
        timeout(PATIENCE, completed).await.expect("a completion");
        completions.pop().unwrap()
    }

    /// Deregisters its memory and destroys its queue pair, and says nothing of it.
    pub(crate) fn unplug(&mut self) {
        self.endpoint = None;
    }

    fn endpoint(&mut self) -> &mut dyn Endpoint {
        &mut **self.endpoint.as_mut().unwrap()
    }
}

/// A token for RDMA.
async fn token(channel: &Channel) -> String {
    let request = GetTransportDetailsRequest {
        supported_protocols: vec![RDMA],
        ..Default::default()
    };
    let mut cas = ContentAddressableStorageClient::new(channel.clone());
    let details = cas
        .get_transport_details(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(details.protocol, RDMA);
    details.auth_token
}
