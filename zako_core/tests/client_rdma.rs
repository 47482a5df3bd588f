//! Blobs of a client take RDMA where the server offers it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod rdma_support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use rdma_support::{Joined, ROOM, Running, noise, options, pass, quick, until};
use zako_core::BlobRange;
use zako_core::cas::{Cas, CasError, CasExt, ErrorKind, Stored};
use zako_core::client::{Client, RdmaState, TransportChoice};
use zako_core::store::MemoryStore;
use zako_digest::hash;
use zako_rdma::soft::{Faults, SoftNetwork};

const THRESHOLD: usize = 64 << 10;

#[tokio::test]
async fn blobs_of_all_sizes_go_both_ways_and_large_ones_over_rdma() {
    let joined = Joined::new(Faults::default()).await;
    let client = joined.client().await;
    assert_eq!(client.transport(), "rdma");
    assert_eq!(client.roads().rdma_state, RdmaState::Ready);
    let sizes = [0, 1, 1000, THRESHOLD - 1, THRESHOLD, THRESHOLD + 1, 200_000];
    let larger = [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 8 << 20];
    for (seed, size) in sizes.into_iter().chain(larger).enumerate() {
        let before = client.roads();
        let data = noise(seed as u64, size);
        let (digest, stored) = client.put_bytes(data.clone()).await.unwrap();
        assert_eq!(stored, Stored::New, "{size}");
        let again = client.put(&digest, data.clone()).await.unwrap();
        assert_eq!(again, Stored::Existing, "{size}");
        assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data, "{size}");
        let after = client.roads();
        let (used, unused) = match size >= THRESHOLD {
            true => ((&before.rdma, &after.rdma), (&before.grpc, &after.grpc)),
            false => ((&before.grpc, &after.grpc), (&before.rdma, &after.rdma)),
        };
        assert_eq!(unused.0, unused.1, "{size} bytes took the wrong road");
        let received = used.1.received_bytes - used.0.received_bytes;
        assert_eq!(received, size as u64);
        assert!(used.1.sent_bytes - used.0.sent_bytes >= size as u64);
        assert!(used.1.transfers >= used.0.transfers + 2, "{size}");
    }
    let roads = client.roads();
    assert_eq!((roads.fallbacks, roads.rdma_state), (0, RdmaState::Open));
    assert_eq!(joined.pinned().await.0, 1, "one session for all");
}

#[tokio::test]
async fn parts_and_batches_take_the_road_that_their_size_asks_for() {
    let joined = Joined::new(Faults::default()).await;
    let client = joined.client().await;
    let data = noise(1, 1 << 20);
    let (digest, _) = client.put_bytes(data.clone()).await.unwrap();
    let sent = client.roads();
    for (start, length) in [(0, THRESHOLD), (1, 700_000), (5, 100), (1 << 20, 0)] {
        let range = BlobRange::new(start, length as u64);
        let part = client.fetch(&digest, range).await.unwrap();
        let part = part.bytes().await.unwrap();
        let start = start as usize;
        assert_eq!(part, data[start..start + length], "{start} and {length}");
    }
    let roads = client.roads();
    assert_eq!(roads.rdma.received_bytes, THRESHOLD as u64 + 700_000);
    assert_eq!(roads.grpc.received_bytes, 100);

    let blobs: Vec<_> = [10, THRESHOLD, 20, 300_000, THRESHOLD - 1, THRESHOLD * 2]
        .into_iter()
        .map(|size| noise(size as u64, size))
        .map(|data| (hash::bytes(&data), data))
        .collect();
    let stored = client.put_batch(blobs.clone()).await;
    assert!(stored.into_iter().all(|one| one.unwrap() == Stored::New));
    let digests: Vec<_> = blobs.iter().map(|(digest, _)| *digest).collect();
    for (fetched, (_, data)) in client.fetch_batch(&digests).await.iter().zip(&blobs) {
        assert_eq!(fetched.as_ref().unwrap(), data);
    }
    let large = (3 * THRESHOLD + 300_000) as u64;
    let roads = client.roads();
    assert_eq!(roads.rdma.sent_bytes - sent.rdma.sent_bytes, large);
    assert_eq!(roads.grpc.sent_bytes, 30 + THRESHOLD as u64 - 1);
}

#[tokio::test]
async fn many_at_once_share_one_session() {
    let joined = Joined::new(Faults::default()).await;
    let client = joined.client().await;
    let tasks: Vec<_> = (0..40)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move {
                let data = noise(n, 100_000 + 10_000 * n as usize);
                let (digest, _) = client.put_bytes(data.clone()).await.unwrap();
                assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
                data.len() as u64
            })
        })
        .collect();
    let mut bytes = 0;
    for task in tasks {
        bytes += task.await.unwrap();
    }
    let roads = client.roads();
    assert_eq!((roads.rdma.transfers, roads.fallbacks), (80, 0));
    assert_eq!(roads.rdma.received_bytes, bytes);
    assert_eq!(roads.rdma.sent_bytes, bytes);
    assert_eq!(joined.pinned().await.0, 1);
}

#[tokio::test]
async fn what_the_server_answers_is_no_failure_of_the_road() {
    let joined = Joined::new(Faults::default()).await;
    let client = joined.client().await;
    let absent = hash::bytes(&noise(1, 300_000));
    let error = client.fetch_bytes(&absent).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.digest()),
        (ErrorKind::NotFound, Some(absent))
    );
    let text = error.to_string();
    assert_eq!(text.matches("blob").count(), 2, "the digest once: {text}");
    let mut writer = client.writer(&absent, 0).await.unwrap();
    writer.write(Bytes::from(vec![1; 300_000])).await.unwrap();
    let error = writer.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    assert_eq!(client.held(&absent).await.unwrap(), 0);
    let roads = client.roads();
    assert_eq!((roads.fallbacks, roads.rdma_state), (0, RdmaState::Open));
    assert!(roads.rdma.sent_bytes >= 300_000);
}

#[tokio::test]
async fn a_store_without_room_says_so() {
    let store = Arc::new(MemoryStore::new(1 << 20));
    let joined = Joined::of(store, Faults::default()).await;
    let mut options = options();
    options.retry = zako_core::client::RetryPolicy::NEVER;
    let client = joined.client_with(options).await.unwrap();
    let error = client.put_bytes(noise(1, 4 << 20)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert_eq!(client.transport(), "rdma", "it is not for the road");
}

#[tokio::test]
async fn interrupted_uploads_go_on() {
    let joined = Joined::new(Faults::default()).await;
    let client = joined.client().await;
    let data = noise(1, 3 << 20);
    let digest = hash::bytes(&data);
    let mut writer = client.writer(&digest, 0).await.unwrap();
    writer.write(data.slice(..1_000_001)).await.unwrap();
    assert_eq!(writer.park().await.unwrap(), 1_000_001);
    let mut writer = client.writer(&digest, 1_000_001).await.unwrap();
    writer
        .write(data.slice(1_000_001..2_000_000))
        .await
        .unwrap();
    drop(writer);
    until("a dropped upload is parked", async || {
        client.held(&digest).await.unwrap() == 2_000_000
    })
    .await;
    let sent = client.roads().rdma.sent_bytes;
    assert_eq!(sent, 2_000_000);
    let rest = |offset: u64| {
        let step = Ok::<_, CasError>(data.slice(offset as usize..));
        futures::stream::iter([step])
    };
    assert_eq!(client.store_from(&digest, rest).await.unwrap(), Stored::New);
    assert_eq!(client.roads().rdma.sent_bytes, data.len() as u64);
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);

    let data = noise(2, 3 << 20);
    let digest = hash::bytes(&data);
    let mut writer = client.writer(&digest, 0).await.unwrap();
    writer.write(data.slice(..1_000_001)).await.unwrap();
    writer.discard().await.unwrap();
    assert_eq!(client.held(&digest).await.unwrap(), 0);
    assert_eq!(client.roads().grpc.sent_bytes, 0);
}

#[tokio::test]
async fn a_cancelled_transfer_leaves_its_slots_to_others() {
    let joined = Joined::new(Faults::default()).await;
    let client = joined.client().await;
    let data = noise(1, 4 << 20);
    let (digest, _) = client.put_bytes(data.clone()).await.unwrap();
    let other = hash::bytes(&noise(2, 1 << 20));
    for n in 0..60 {
        let mut blob = client.fetch(&digest, BlobRange::FULL).await.unwrap();
        for _ in 0..n % 4 {
            blob.next().await.unwrap().unwrap();
        }
        drop(blob);
        let get = client.fetch(&digest, BlobRange::FULL);
        let late = tokio::time::timeout(Duration::from_micros(n * 10), get).await;
        drop(late);
        let mut writer = client.writer(&other, 0).await.unwrap();
        let write = writer.write(Bytes::from(vec![7; 1 << 20]));
        let late = tokio::time::timeout(Duration::from_micros(n * 10), write).await;
        drop((late, writer));
    }
    let received = client.roads().rdma.received_bytes;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.fetch_bytes(&digest).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), data);
    }
    let roads = client.roads();
    assert_eq!(roads.rdma.received_bytes - received, 8 * (4 << 20));
    assert_eq!((roads.fallbacks, joined.pinned().await.0), (0, 1));
}

#[tokio::test]
async fn a_client_that_is_gone_leaves_nothing_pinned() {
    let joined = Joined::new(Faults::default()).await;
    let client = joined.client().await;
    let (digest, _) = client.put_bytes(noise(1, 1 << 20)).await.unwrap();
    let blob = client.fetch(&digest, BlobRange::FULL).await.unwrap();
    drop(client);
    assert_eq!(joined.pinned().await.0, 1, "a blob is open on it");
    assert!(joined.pinned().await.1 > 0 && joined.network.registered() > 0);
    drop(blob);
    until("nothing is pinned", async || {
        joined.pinned().await == (0, 0) && joined.network.registered() == 0
    })
    .await;
    assert_eq!(joined.network.endpoints(), 0);
}

#[tokio::test]
async fn an_idle_session_is_closed_and_another_opened_when_needed() {
    let joined = Joined::new(Faults::default()).await;
    let mut options = options();
    options.rdma.idle_timeout = Some(Duration::from_secs(30));
    let client = joined.client_with(options).await.unwrap();
    let data = noise(1, 1 << 20);
    let (digest, _) = client.put_bytes(data.clone()).await.unwrap();
    assert_eq!(client.roads().rdma_state, RdmaState::Open);
    pass(Duration::from_secs(40)).await;
    until("the session is closed", async || {
        client.roads().rdma_state == RdmaState::Ready && joined.network.registered() == 0
    })
    .await;
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
    let roads = client.roads();
    assert_eq!((roads.fallbacks, roads.rdma_state), (0, RdmaState::Open));
    assert_eq!(roads.grpc.received_bytes, 0);
}

#[tokio::test]
async fn a_server_without_rdma_is_served_by_grpc() {
    let server = Running::tcp(Arc::new(MemoryStore::new(ROOM))).await;
    let fabric = SoftNetwork::new(1, Faults::default()).fabric();
    let client = Client::connect_over(&server.url, options(), fabric.clone());
    let client = client.await.unwrap();
    assert_eq!(client.transport(), "grpc");
    let data = noise(1, 1 << 20);
    let (digest, _) = client.put_bytes(data.clone()).await.unwrap();
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
    let roads = client.roads();
    assert_eq!(
        (roads.fallbacks, roads.rdma_state),
        (0, RdmaState::NotOffered)
    );

    let mut strict = options();
    strict.transport = TransportChoice::Rdma;
    let error = Client::connect_over(&server.url, strict, fabric).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("no RDMA"), "{error}");
}

#[tokio::test]
async fn who_has_no_fabric_or_wants_grpc_gets_it() {
    let joined = Joined::new(Faults::default()).await;
    let mut grpc = options();
    grpc.transport = TransportChoice::Grpc;
    let told = joined.client_with(grpc).await.unwrap();
    let without = Client::connect(&joined.server.url, quick()).await.unwrap();
    for (seed, client) in [told, without].into_iter().enumerate() {
        assert_eq!(client.transport(), "grpc");
        let data = noise(seed as u64, 1 << 20);
        client.put_bytes(data).await.unwrap();
        let roads = client.roads();
        assert_eq!(roads.rdma_state, RdmaState::Off);
        assert_eq!((roads.grpc.transfers, roads.grpc.sent_bytes), (1, 1 << 20));
    }
    let mut strict = quick();
    strict.transport = TransportChoice::Rdma;
    let error = Client::connect(&joined.server.url, strict).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_budget_that_is_too_small_is_said_and_costs_nothing_but_rdma() {
    let faults = Faults {
        memory_limit: 100 << 10,
        ..Faults::default()
    };
    let joined = Joined::new(faults).await;
    let client = joined.client().await;
    let data = noise(1, 1 << 20);
    let (digest, _) = client.put_bytes(data.clone()).await.unwrap();
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
    let roads = client.roads();
    assert_eq!((roads.rdma.sent_bytes, roads.fallbacks), (0, 1));
    assert!(matches!(roads.rdma_state, RdmaState::HeldOff { .. }));
}
