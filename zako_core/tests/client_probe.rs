//! Probes of RDMA by a client of a server, over a fabric in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod wire_harness;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use wire_harness::{MapCas, Running, until};
use zako_core::cas::ErrorKind;
use zako_core::client::{Client, ClientOptions, ProbeError, ServerUrl};
use zako_core::server::{RdmaOptions, ServerOptions};
use zako_protobuf::cas::GetTransportDetailsRequest;
use zako_protobuf::cas::content_addressable_storage_client::ContentAddressableStorageClient;
use zako_protobuf::rdma::probe_client::ProbeClient;
use zako_protobuf::rdma::{ProbeFill, ProbeRequest, ProbeResponse, probe_request};
use zako_rdma::probe::{ProbeOptions, ProbeReport, Road};
use zako_rdma::session::SessionError;
use zako_rdma::soft::{Faults, SoftNetwork};

/// A server and a network that joins it with its clients.
struct Fixture {
    server: Running,
    network: SoftNetwork,
}

impl Fixture {
    async fn new(faults: Faults) -> Self {
        Self::with("127.0.0.0/8", faults, |_| {}).await
    }

    async fn with(trusted: &str, faults: Faults, change: impl FnOnce(&mut RdmaOptions)) -> Self {
        let network = SoftNetwork::new(1, faults);
        let mut rdma = RdmaOptions::new(network.fabric(), vec![trusted.parse().unwrap()]);
        change(&mut rdma);
        let cas = Arc::new(MapCas::default());
        Self {
            server: Running::with_rdma(cas, ServerOptions::default(), rdma).await,
            network,
        }
    }

    async fn client(&self) -> Client {
        let url: ServerUrl = format!("http://{}", self.server.addr).parse().unwrap();
        let options = ClientOptions::default();
        Client::connect(&url, options).await.unwrap()
    }

    async fn probe(&self, client: &Client) -> Result<ProbeReport, ProbeError> {
        let options = ProbeOptions {
            sizes: vec![64, 40_000],
            rounds: 10,
            ..ProbeOptions::default()
        };
        let fabric = self.network.fabric();
        client.probe_rdma(fabric, &options, |_| {}).await
    }

    async fn channel(&self) -> Channel {
        let endpoint = Endpoint::try_from(format!("http://{}", self.server.addr)).unwrap();
        endpoint.connect().await.unwrap()
    }

    async fn freed(&self) {
        let client = self.client().await;
        for _ in 0..3000 {
            let status = client.status().await.unwrap();
            if (status.rdma_sessions, status.rdma_pinned_bytes) == (0, 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("memory stays pinned");
    }
}

async fn open(
    channel: &Channel,
    token: Option<&str>,
    messages: mpsc::Receiver<ProbeRequest>,
) -> Result<Streaming<ProbeResponse>, Status> {
    let mut request = Request::new(ReceiverStream::new(messages));
    if let Some(token) = token {
        let metadata = request.metadata_mut();
        metadata.insert("zako-token", token.parse().unwrap());
    }
    let mut client = ProbeClient::new(channel.clone());
    Ok(client.run(request).await?.into_inner())
}

async fn token(channel: &Channel) -> String {
    let mut cas = ContentAddressableStorageClient::new(channel.clone());
    let details = cas.get_transport_details(GetTransportDetailsRequest {
        supported_protocols: vec![0],
        scope: 0,
    });
    details.await.unwrap().into_inner().auth_token
}

#[tokio::test]
async fn both_roads_are_measured_and_verified_and_nothing_is_left() {
    let fixture = Fixture::new(Faults::default()).await;
    let client = fixture.client().await;
    for _ in 0..2 {
        let report = fixture.probe(&client).await.unwrap();
        assert_eq!(report.measured.len(), 3 * 2 * 2);
        for measured in &report.measured {
            assert!(measured.is_right(), "{measured:?}");
            assert_eq!(measured.rounds, 20);
        }
        fixture.freed().await;
    }
    until("the endpoints are gone", || {
        fixture.network.endpoints() == 0
    })
    .await;
    assert_eq!(fixture.network.registered(), 0);
    assert_eq!(client.status().await.unwrap().usage.blobs, 0);
}

#[tokio::test]
async fn a_fabric_that_spoils_bytes_is_found_out() {
    let fixture = Fixture::new(Faults {
        corrupt: 10..u64::MAX,
        ..Faults::default()
    })
    .await;
    let report = fixture.probe(&fixture.client().await).await.unwrap();
    let wrong = |road| {
        let rows = report.measured.iter().filter(|row| row.road == road);
        rows.map(|row| row.wrong).sum::<u64>()
    };
    // Echoes are spoiled on both ways, and so as they were.
    assert_eq!(wrong(Road::Rdma), 80);
    assert_eq!(wrong(Road::Grpc), 0);
}

#[tokio::test]
async fn who_may_have_no_session_may_have_no_probe() {
    let untrusting = Fixture::with("10.0.0.0/8", Faults::default(), |_| {}).await;
    let refused = untrusting.probe(&untrusting.client().await).await;
    let Err(ProbeError::Refused(error)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("127.0.0.1"), "{error}");

    let full = Fixture::with("127.0.0.0/8", Faults::default(), |rdma| {
        rdma.limits.sessions = 0;
    })
    .await;
    let refused = full.probe(&full.client().await).await;
    let Err(ProbeError::Refused(error)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(error.kind(), ErrorKind::NoSpace);

    let fixture = Fixture::new(Faults::default()).await;
    let channel = fixture.channel().await;
    for token in [None, Some("nonsense")] {
        let (_outgoing, messages) = mpsc::channel(1);
        let refused = open(&channel, token, messages).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
}

#[tokio::test]
async fn a_server_without_rdma_says_so() {
    let server = Running::start(ServerOptions::default()).await;
    let url = format!("http://{}", server.addr).parse().unwrap();
    let client = Client::connect(&url, ClientOptions::default())
        .await
        .unwrap();
    let fabric = SoftNetwork::new(1, Faults::default()).fabric();
    let options = ProbeOptions::default();
    let refused = client.probe_rdma(fabric, &options, |_| {}).await;
    let Err(ProbeError::Refused(error)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("no RDMA"), "{error}");
}

#[tokio::test]
async fn packets_that_do_not_arrive_are_told_apart() {
    let fixture = Fixture::new(Faults::default()).await;
    fixture.network.cut();
    let failed = fixture.probe(&fixture.client().await).await;
    let Err(ProbeError::Rdma(error)) = failed else {
        panic!("{failed:?}");
    };
    assert!(
        matches!(error, SessionError::Unreachable(_) | SessionError::Peer(_)),
        "{error:?}"
    );
    fixture.freed().await;
}

#[tokio::test]
async fn a_connection_has_one_probe_at_once() {
    let fixture = Fixture::new(Faults::default()).await;
    let channel = fixture.channel().await;
    let token = token(&channel).await;
    let (first, messages) = mpsc::channel(1);
    let mut answers = open(&channel, Some(&token), messages).await.unwrap();
    let (_second, messages) = mpsc::channel(1);
    let refused = open(&channel, Some(&token), messages).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    // Others may, meanwhile.
    fixture.probe(&fixture.client().await).await.unwrap();
    // The first one breaks a rule, and is over.
    let fill = ProbeFill { seed: 1, length: 1 };
    let message = Some(probe_request::Message::Fill(fill));
    first.send(ProbeRequest { message }).await.unwrap();
    let broken = loop {
        match answers.next().await.unwrap() {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(broken.code(), Code::FailedPrecondition);
    let (third, messages) = mpsc::channel(1);
    let again = open(&channel, Some(&token), messages).await;
    assert!(again.is_ok(), "{:?}", again.err());
    drop(third);
    fixture.freed().await;
}

#[tokio::test]
async fn a_stopping_server_ends_probes() {
    let mut fixture = Fixture::new(Faults::default()).await;
    let channel = fixture.channel().await;
    let token = token(&channel).await;
    let (_first, messages) = mpsc::channel(1);
    let mut answers = open(&channel, Some(&token), messages).await.unwrap();
    fixture.server.stop();
    while let Some(answer) = answers.next().await {
        answer.unwrap();
    }
    drop(channel);
    fixture.server.ended().await;
}
