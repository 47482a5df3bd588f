//! Clients of all kinds that go on and on, and count what they did. Any error is the test's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use zako_core::Digest;
use zako_core::cas::{Cas, CasExt, Lease};
use zako_core::client::{Client, ClientOptions};
use zako_protobuf::cas::GetTransportDetailsRequest;
use zako_protobuf::cas::content_addressable_storage_client::ContentAddressableStorageClient;
use zako_reapi::digest::DigestFunction;
use zako_reapi::proto::reapi::FindMissingBlobsRequest;
use zako_reapi::proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient as RemoteClient;

use crate::server_process::noise;

/// What clients do, each kind for as long as the load goes on.
const KINDS: [&str; 7] = [
    "small puts and gets",
    "large puts and gets",
    "questions",
    "a new client",
    "raw gRPC",
    "Remote Execution API",
    "HTTP",
];

/// Clients at work.
pub(crate) struct Load {
    clients: JoinSet<()>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    done: [AtomicU64; KINDS.len()],
    over: AtomicBool,
}

/// Larger than what goes in a batch, and than what a record holds.
const LARGE: usize = 3 << 20;

impl Load {
    pub(crate) fn start(grpc: SocketAddr, http: SocketAddr) -> Self {
        let shared = Arc::<Shared>::default();
        let mut clients = JoinSet::new();
        clients.spawn(small(Arc::clone(&shared), grpc));
        clients.spawn(large(Arc::clone(&shared), grpc));
        clients.spawn(questions(Arc::clone(&shared), grpc));
        clients.spawn(new_clients(Arc::clone(&shared), grpc));
        clients.spawn(raw_calls(Arc::clone(&shared), grpc));
        clients.spawn(remote_execution(Arc::clone(&shared), grpc));
        clients.spawn(requests(Arc::clone(&shared), http));
        Self { clients, shared }
    }

    /// Waits until each kind of client has done so much more.
    pub(crate) async fn goes_on(&self, calls: u64) {
        let wanted = self.shared.counts().map(|count| count + calls);
        loop {
            let counts = self.shared.counts();
            let behind = counts
                .iter()
                .zip(&wanted)
                .any(|(count, wanted)| count < wanted);
            if !behind || self.shared.over.load(Ordering::Relaxed) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends the load; none of its calls may have failed.
    pub(crate) async fn end(mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
    }
}

impl Shared {
    fn counts(&self) -> [u64; KINDS.len()] {
        self.done
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed))
    }

    /// Whether to go on, after one more of a kind.
    fn go_on(&self, kind: &str) -> bool {
        let at = KINDS.iter().position(|one| *one == kind).unwrap();
        self.done[at].fetch_add(1, Ordering::Relaxed);
        !self.over.load(Ordering::Relaxed)
    }
}

/// Ends the waiting of the test when its task ends too early, as by a failed assertion.
struct Whole(Arc<Shared>);

impl Drop for Whole {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

async fn client(grpc: SocketAddr) -> Client {
    let url = format!("http://{grpc}").parse().unwrap();
    let mut options = ClientOptions::default();
    // On a slow machine the last server may take a while to end.
    options.connect_timeout = Duration::from_secs(300);
    Client::connect(&url, options).await.unwrap()
}

async fn put_and_get(client: &Client, data: Bytes) {
    let digest = zako_digest::hash::bytes(&data);
    client.put(&digest, data.clone()).await.unwrap();
    assert!(client.fetch_bytes(&digest).await.unwrap() == data);
}

async fn small(shared: Arc<Shared>, grpc: SocketAddr) {
    let _whole = Whole(Arc::clone(&shared));
    let client = client(grpc).await;
    for seed in 0.. {
        put_and_get(&client, noise(seed, 9_000)).await;
        if !shared.go_on("small puts and gets") {
            return;
        }
    }
}

async fn large(shared: Arc<Shared>, grpc: SocketAddr) {
    let _whole = Whole(Arc::clone(&shared));
    let client = client(grpc).await;
    for seed in 0.. {
        put_and_get(&client, noise(1 << 40 | seed, LARGE)).await;
        if !shared.go_on("large puts and gets") {
            return;
        }
    }
}

async fn questions(shared: Arc<Shared>, grpc: SocketAddr) {
    let _whole = Whole(Arc::clone(&shared));
    let client = client(grpc).await;
    let known = noise(7, 100);
    let there = zako_digest::hash::bytes(&known);
    client.put(&there, known).await.unwrap();
    for seed in 0.. {
        let absent = zako_digest::hash::bytes(&noise(1 << 41 | seed, 50));
        let missing: Vec<Digest> = client
            .missing(&[there, absent], Lease::Default)
            .await
            .unwrap();
        assert_eq!(missing, [absent]);
        if !shared.go_on("questions") {
            return;
        }
    }
}

async fn new_clients(shared: Arc<Shared>, grpc: SocketAddr) {
    let _whole = Whole(Arc::clone(&shared));
    for seed in 0.. {
        let client = client(grpc).await;
        put_and_get(&client, noise(1 << 42 | seed, 20_000)).await;
        if !shared.go_on("a new client") {
            return;
        }
    }
}

/// Between two calls that are given a token and don't redeem it: however fast the machine,
/// fewer of those are outstanding than may be.
const PAUSE: Duration = Duration::from_millis(10);

/// A connection for each call, as of a stock client that tries nothing again.
async fn channel(grpc: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{grpc}")).unwrap();
    endpoint.connect().await.unwrap()
}

async fn raw_calls(shared: Arc<Shared>, grpc: SocketAddr) {
    let _whole = Whole(Arc::clone(&shared));
    loop {
        let mut client = ContentAddressableStorageClient::new(channel(grpc).await);
        let request = GetTransportDetailsRequest {
            // gRPC.
            supported_protocols: vec![0],
            ..GetTransportDetailsRequest::default()
        };
        client.get_transport_details(request).await.unwrap();
        if !shared.go_on("raw gRPC") {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn remote_execution(shared: Arc<Shared>, grpc: SocketAddr) {
    let _whole = Whole(Arc::clone(&shared));
    let digest = DigestFunction::Sha256.digest(b"absent");
    loop {
        let mut client = RemoteClient::new(channel(grpc).await);
        let request = FindMissingBlobsRequest {
            blob_digests: vec![digest.to_wire()],
            ..FindMissingBlobsRequest::default()
        };
        let answer = client.find_missing_blobs(request).await.unwrap();
        assert_eq!(answer.into_inner().missing_blob_digests.len(), 1);
        if !shared.go_on("Remote Execution API") {
            return;
        }
    }
}

/// A connection for each request.
async fn requests(shared: Arc<Shared>, http: SocketAddr) {
    let _whole = Whole(Arc::clone(&shared));
    for seed in 0.. {
        let data = noise(1 << 43 | seed, 30_000);
        let hash = zako_digest::hash::bytes(&data).hash().to_string();
        let path = format!("/cas/blake3/{hash}");
        let put = format!(
            "PUT {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
            data.len()
        );
        let answer = ask(http, &[put.as_bytes(), &data].concat()).await;
        assert!(
            answer.starts_with(b"HTTP/1.1 20"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        let answer = ask(
            http,
            format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes(),
        )
        .await;
        assert!(
            answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        assert!(answer.ends_with(&data));
        if !shared.go_on("HTTP") {
            return;
        }
    }
}

/// What is answered, up to the length that its head says.
async fn ask(http: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(http).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let lower = head.to_ascii_lowercase();
            let length = lower.split_once("content-length: ");
            let length = length.map_or("0", |(_, rest)| rest.lines().next().unwrap());
            let whole = head.len() + 4 + length.trim().parse::<usize>().unwrap();
            if answer.len() >= whole {
                return answer;
            }
        }
        let count = stream.read_buf(&mut answer).await.unwrap();
        assert_ne!(
            count,
            0,
            "closed after {:?}",
            String::from_utf8_lossy(&answer)
        );
    }
}
