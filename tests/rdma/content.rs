//! Blobs, and clients that move them.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use zako_core::cas::{Blob, Cas, Maintain, VerifyScope};
use zako_core::client::{
    Client, ClientOptions, RdmaState, RetryPolicy, ServerStatus, TransportChoice,
};
use zako_core::{BlobRange, Digest};
use zako_digest::hash;

use crate::device;

pub(crate) const KIB: usize = 1 << 10;
pub(crate) const MIB: usize = 1 << 20;

/// After this, something that has to come never will. Emulated machines are slow.
const PATIENCE: Duration = Duration::from_secs(90);

/// A blob of bytes that differ from place to place and from seed to seed. Cheap to make,
/// since nothing is optimised here and the machine may be emulated.
pub(crate) fn blob(length: usize, seed: u64) -> (Digest, Bytes) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let block: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .take(8 * KIB)
    .flatten()
    .collect();
    let mut bytes = BytesMut::with_capacity(length);
    while bytes.len() < length {
        let at = bytes.len();
        bytes.extend_from_slice(&block[..block.len().min(length - at)]);
        if bytes.len() >= at + 8 {
            bytes[at..at + 8].copy_from_slice(&(at as u64).to_le_bytes());
        }
    }
    let bytes = bytes.freeze();
    (hash::bytes(&bytes), bytes)
}

/// Small blobs go over RDMA, too; what fails in passing is tried for long.
pub(crate) fn options(transport: TransportChoice) -> ClientOptions {
    let mut options = ClientOptions::default();
    options.rdma_from_bytes = 1;
    options.transport = transport;
    // For a machine that is slow; servers have their own.
    options.rdma.check_timeout = Duration::from_secs(30);
    options.rdma.endpoint.timeout = 18;
    options.retry = RetryPolicy::new(60, Duration::from_millis(50), Duration::from_millis(500));
    options
}

/// A client whose session over RDMA is open, and which has moved nothing that counts.
pub(crate) async fn client(address: &str, transport: TransportChoice) -> Client {
    client_with(address, options(transport)).await
}

/// As [`client`], with these options. Where the machine is so busy that a session can't be
/// set up in its time, it is tried again.
pub(crate) async fn client_with(address: &str, options: ClientOptions) -> Client {
    // On a machine that is merely slow, nothing is lost yet.
    let absent = blob(options.rdma_from_bytes as usize, u64::MAX).0;
    let mut last = None;
    for _ in 0..20 {
        let client = fresh_client(address, options.clone()).await;
        let error = match client.fetch(&absent, BlobRange::FULL).await {
            Err(error) => error,
            Ok(_) => panic!("the server has a blob that nobody gave it"),
        };
        let roads = client.roads();
        if roads.rdma_state == RdmaState::Open && roads.fallbacks == 0 {
            assert!(error.is_not_found(), "{error}");
            return client;
        }
        println!("       no session yet: {error}; {:?}", roads.rdma_state);
        last = Some(error);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("no session: {last:?}");
}

/// A client with a card that has not used it.
pub(crate) async fn fresh_client(address: &str, options: ClientOptions) -> Client {
    let url = format!("http://{address}").parse().unwrap();
    Client::connect_over(&url, options, device::near())
        .await
        .unwrap()
}

/// A client without one.
pub(crate) async fn plain_client(address: &str) -> Client {
    let url = format!("http://{address}").parse().unwrap();
    Client::connect(&url, options(TransportChoice::Grpc))
        .await
        .unwrap()
}

pub(crate) async fn status(address: &str) -> ServerStatus {
    plain_client(address).await.status().await.unwrap()
}

/// Waits until the server's sessions are gone and all they had pinned.
pub(crate) async fn freed(address: &str) {
    let client = plain_client(address).await;
    until("the end of all sessions", async || {
        let status = client.status().await.unwrap();
        (status.rdma_sessions, status.rdma_pinned_bytes) == (0, 0)
    })
    .await;
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !so().await {
        assert!(tokio::time::Instant::now() < end, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn open(client: &Client, digest: &Digest) -> Blob {
    client.fetch(digest, BlobRange::FULL).await.unwrap()
}

/// Takes at least so many bytes of a blob.
pub(crate) async fn take(blob: &mut Blob, bytes: usize, into: &mut BytesMut) {
    let enough = into.len() + bytes;
    while into.len() < enough {
        into.extend_from_slice(&blob.next().await.unwrap().unwrap());
    }
}

/// Fetches a blob, which is the one.
pub(crate) async fn get(client: &Client, digest: &Digest, expected: &[u8]) {
    let mut blob = open(client, digest).await;
    let mut place = 0;
    while let Some(step) = blob.next().await {
        let step = step.unwrap();
        assert!(expected[place..place + step.len()] == step, "at {place}");
        place += step.len();
    }
    assert_eq!(place, expected.len());
}

/// Nothing in the store is damaged, and so many blobs are there.
pub(crate) async fn sound(address: &str, blobs: u64) {
    let client = plain_client(address).await;
    let (progress, _reports) = tokio::sync::mpsc::channel(1);
    let report = client.verify(VerifyScope::All, progress).await.unwrap();
    assert_eq!((report.blobs_checked, report.blobs_total), (blobs, blobs));
    assert!(report.corrupt.is_empty() && report.unreadable.is_empty());
}

/// Why RDMA is held off. If that is over, it is tried until it fails again.
pub(crate) async fn held_off(client: &Client) -> String {
    let absent = blob(1, u64::MAX).0;
    let mut reason = String::new();
    until("a failure that is remembered", async || {
        if let RdmaState::HeldOff { reason: why, .. } = client.roads().rdma_state {
            reason = why;
            return true;
        }
        let error = client.fetch(&absent, BlobRange::FULL).await.unwrap_err();
        assert!(error.is_not_found(), "{error}");
        false
    })
    .await;
    reason
}

pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}
