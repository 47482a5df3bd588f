//! RDMA sessions with a server, over a fabric in memory: a generated client's control
//! stream, and `zako_rdma`'s end of a session behind it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod wire_harness;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use wire_harness::{MapCas, Running, pattern, until};
use zako_core::Digest;
use zako_core::cas::{Cas, CasExt};
use zako_core::server::{ListenAddr, RdmaOptions, Server, ServerOptions};
use zako_core::store::{LocalStore, StoreOptions};
use zako_digest::hash;
use zako_protobuf::cas::content_addressable_storage_client::ContentAddressableStorageClient;
use zako_protobuf::cas::{GetTransportDetailsRequest, TransportDetails};
use zako_protobuf::rdma::rdma_client::RdmaClient;
use zako_protobuf::rdma::{ClientMessage, Get, client_message};
use zako_protobuf::store::StatusRequest;
use zako_protobuf::store::store_client::StoreClient;
use zako_rdma::session::{
    self, Budget, BudgetLimits, ClientSession, Control, SessionError, SessionOptions, TransferError,
};
use zako_rdma::soft::{Faults, SoftNetwork};

const GRPC: i32 = 0;
const RDMA: i32 = 1;

/// A server and a network that joins it with its clients.
struct Fixture {
    server: Running,
    network: SoftNetwork,
}

impl Fixture {
    async fn new() -> Self {
        Self::trusting("127.0.0.0/8", ServerOptions::default()).await
    }

    async fn trusting(network: &str, options: ServerOptions) -> Self {
        Self::with(network, options, small()).await
    }

    async fn with(network: &str, options: ServerOptions, session: SessionOptions) -> Self {
        let soft = SoftNetwork::new(1, Faults::default());
        let mut rdma = RdmaOptions::new(soft.fabric(), vec![network.parse().unwrap()]);
        rdma.limits.sessions = 2;
        rdma.session = session;
        Self {
            server: Running::with_rdma(Arc::new(MapCas::default()), options, rdma).await,
            network: soft,
        }
    }

    async fn channel(&self) -> Channel {
        let endpoint = Endpoint::try_from(format!("http://{}", self.server.addr)).unwrap();
        endpoint.connect().await.unwrap()
    }

    async fn session(&self, scope: i32) -> ClientSession {
        let channel = self.channel().await;
        let token = details(&channel, &[RDMA, GRPC], scope)
            .await
            .unwrap()
            .auth_token;
        self.session_on(channel, &token).await.unwrap()
    }

    async fn session_on(
        &self,
        channel: Channel,
        token: &str,
    ) -> Result<ClientSession, SessionError> {
        connect(&self.network, channel, token).await
    }

    /// What the server's sessions take.
    async fn pinned(&self) -> (u64, u64) {
        let mut store = StoreClient::new(self.channel().await);
        let status = store.status(StatusRequest {}).await.unwrap().into_inner();
        (status.rdma_sessions, status.rdma_pinned_bytes)
    }

    async fn freed(&self) {
        for _ in 0..3000 {
            if self.pinned().await == (0, 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("memory stays pinned: {:?}", self.pinned().await);
    }
}

fn small() -> SessionOptions {
    SessionOptions {
        slot_bytes: 16 << 10,
        exposed_slots: 8,
        pull_slots: 8,
        lent_slots: 8,
        ..SessionOptions::default()
    }
}

async fn details(
    channel: &Channel,
    protocols: &[i32],
    scope: i32,
) -> Result<TransportDetails, Status> {
    let request = GetTransportDetailsRequest {
        supported_protocols: protocols.to_vec(),
        scope,
    };
    let mut cas = ContentAddressableStorageClient::new(channel.clone());
    Ok(cas.get_transport_details(request).await?.into_inner())
}

async fn open(
    channel: Channel,
    token: &str,
    messages: mpsc::Receiver<ClientMessage>,
) -> Result<tonic::Streaming<zako_protobuf::rdma::ServerMessage>, Status> {
    let mut request = Request::new(ReceiverStream::new(messages));
    if !token.is_empty() {
        let metadata = request.metadata_mut();
        metadata.insert("zako-token", token.parse().unwrap());
    }
    Ok(RdmaClient::new(channel)
        .session(request)
        .await?
        .into_inner())
}

async fn connect(
    network: &SoftNetwork,
    channel: Channel,
    token: &str,
) -> Result<ClientSession, SessionError> {
    let (outgoing, messages) = mpsc::channel(8);
    let answers = open(channel, token, messages).await;
    let answers = answers.map_err(|status| SessionError::ControlLost(status.to_string()))?;
    let budget = Budget::new(BudgetLimits::default());
    let control = Control::new(outgoing, answers);
    session::connect(network.fabric(), control, small(), &budget).await
}

async fn get(session: &ClientSession, digest: &Digest) -> Result<Bytes, TransferError> {
    let mut pull = session.get(digest, 0..digest.size()).await?;
    let mut data = BytesMut::new();
    while let Some(piece) = pull.next().await {
        data.extend_from_slice(&piece?);
    }
    Ok(data.freeze())
}

async fn put(session: &ClientSession, digest: &Digest, data: &[u8]) -> Result<u64, TransferError> {
    let mut expose = session.put(digest, 0).await?;
    expose.send(data).await?;
    expose.finish().await
}

fn code(error: &TransferError) -> session::Code {
    error.status().code
}

#[tokio::test]
async fn blobs_of_all_sizes_go_both_ways() {
    let fixture = Fixture::new().await;
    let session = fixture.session(0).await;
    for size in [
        0,
        1,
        16 << 10,
        (1 << 20) - 1,
        1 << 20,
        (1 << 20) + 1,
        5 << 20,
    ] {
        let data = pattern(size);
        let digest = hash::bytes(&data);
        assert_eq!(put(&session, &digest, &data).await.unwrap(), size as u64);
        assert_eq!(fixture.server.cas.fetch_bytes(&digest).await.unwrap(), data);
        assert!(
            get(&session, &digest).await.unwrap() == data,
            "{size} bytes"
        );
        let again = put(&session, &digest, &data).await.unwrap_err();
        assert_eq!(code(&again), session::Code::AlreadyExists);
        assert_eq!(again.status().held, size as u64);
    }
    let absent = hash::bytes(b"absent");
    let error = get(&session, &absent).await.unwrap_err();
    assert_eq!(code(&error), session::Code::NotFound);
    session.close();
    fixture.freed().await;
}

#[tokio::test]
async fn blobs_on_disk_are_read_into_what_the_client_pulls_from() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::open(folder.path(), StoreOptions::default())
        .await
        .unwrap();
    let network = SoftNetwork::new(1, Faults::default());
    let mut rdma = RdmaOptions::new(network.fabric(), vec!["127.0.0.1".parse().unwrap()]);
    rdma.session = small();
    let server = Server::new(Arc::new(store.clone()), ServerOptions::default()).with_rdma(rdma);
    let any = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
    let bound = server.bind(&any).await.unwrap();
    let url = format!("http://{}", bound.local_addr());
    tokio::spawn(bound.serve(std::future::pending()));
    let channel = Endpoint::try_from(url).unwrap().connect().await.unwrap();
    let token = details(&channel, &[RDMA], 0).await.unwrap().auth_token;
    let session = connect(&network, channel, &token).await.unwrap();
    for size in [100, (3 << 20) + 5] {
        let data = pattern(size);
        let digest = hash::bytes(&data);
        assert_eq!(put(&session, &digest, &data).await.unwrap(), size as u64);
        // The first read hashes; the next ones come from the file as it is.
        for _ in 0..3 {
            assert!(get(&session, &digest).await.unwrap() == data);
        }
        let range = 17..size as u64 - 20;
        let mut pull = session.get(&digest, range.clone()).await.unwrap();
        let mut came = Vec::new();
        while let Some(piece) = pull.next().await {
            came.extend_from_slice(&piece.unwrap());
        }
        assert!(came == data[17..size - 20]);
    }
}

#[tokio::test]
async fn wrong_bytes_are_not_stored() {
    let fixture = Fixture::new().await;
    let session = fixture.session(0).await;
    for size in [1000, 3 << 20] {
        let digest = hash::bytes(&pattern(size));
        let error = put(&session, &digest, &vec![7; size]).await.unwrap_err();
        assert_eq!(code(&error), session::Code::InvalidArgument);
        assert!(!fixture.server.cas.contains(&digest).await.unwrap());
    }
    // The session goes on.
    let data = pattern(100);
    put(&session, &hash::bytes(&data), &data).await.unwrap();
}

#[tokio::test]
async fn a_lost_session_leaves_what_came_to_be_gone_on_with() {
    let fixture = Fixture::new().await;
    let data = pattern(4 << 20);
    let digest = hash::bytes(&data);
    let session = fixture.session(0).await;
    let mut expose = session.put(&digest, 0).await.unwrap();
    expose.send(&data[..2 << 20]).await.unwrap();
    session.close();
    assert!(expose.send(&data[2 << 20..]).await.is_err());
    fixture.freed().await;
    let held = fixture.server.cas.held(&digest).await.unwrap();
    assert!(held > 0, "nothing was kept");
    let session = fixture.session(0).await;
    let too_far = session.put(&digest, held + 1).await.unwrap_err();
    assert_eq!(code(&too_far), session::Code::InvalidArgument);
    assert_eq!(too_far.status().held, held);
    let mut expose = session.put(&digest, held).await.unwrap();
    expose.send(&data[held as usize..]).await.unwrap();
    assert_eq!(expose.finish().await.unwrap(), digest.size());
    assert!(fixture.server.cas.fetch_bytes(&digest).await.unwrap() == data);
}

#[tokio::test]
async fn only_trusted_peers_are_offered_it() {
    let trusted = Fixture::new().await;
    let details_of = async |fixture: &Fixture, protocols: &[i32]| {
        details(&fixture.channel().await, protocols, 0).await
    };
    let told = details_of(&trusted, &[GRPC, RDMA, 77]).await.unwrap();
    assert_eq!((told.protocol, told.fallbacks), (RDMA, vec![GRPC]));
    let told = details_of(&trusted, &[GRPC]).await.unwrap();
    assert_eq!((told.protocol, told.fallbacks), (GRPC, vec![]));
    let told = details_of(&trusted, &[RDMA]).await.unwrap();
    assert_eq!((told.protocol, told.fallbacks), (RDMA, vec![]));

    let other = Fixture::trusting("10.0.0.0/8", ServerOptions::default()).await;
    let told = details_of(&other, &[RDMA, GRPC]).await.unwrap();
    assert_eq!((told.protocol, told.fallbacks), (GRPC, vec![]));
    let refused = details_of(&other, &[RDMA]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("127.0.0.1"), "{refused}");
    let channel = other.channel().await;
    let token = told.auth_token;
    let (_outgoing, messages) = mpsc::channel(1);
    let refused = open(channel, &token, messages).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_session_needs_a_token_and_is_held_to_its_scope() {
    let fixture = Fixture::new().await;
    for token in ["", "nonsense"] {
        let (_outgoing, messages) = mpsc::channel(1);
        let refused = open(fixture.channel().await, token, messages)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
    let data = pattern(1000);
    let digest = hash::bytes(&data);
    let writer = fixture.session(2).await;
    put(&writer, &digest, &data).await.unwrap();
    let refused = get(&writer, &digest).await.unwrap_err();
    assert_eq!(code(&refused), session::Code::PermissionDenied);
    let reader = fixture.session(1).await;
    assert_eq!(get(&reader, &digest).await.unwrap(), data);
    let other = hash::bytes(b"other");
    let refused = put(&reader, &other, b"other").await.unwrap_err();
    assert_eq!(code(&refused), session::Code::PermissionDenied);
}

#[tokio::test]
async fn a_broken_rule_ends_its_own_session_only() {
    let fixture = Fixture::new().await;
    let good = fixture.session(0).await;
    let data = pattern(100_000);
    let digest = hash::bytes(&data);
    put(&good, &digest, &data).await.unwrap();
    let early = Get {
        transfer: 1,
        digest: Some(digest.into()),
        range: Some(Default::default()),
    };
    for (message, expected) in [
        (
            client_message::Message::Get(early),
            Code::FailedPrecondition,
        ),
        (
            client_message::Message::Offer(Default::default()),
            // Version 0 is spoken nowhere.
            Code::FailedPrecondition,
        ),
        (
            client_message::Message::Offer(zako_protobuf::rdma::Endpoint {
                version: 1,
                ..Default::default()
            }),
            Code::InvalidArgument,
        ),
    ] {
        let channel = fixture.channel().await;
        let token = details(&channel, &[RDMA], 0).await.unwrap().auth_token;
        let (outgoing, messages) = mpsc::channel(1);
        let mut answers = open(channel, &token, messages).await.unwrap();
        let message = Some(message);
        outgoing.send(ClientMessage { message }).await.unwrap();
        let error = loop {
            match answers.next().await {
                Some(Ok(_)) => {}
                Some(Err(status)) => break status,
                None => panic!("a proper end"),
            }
        };
        assert_eq!(error.code(), expected, "{error}");
    }
    assert!(get(&good, &digest).await.unwrap() == data);
}

#[tokio::test]
async fn sessions_are_capped_and_what_is_left_is_freed() {
    let fixture = Fixture::new().await;
    let first = fixture.session(0).await;
    let second = fixture.session(0).await;
    assert_eq!(fixture.pinned().await.0, 2);
    let channel = fixture.channel().await;
    let told = details(&channel, &[RDMA, GRPC], 0).await.unwrap();
    assert_eq!(told.protocol, GRPC, "there is no room for a third");
    let third = fixture.session_on(channel, &told.auth_token).await;
    assert!(third.is_err());
    // One goes without a word, one properly.
    drop(first);
    second.close();
    fixture.freed().await;
    until("the server's endpoints are gone", || {
        fixture.network.endpoints() == 0
    })
    .await;
    fixture.session(0).await;
}

#[tokio::test]
async fn a_session_that_rests_for_too_long_is_closed() {
    let session = SessionOptions {
        // Long for the transfer, on a machine that is busy.
        idle_timeout: Some(Duration::from_secs(3)),
        read_timeout: Duration::from_secs(3),
        ..small()
    };
    let fixture = Fixture::with("127.0.0.1", ServerOptions::default(), session).await;
    let session = fixture.session(0).await;
    let data = pattern(100_000);
    put(&session, &hash::bytes(&data), &data).await.unwrap();
    session.ended().await;
    fixture.freed().await;
    let standard = RdmaOptions::new(fixture.network.fabric(), Vec::new());
    assert!(standard.session.idle_timeout.is_some());
}

#[tokio::test]
async fn a_download_that_nobody_takes_is_given_up_and_its_session_goes_on() {
    // Long for the download in the end, on a machine that is busy.
    let idle = Duration::from_secs(3);
    let mut options = ServerOptions::default();
    options.download_idle_timeout = idle;
    let fixture = Fixture::trusting("127.0.0.1", options).await;
    let data = pattern(4 << 20);
    let digest = hash::bytes(&data);
    fixture.server.cas.put(&digest, data.clone()).await.unwrap();
    let session = fixture.session(0).await;
    let mut pull = session.get(&digest, 0..digest.size()).await.unwrap();
    // Nobody takes what is pulled, so no slot gets free until the server gives it up.
    tokio::time::sleep(2 * idle).await;
    let error = loop {
        match pull.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("it came whole"),
        }
    };
    assert_eq!(code(&error), session::Code::DeadlineExceeded);
    assert!(get(&session, &digest).await.unwrap() == data);
}

#[tokio::test]
async fn a_stopping_server_ends_what_rests_and_lets_transfers_end() {
    let mut fixture = Fixture::new().await;
    let data = pattern(1 << 20);
    let digest = hash::bytes(&data);
    fixture.server.cas.put(&digest, data.clone()).await.unwrap();
    let resting = fixture.session(0).await;
    let busy = fixture.session(0).await;
    let mut pull = busy.get(&digest, 0..digest.size()).await.unwrap();
    fixture.server.stop();
    assert_eq!(resting.ended().await, SessionError::Closed);
    let mut came = 0;
    while let Some(piece) = pull.next().await {
        came += piece.unwrap().len();
    }
    assert_eq!(came, data.len());
    drop(pull);
    assert_eq!(busy.ended().await, SessionError::Closed);
    fixture.server.ended().await;
}
