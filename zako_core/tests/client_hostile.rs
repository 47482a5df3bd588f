//! A server that lies: what a client makes of it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};
use zako_core::cas::{Cas, CasExt, ErrorKind, Lease};
use zako_core::client::{Client, ClientOptions, RetryPolicy, ServerUrl};
use zako_core::{BlobRange, Digest};
use zako_digest::hash;
use zako_protobuf::batch::batch_server::{Batch, BatchServer};
use zako_protobuf::batch::{
    BatchDownloadRequest, BatchDownloadResponse, BatchUploadRequest, BatchUploadResponse,
    DownloadedBlob, Outcome,
};
use zako_protobuf::cas::content_addressable_storage_server::{
    ContentAddressableStorage, ContentAddressableStorageServer,
};
use zako_protobuf::cas::{
    GetTransportDetailsRequest, NegotiateBlobsRequest, NegotiateBlobsResponse, TransportDetails,
};
use zako_protobuf::net::{IpAddress, SocketAddress, ip_address::IpAddr};
use zako_protobuf::transport::transport_server::{Transport, TransportServer};
use zako_protobuf::transport::{
    DownloadRequest, DownloadResponse, UploadRequest, UploadResponse, upload_request::Payload,
};

/// What the server does wrong.
#[derive(Clone, Debug, PartialEq)]
enum Lie {
    None,
    WrongBytes,
    Short,
    Long,
    LongAfterEnd,
    StatusAfterAll,
    UnknownMissing,
    NoAnswer,
    FewOutcomes,
    WrongSize,
    HoldsTooMuch,
    Stall,
    /// Batches take longer than the client waits for a short answer.
    Slow,
}

#[derive(Clone)]
struct Liar {
    lie: Lie,
    data: Bytes,
    tokens: Arc<AtomicUsize>,
    /// Calls with bytes that are refused for want of a session.
    refusals: Arc<AtomicUsize>,
    /// Downloads that break off after their first message.
    breaks: Arc<AtomicUsize>,
    downloads: Arc<parking_lot::Mutex<Vec<u64>>>,
    /// What it says to hold of an upload.
    held: Arc<AtomicU64>,
    /// Where uploads began, and their bytes.
    uploads: Arc<parking_lot::Mutex<Vec<(u64, usize)>>>,
    /// The address that it names for the transport.
    named: Option<SocketAddr>,
}

const STEP: usize = 100_000;

/// A short time to wait for an answer.
const SHORT: Duration = Duration::from_secs(2);

impl Liar {
    fn new(lie: Lie, data: &[u8]) -> Self {
        Self {
            lie,
            data: Bytes::copy_from_slice(data),
            tokens: Arc::default(),
            refusals: Arc::default(),
            breaks: Arc::default(),
            downloads: Arc::default(),
            held: Arc::default(),
            uploads: Arc::default(),
            named: None,
        }
    }

    async fn serve(&self) -> ServerUrl {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = ServerUrl::from(listener.local_addr().unwrap());
        let server = tonic::transport::Server::builder()
            .add_service(TransportServer::new(self.clone()))
            .add_service(ContentAddressableStorageServer::new(self.clone()))
            .add_service(BatchServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        url
    }

    async fn slowly(&self) {
        if self.lie == Lie::Slow {
            tokio::time::sleep(4 * SHORT).await;
        }
    }

    async fn client(&self) -> Client {
        let mut options = ClientOptions::default();
        options.retry = RetryPolicy::new(3, Duration::from_millis(1), Duration::from_millis(5));
        Client::connect(&self.serve().await, options).await.unwrap()
    }
}

#[tonic::async_trait]
impl ContentAddressableStorage for Liar {
    type NegotiateBlobsStream = BoxStream<'static, Result<NegotiateBlobsResponse, Status>>;

    async fn negotiate_blobs(
        &self,
        request: Request<Streaming<NegotiateBlobsRequest>>,
    ) -> Result<Response<Self::NegotiateBlobsStream>, Status> {
        let lie = self.lie.clone();
        let answers = request.into_inner().map(move |batch| {
            batch.map(|_| NegotiateBlobsResponse {
                missing_blob_digests: match lie {
                    Lie::UnknownMissing => vec![hash::bytes(b"never asked for").into()],
                    _ => Vec::new(),
                },
            })
        });
        Ok(Response::new(match self.lie {
            Lie::NoAnswer => stream::empty().boxed(),
            _ => answers.boxed(),
        }))
    }

    async fn get_transport_details(
        &self,
        _: Request<GetTransportDetailsRequest>,
    ) -> Result<Response<TransportDetails>, Status> {
        let number = self.tokens.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(TransportDetails {
            auth_token: format!("token-{number}"),
            recommended_concurrency: 4,
            server_addr: self.named.map(|named| SocketAddress {
                ip: Some(IpAddress {
                    ip_addr: Some(IpAddr::V6(match named.ip() {
                        std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped().octets().to_vec().into(),
                        std::net::IpAddr::V6(ip) => ip.octets().to_vec().into(),
                    })),
                }),
                port: named.port().into(),
            }),
            ..TransportDetails::default()
        }))
    }
}

#[tonic::async_trait]
impl Transport for Liar {
    type DownloadStream = BoxStream<'static, Result<DownloadResponse, Status>>;

    async fn download(
        &self,
        request: Request<DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let metadata = request.into_inner().metadata.unwrap();
        let digest = Digest::try_from(metadata.digest.unwrap()).unwrap();
        if digest == Digest::EMPTY {
            return Ok(Response::new(stream::empty().boxed()));
        }
        if take_one(&self.refusals) {
            return Err(Status::unauthenticated("who are you"));
        }
        let range = BlobRange::from(metadata.range.unwrap()).resolve(self.data.len() as u64);
        let range = range.unwrap();
        self.downloads.lock().push(range.start);
        let mut data = self.data[range.start as usize..range.end as usize].to_vec();
        match self.lie {
            Lie::WrongBytes => *data.last_mut().unwrap() ^= 1,
            Lie::Short => data.truncate(data.len() - 1),
            Lie::Long => data.push(0),
            _ => {}
        }
        let mut steps: Vec<_> = data
            .chunks(STEP)
            .map(|data| {
                Ok(DownloadResponse {
                    data: Bytes::copy_from_slice(data),
                })
            })
            .collect();
        match self.lie {
            Lie::LongAfterEnd => steps.push(Ok(DownloadResponse {
                data: Bytes::from_static(b"more"),
            })),
            Lie::StatusAfterAll => steps.push(Err(Status::data_loss("damaged"))),
            _ => {}
        }
        if self.lie == Lie::Stall {
            steps.truncate(1);
            return Ok(Response::new(
                stream::iter(steps).chain(stream::pending()).boxed(),
            ));
        }
        if take_one(&self.breaks) {
            steps.truncate(1);
            steps.push(Err(Status::unavailable("going down")));
        }
        Ok(Response::new(stream::iter(steps).boxed()))
    }

    async fn upload(
        &self,
        request: Request<Streaming<UploadRequest>>,
    ) -> Result<Response<UploadResponse>, Status> {
        let mut messages = request.into_inner();
        let (mut size, mut start, mut chunks) = (0, 0, Vec::new());
        while let Some(message) = messages.message().await? {
            match message.payload.unwrap() {
                Payload::Metadata(metadata) => {
                    size = metadata.digest.unwrap().size_bytes;
                    start = metadata.range.unwrap().start;
                }
                Payload::Chunk(chunk) => chunks.extend_from_slice(&chunk),
            }
        }
        let mut committed_size = self.held.load(Ordering::SeqCst);
        if !chunks.is_empty() {
            self.uploads.lock().push((start, chunks.len()));
            if take_one(&self.refusals) {
                self.held.store(0, Ordering::SeqCst);
                return Err(Status::aborted("what was held is damaged"));
            }
            committed_size = size;
        }
        if self.lie == Lie::HoldsTooMuch {
            committed_size = u64::MAX;
        }
        Ok(Response::new(UploadResponse { committed_size }))
    }
}

#[tonic::async_trait]
impl Batch for Liar {
    async fn batch_upload(
        &self,
        request: Request<BatchUploadRequest>,
    ) -> Result<Response<BatchUploadResponse>, Status> {
        if take_one(&self.refusals) {
            return Err(Status::unauthenticated("who are you"));
        }
        self.slowly().await;
        let blobs = request.into_inner().blobs;
        let keep = match self.lie {
            Lie::FewOutcomes => blobs.len() - 1,
            _ => blobs.len(),
        };
        let outcomes = vec![Outcome::default(); keep];
        Ok(Response::new(BatchUploadResponse { outcomes }))
    }

    async fn batch_download(
        &self,
        request: Request<BatchDownloadRequest>,
    ) -> Result<Response<BatchDownloadResponse>, Status> {
        self.slowly().await;
        let digests = request.into_inner().digests;
        let mut data = self.data.to_vec();
        match self.lie {
            Lie::WrongBytes => data[0] ^= 1,
            Lie::WrongSize => data.push(0),
            _ => {}
        }
        let blob = DownloadedBlob {
            outcome: Some(Outcome::default()),
            data: data.into(),
        };
        let blobs = vec![blob; digests.len()];
        Ok(Response::new(BatchDownloadResponse { blobs }))
    }
}

fn take_one(count: &AtomicUsize) -> bool {
    count
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(1)
        })
        .is_ok()
}

fn large() -> Vec<u8> {
    (0..3_000_000u32).map(|n| (n % 251) as u8).collect()
}

#[tokio::test]
async fn an_honest_server_is_believed() {
    for data in [large(), b"small".to_vec()] {
        let liar = Liar::new(Lie::None, &data);
        let client = liar.client().await;
        let digest = hash::bytes(&data);
        assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
        let part = client.fetch(&digest, BlobRange::new(2, 3)).await.unwrap();
        assert_eq!(part.bytes().await.unwrap(), data[2..5]);
    }
}

#[tokio::test]
async fn lies_in_a_download_are_found_out() {
    for data in [large(), b"small".to_vec()] {
        let digest = hash::bytes(&data);
        for lie in [
            Lie::WrongBytes,
            Lie::Short,
            Lie::Long,
            Lie::LongAfterEnd,
            Lie::StatusAfterAll,
        ] {
            let client = Liar::new(lie.clone(), &data).client().await;
            let error = client.fetch_bytes(&digest).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{lie:?}: {error}");
        }
    }
}

#[tokio::test]
async fn of_a_wrong_blob_the_last_step_does_not_come() {
    let data = large();
    let client = Liar::new(Lie::WrongBytes, &data).client().await;
    let mut blob = client
        .fetch(&hash::bytes(&data), BlobRange::FULL)
        .await
        .unwrap();
    let mut came = 0;
    let error = loop {
        match blob.next().await.expect("the stream ends with an error") {
            Ok(step) => came += step.len(),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(came < data.len());
    assert!(blob.next().await.is_none());
}

#[tokio::test]
async fn lies_in_a_batch_are_found_out() {
    let data = b"small".to_vec();
    let digest = hash::bytes(&data);
    for lie in [Lie::WrongBytes, Lie::WrongSize] {
        let client = Liar::new(lie, &data).client().await;
        for outcome in client.fetch_batch(&[digest, digest]).await {
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
    let client = Liar::new(Lie::FewOutcomes, &data).client().await;
    let blobs = vec![(digest, Bytes::from(data)); 2];
    for outcome in client.put_batch(blobs).await {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Internal);
    }
}

#[tokio::test]
async fn a_batch_has_the_time_that_its_bytes_take() {
    // At 16 KiB a second: a minute.
    let data = vec![7; 250_000];
    let digest = hash::bytes(&data);
    let liar = Liar::new(Lie::Slow, &data);
    let mut options = ClientOptions::default();
    options.call_timeout = SHORT;
    let client = Client::connect(&liar.serve().await, options).await.unwrap();
    let blobs = vec![(digest, Bytes::from(data.clone())); 4];
    for outcome in client.put_batch(blobs).await {
        outcome.unwrap();
    }
    for outcome in client.fetch_batch(&[digest; 4]).await {
        assert_eq!(outcome.unwrap(), data);
    }
}

#[tokio::test]
async fn of_a_small_blob_no_frames_are_kept() {
    let data = vec![7; 2 * STEP + 1];
    let liar = Liar::new(Lie::None, &data);
    let client = liar.client().await;
    let mut blob = client
        .fetch(&hash::bytes(&data), BlobRange::FULL)
        .await
        .unwrap();
    assert_eq!(blob.next().await.unwrap().unwrap(), data);
    assert!(blob.next().await.is_none());
}

#[tokio::test]
async fn lies_in_negotiation_are_found_out() {
    let digests = [hash::bytes(b"a"), hash::bytes(b"b")];
    let client = Liar::new(Lie::UnknownMissing, b"").client().await;
    let error = client.missing(&digests, Lease::Default).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    let client = Liar::new(Lie::NoAnswer, b"").client().await;
    let error = client.missing(&digests, Lease::Default).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_server_can_not_hold_more_than_there_is() {
    let client = Liar::new(Lie::HoldsTooMuch, b"").client().await;
    let error = client.held(&hash::bytes(b"abc")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
}

#[tokio::test]
async fn an_upload_begins_again_when_what_was_held_is_damaged() {
    let data = large();
    let liar = Liar::new(Lie::None, &data);
    let client = liar.client().await;
    liar.held.store(1_000_000, Ordering::SeqCst);
    liar.refusals.store(1, Ordering::SeqCst);
    let digest = hash::bytes(&data);
    let length = data.len();
    client.put(&digest, data.into()).await.unwrap();
    let uploads = liar.uploads.lock().clone();
    assert_eq!(uploads, [(1_000_000, length - 1_000_000), (0, length)]);
}

#[tokio::test]
async fn a_refused_token_is_negotiated_again_once() {
    let data = b"small".to_vec();
    let liar = Liar::new(Lie::None, &data);
    let client = liar.client().await;
    assert_eq!(liar.tokens.load(Ordering::SeqCst), 1);
    liar.refusals.store(1, Ordering::SeqCst);
    let digest = hash::bytes(&data);
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
    assert_eq!(liar.tokens.load(Ordering::SeqCst), 2);
    liar.refusals.store(1, Ordering::SeqCst);
    client.put(&digest, data.into()).await.unwrap();
    assert_eq!(liar.tokens.load(Ordering::SeqCst), 3);
    liar.refusals.store(usize::MAX, Ordering::SeqCst);
    let error = client.fetch_bytes(&digest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert_eq!(liar.tokens.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_download_that_breaks_goes_on_from_the_next_byte() {
    let data = large();
    let liar = Liar::new(Lie::None, &data);
    let client = liar.client().await;
    // More often than a call may fail in a row: each time it got further.
    liar.breaks.store(10, Ordering::SeqCst);
    let digest = hash::bytes(&data);
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
    let starts: Vec<u64> = (0..=10).map(|n| n * STEP as u64).collect();
    assert_eq!(*liar.downloads.lock(), starts);
}

#[tokio::test]
async fn a_download_that_gets_no_further_ends() {
    let data = b"small".to_vec();
    let liar = Liar::new(Lie::None, &data);
    let client = liar.client().await;
    liar.breaks.store(usize::MAX, Ordering::SeqCst);
    // All bytes come each time, and what the server says afterwards counts for
    // nothing: they are the blob's.
    let digest = hash::bytes(&data);
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
    let starts = liar.downloads.lock().clone();
    assert_eq!(starts, [0]);
}

#[tokio::test]
async fn a_server_that_falls_silent_is_not_waited_for_forever() {
    let data = large();
    let url = Liar::new(Lie::Stall, &data).serve().await;
    let mut options = ClientOptions::default();
    options.idle_timeout = Duration::from_millis(50);
    let client = Client::connect(&url, options).await.unwrap();
    let error = client.fetch_bytes(&hash::bytes(&data)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn bytes_move_at_the_address_that_the_server_names() {
    let data = b"small".to_vec();
    let digest = hash::bytes(&data);
    let there = Liar::new(Lie::None, &data);
    let url = there.serve().await.to_string();
    let mut here = Liar::new(Lie::WrongBytes, &data);
    here.named = Some(url["http://".len()..].parse().unwrap());
    let client = here.client().await;
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
    assert_eq!(*there.downloads.lock(), [0]);
    assert_eq!(here.tokens.load(Ordering::SeqCst), 1);
    assert_eq!(there.tokens.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_address_that_does_not_work_from_here_is_done_without() {
    let data = b"small".to_vec();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut liar = Liar::new(Lie::None, &data);
    liar.named = Some(free.local_addr().unwrap());
    drop(free);
    let client = liar.client().await;
    let digest = hash::bytes(&data);
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
    assert_eq!(*liar.downloads.lock(), [0]);
}

#[tokio::test]
async fn who_does_not_speak_grpc_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = ServerUrl::from(listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
        }
    });
    let error = Client::connect(&url, ClientOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = ServerUrl::from(free.local_addr().unwrap());
    drop(free);
    let error = Client::connect(&url, ClientOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(&url.to_string()), "{error}");
}
