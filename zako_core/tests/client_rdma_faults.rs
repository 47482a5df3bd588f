//! RDMA that fails costs no byte and no blob: it goes on by gRPC, or is refused where
//! nothing else may be used.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod flaky;
mod rdma_support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use flaky::Flaky;
use futures::StreamExt;
use rdma_support::{
    HOLD_OFF, Joined, ROOM, Running, is_held_off, noise, options, pass, session, until,
};
use zako_core::BlobRange;
use zako_core::cas::{Cas, CasExt, ErrorKind, Stored};
use zako_core::client::{Client, ClientOptions, RdmaState, TransportChoice};
use zako_core::server::{RdmaOptions, Server, ServerOptions};
use zako_core::store::MemoryStore;
use zako_digest::hash;
use zako_rdma::soft::Faults;

const SIZE: usize = 2 << 20;

/// Joined to a store, with the link cut before work of this number: 0 and 1 are the checks
/// of the first session.
async fn cut_at(store: &Arc<MemoryStore>, work: u64) -> Joined {
    let faults = Faults {
        cut_at: Some(work),
        ..Faults::default()
    };
    Joined::of(store.clone(), faults).await
}

/// Options of a session that notices a cut soon.
fn hasty() -> ClientOptions {
    let mut options = options();
    options.rdma.endpoint.timeout = 8;
    options
}

async fn stored(store: &MemoryStore, seed: u64) -> (zako_core::Digest, Bytes) {
    let data = noise(seed, SIZE);
    let (digest, _) = store.put_bytes(data.clone()).await.unwrap();
    (digest, data)
}

#[tokio::test]
async fn a_download_goes_on_by_grpc_wherever_the_link_is_cut() {
    let store = Arc::new(MemoryStore::new(ROOM));
    let (digest, data) = stored(&store, 1).await;
    let mut in_the_middle = 0;
    for work in 0..40 {
        let joined = cut_at(&store, work).await;
        let client = joined.client_with(hasty()).await.unwrap();
        let bytes = client.fetch_bytes(&digest).await.unwrap();
        assert_eq!(bytes, data, "cut before work {work}");
        let roads = client.roads();
        let (rdma, grpc) = (roads.rdma.received_bytes, roads.grpc.received_bytes);
        // Nothing is lost, and nothing comes twice.
        assert_eq!(rdma + grpc, SIZE as u64, "cut before work {work}");
        let whole = work >= 2 + (SIZE / session().slot_bytes) as u64;
        assert_eq!(roads.fallbacks, u64::from(!whole), "cut before work {work}");
        assert_eq!(is_held_off(&client), !whole);
        assert_eq!(client.transport(), if whole { "rdma" } else { "grpc" });
        in_the_middle += usize::from(rdma > 0 && grpc > 0);
    }
    assert!(in_the_middle > 20, "{in_the_middle}");
}

#[tokio::test]
async fn an_upload_goes_on_by_grpc_from_what_the_server_holds() {
    let data = noise(2, SIZE);
    let digest = hash::bytes(&data);
    let mut saved = 0;
    for work in (0..40).step_by(3) {
        let store = Arc::new(MemoryStore::new(ROOM));
        let joined = cut_at(&store, work).await;
        let client = joined.client_with(hasty()).await.unwrap();
        let stored = client.put(&digest, data.clone()).await.unwrap();
        assert_eq!(stored, Stored::New, "cut before work {work}");
        assert_eq!(store.fetch_bytes(&digest).await.unwrap(), data);
        let roads = client.roads();
        let whole = work >= 2 + (SIZE / session().slot_bytes) as u64;
        assert_eq!(roads.fallbacks, u64::from(!whole), "cut before work {work}");
        assert_eq!(is_held_off(&client), !whole);
        // What the server read over RDMA before is not sent again.
        let read = work.saturating_sub(2) * session().slot_bytes as u64;
        let again = roads.grpc.sent_bytes + read;
        assert!(whole || again >= SIZE as u64, "cut before work {work}");
        if !whole && roads.grpc.sent_bytes < SIZE as u64 {
            saved += 1;
        }
    }
    assert!(saved >= 8, "{saved}");
}

#[tokio::test]
async fn rdma_is_held_off_for_a_while_after_a_failure_and_then_tried_again() {
    let store = Arc::new(MemoryStore::new(ROOM));
    let (digest, data) = stored(&store, 3).await;
    let joined = cut_at(&store, 10).await;
    let client = joined.client_with(hasty()).await.unwrap();
    let fetch = async || assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
    fetch().await;
    let held_off = |client: &Client| match client.roads().rdma_state {
        RdmaState::HeldOff { reason, retry_in } => (reason, retry_in),
        other => panic!("{other:?}"),
    };
    let (reason, retry_in) = held_off(&client);
    assert!(reason.contains("RDMA failed"), "{reason}");
    assert!(retry_in <= HOLD_OFF, "{retry_in:?}");
    let before = client.roads();
    fetch().await;
    let after = client.roads();
    assert_eq!((after.rdma, after.fallbacks), (before.rdma, 1));

    // Still cut: found out while a session is set up, and held off for twice as long.
    pass(HOLD_OFF).await;
    assert_eq!(client.transport(), "rdma");
    fetch().await;
    let (reason, retry_in) = held_off(&client);
    assert!(retry_in > HOLD_OFF, "{retry_in:?}");
    assert!(reason.contains("can't be read"), "{reason}");
    assert_eq!(client.roads().fallbacks, 2);

    joined.network.heal();
    pass(2 * HOLD_OFF).await;
    let before = client.roads();
    fetch().await;
    let after = client.roads();
    assert_eq!(after.grpc, before.grpc);
    assert_eq!(after.rdma_state, RdmaState::Open);
    assert_eq!(after.fallbacks, 2);
}

#[tokio::test]
async fn many_transfers_of_a_session_that_fails_all_come_through() {
    let store = Arc::new(MemoryStore::new(ROOM));
    let mut blobs = Vec::new();
    for seed in 0..12 {
        blobs.push(stored(&store, 100 + seed).await);
    }
    let joined = cut_at(&store, 50).await;
    let client = joined.client_with(hasty()).await.unwrap();
    let tasks: Vec<_> = blobs
        .into_iter()
        .map(|(digest, data)| {
            let client = client.clone();
            tokio::spawn(async move {
                assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
                let data = noise(data[0].into(), SIZE);
                client.put_bytes(data).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let RdmaState::HeldOff { retry_in, .. } = client.roads().rdma_state else {
        panic!("{:?}", client.roads());
    };
    assert!(retry_in <= HOLD_OFF, "it failed once");
    assert!(client.roads().rdma.received_bytes > 0);
    until("nothing is pinned", async || joined.pinned().await.0 == 0).await;
}

#[tokio::test]
async fn where_only_rdma_may_be_used_its_failure_is_the_transfers() {
    let store = Arc::new(MemoryStore::new(ROOM));
    let (digest, _) = stored(&store, 4).await;
    let joined = cut_at(&store, 10).await;
    let mut options = hasty();
    options.transport = TransportChoice::Rdma;
    let client = joined.client_with(options).await.unwrap();
    for _ in 0..2 {
        let error = client.fetch_bytes(&digest).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("no RDMA"), "{error}");
        let error = client.put_bytes(noise(5, SIZE)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
    // Small ones never were for RDMA.
    client.put_bytes("small").await.unwrap();
    let roads = client.roads();
    assert_eq!(roads.grpc.received_bytes, 0);
    assert_eq!((roads.grpc.sent_bytes, roads.fallbacks), (5, 0));
    assert!(roads.rdma.received_bytes > 0);
    assert_eq!(client.transport(), "rdma");

    joined.network.heal();
    client.fetch_bytes(&digest).await.unwrap();
    client.put_bytes(noise(5, SIZE)).await.unwrap();
    assert_eq!(client.roads().grpc.received_bytes, 0);
}

#[tokio::test]
async fn where_only_rdma_may_be_used_a_transfer_goes_on_over_a_new_session() {
    let store = Arc::new(MemoryStore::new(ROOM));
    let (digest, data) = stored(&store, 11).await;
    let joined = cut_at(&store, 10).await;
    let client = joined.strict().await;
    let fetch = tokio::spawn({
        let client = client.clone();
        async move { client.fetch_bytes(&digest).await }
    });
    let is_open = || client.roads().rdma_state == RdmaState::Open;
    let came = || client.roads().rdma.received_bytes;
    until("some of it comes", async || came() > 0).await;
    until("the session is lost", async || !is_open()).await;
    joined.network.heal();
    assert_eq!(fetch.await.unwrap().unwrap(), data);
    let roads = client.roads();
    assert_eq!((roads.grpc.received_bytes, roads.fallbacks), (0, 0));
    assert_eq!(roads.rdma.received_bytes, SIZE as u64);
}

#[tokio::test]
async fn a_writer_that_loses_its_road_says_so_and_can_be_gone_on_with() {
    let store = Arc::new(MemoryStore::new(ROOM));
    let data = noise(6, SIZE);
    let digest = hash::bytes(&data);
    for discard in [false, true] {
        let joined = cut_at(&store, 12).await;
        let client = joined.client_with(hasty()).await.unwrap();
        let mut writer = client.writer(&digest, 0).await.unwrap();
        let mut steps = data.chunks(100_000);
        let error = loop {
            let step = data.slice_ref(steps.next().unwrap());
            if let Err(error) = writer.write(step).await {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert_eq!(error.digest(), Some(digest));
        let again = writer.write(Bytes::from_static(b"x")).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::Unavailable);
        until("the upload is put aside", async || {
            client.held(&digest).await.unwrap() > 0
        })
        .await;
        if discard {
            writer.discard().await.unwrap();
            assert_eq!(client.held(&digest).await.unwrap(), 0);
            continue;
        }
        let held = writer.park().await.unwrap();
        assert_eq!(held % session().slot_bytes as u64, 0);
        let mut writer = client.writer(&digest, held).await.unwrap();
        writer.write(data.slice(held as usize..)).await.unwrap();
        assert_eq!(writer.commit().await.unwrap(), Stored::New);
        assert_eq!(store.fetch_bytes(&digest).await.unwrap(), data);
        store.delete(&digest).await.unwrap();
    }
}

#[tokio::test]
async fn a_read_that_is_never_completed_is_found_out() {
    let store = Arc::new(MemoryStore::new(ROOM));
    let (digest, data) = stored(&store, 7).await;
    let faults = Faults {
        lose: vec![9],
        ..Faults::default()
    };
    let joined = Joined::of(store, faults).await;
    let mut options = options();
    // Long for a read that is completed, on a machine that is busy.
    options.rdma.read_timeout = Duration::from_secs(3);
    options.rdma.drain_timeout = Duration::from_millis(400);
    let client = joined.client_with(options).await.unwrap();
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
    let roads = client.roads();
    assert!(is_held_off(&client) && roads.fallbacks == 1, "{roads:?}");
    let (rdma, grpc) = (roads.rdma.received_bytes, roads.grpc.received_bytes);
    assert_eq!((rdma, rdma + grpc), (7 * (64 << 10), SIZE as u64));
}

#[tokio::test]
async fn memory_that_is_not_the_servers_is_not_believed() {
    let store = Arc::new(MemoryStore::new(ROOM));
    let (digest, data) = stored(&store, 8).await;
    let faults = Faults {
        wrong_nonce: true,
        ..Faults::default()
    };
    let joined = Joined::of(store, faults).await;
    let client = joined.client().await;
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
    assert!(is_held_off(&client));
    assert_eq!(client.roads().rdma.received_bytes, 0);
    let error = joined.strict().await.fetch_bytes(&digest).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_held_against_the_road() {
    let lying = Flaky::new(0, 0);
    let data = noise(9, SIZE);
    let (digest, _) = lying.store.put_bytes(data).await.unwrap();
    lying.lying.store(true, Ordering::SeqCst);
    let joined = Joined::of(lying, Faults::default()).await;
    let client = joined.client().await;
    let blob = client.fetch(&digest, BlobRange::FULL).await.unwrap();
    let steps: Vec<_> = blob.collect().await;
    let given: usize = steps.iter().flatten().map(Bytes::len).sum();
    assert!(given < SIZE, "the last step is held back");
    let error = steps.into_iter().find_map(Result::err).unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(is_held_off(&client));
}

#[tokio::test]
async fn a_server_that_was_started_anew_gets_a_new_session() {
    let store = Arc::new(MemoryStore::new(ROOM));
    let (digest, data) = stored(&store, 10).await;
    let joined = Joined::of(store.clone(), Faults::default()).await;
    let client = joined.client().await;
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
    let Joined { server, network } = joined;
    let addr = server.addr();
    server.stop().await;
    let mut rdma = RdmaOptions::new(network.fabric(), vec!["127.0.0.1".parse().unwrap()]);
    rdma.session = session();
    let server = Server::new(store, ServerOptions::default()).with_rdma(rdma);
    let _server = Running::run(server, &addr).await;
    let before = client.roads().grpc.received_bytes;
    assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
    assert_eq!(client.roads().grpc.received_bytes, before);
    assert_eq!(client.roads().fallbacks, 0);
}
