//! Broken connections and restarted servers: everything ends right all the same.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod client_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use client_support::{Proxy, Running, noise, quick};
use futures::{StreamExt, stream};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;
use zako_core::BlobRange;
use zako_core::cas::{Cas, CasError, CasExt, ErrorKind, Lease, Stored};
use zako_core::client::{Client, ClientOptions, RetryPolicy, ServerUrl};
use zako_core::server::ServerOptions;
use zako_core::store::MemoryStore;
use zako_digest::hash;

const ROOM: u64 = 256 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn blobs_come_through_a_line_that_keeps_breaking() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("zako.sock");
    let store = Arc::new(MemoryStore::new(ROOM));
    let _server = Running::unix(store.clone(), &socket).await;
    for seed in 0..3 {
        let proxy = Proxy::start(&socket, seed, 1_500_000).await;
        let mut options = quick();
        options.retry.attempts = 40;
        options.connection_window = 4 << 20;
        let client = Client::connect(&proxy.url, options).await.unwrap();
        let tasks: Vec<_> = (0..6)
            .map(|n| {
                let client = client.clone();
                let length = [0, 3, 70_000, 1_000_000, 3_000_000, 9_000_000][n as usize];
                let data = noise(seed * 100 + n, length);
                tokio::spawn(async move {
                    let digest = hash::bytes(&data);
                    client.put(&digest, data.clone()).await.unwrap();
                    let back = client.fetch_bytes(&digest).await.unwrap();
                    assert!(back == data, "{length} bytes came back changed");
                    let missing = client.missing(&[digest], Lease::Default).await.unwrap();
                    assert!(missing.is_empty());
                    digest
                })
            })
            .collect();
        for task in tasks {
            let digest = task.await.unwrap();
            assert!(store.contains(&digest).await.unwrap());
        }
        assert!(proxy.cuts.load(Ordering::SeqCst) > 10, "the line held");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_on_a_breaking_line_gets_each_byte_once() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("zako.sock");
    let store = Arc::new(MemoryStore::new(ROOM));
    let _server = Running::unix(store.clone(), &socket).await;
    let data = noise(7, 8_000_000);
    let (digest, _) = store.put_bytes(data.clone()).await.unwrap();
    let proxy = Proxy::start(&socket, 7, 900_000).await;
    let mut options = quick();
    options.retry.attempts = 40;
    let client = Client::connect(&proxy.url, options).await.unwrap();
    let range = BlobRange::new(1_000_001, 6_000_002);
    for (range, expected) in [
        (BlobRange::FULL, data.clone()),
        (range, data.slice(1_000_001..7_000_003)),
    ] {
        let mut blob = client.fetch(&digest, range).await.unwrap();
        let mut at = 0;
        while let Some(step) = blob.next().await {
            let step = step.unwrap();
            assert!(expected[at..].starts_with(&step), "at {at}");
            at += step.len();
            tokio::task::yield_now().await;
        }
        assert_eq!(at, expected.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_after_a_restart() {
    let store = Arc::new(MemoryStore::new(ROOM));
    let mut options = ServerOptions::default();
    options.drain_timeout = std::time::Duration::ZERO;
    let server = Running::start(store.clone(), &client_support::any_port(), options).await;
    let addr = server.addr();
    let client = server.client().await;
    let data = noise(3, 40_000_000);
    let digest = hash::bytes(&data);
    let mut writer = client.writer(&digest, 0).await.unwrap();
    for step in data[..20_000_000].chunks(1_000_000) {
        writer.write(data.slice_ref(step)).await.unwrap();
    }
    server.stop().await;
    let error = loop {
        match writer.write(data.slice(20_000_000..20_100_000)).await {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.is_transient());
    drop(writer);

    let _server = Running::start(store.clone(), &addr, ServerOptions::default()).await;
    // The upload's handler leaves what came by itself; nobody waits for that.
    let late = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    let held = loop {
        match client.held(&digest).await.unwrap() {
            0 if tokio::time::Instant::now() < late => tokio::task::yield_now().await,
            held => break held,
        }
    };
    assert!(held > 0 && held < data.len() as u64, "{held}");
    let least = AtomicU64::new(u64::MAX);
    let stored = client.store_from(&digest, |offset| {
        least.fetch_min(offset, Ordering::SeqCst);
        let rest = data.slice(offset as usize..);
        let steps = rest.chunks(300_000).map(|step| Ok(rest.slice_ref(step)));
        stream::iter(steps.collect::<Vec<_>>())
    });
    assert_eq!(stored.await.unwrap(), Stored::New);
    assert_eq!(least.load(Ordering::SeqCst), held);
    assert!(store.fetch_bytes(&digest).await.unwrap() == data);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_wait_for_a_server_that_comes_back() {
    let store = Arc::new(MemoryStore::new(ROOM));
    let server = Running::tcp(store.clone()).await;
    let addr = server.addr();
    let mut options = quick();
    options.retry.attempts = 60;
    let client = Client::connect(&server.url, options).await.unwrap();
    let (digest, _) = client.put_bytes("before").await.unwrap();
    server.stop().await;
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { client.fetch_bytes(&digest).await })
    };
    tokio::task::yield_now().await;
    let _server = Running::start(store, &addr, ServerOptions::default()).await;
    assert_eq!(waiting.await.unwrap().unwrap(), "before");
    let (_, stored) = client.put_bytes("after").await.unwrap();
    assert_eq!(stored, Stored::New);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stays_away_is_an_error() {
    let server = Running::tcp(Arc::new(MemoryStore::new(ROOM))).await;
    let mut options = quick();
    options.retry.attempts = 3;
    let client = Client::connect(&server.url, options).await.unwrap();
    server.stop().await;
    let digest = hash::bytes(b"x");
    for error in [
        client.fetch_bytes(&digest).await.unwrap_err(),
        client.put_bytes("x").await.unwrap_err(),
        client.put_bytes(noise(1, 1 << 20)).await.unwrap_err(),
        client.missing(&[digest], Lease::Default).await.unwrap_err(),
        client.missing(&[digest], Lease::None).await.unwrap_err(),
        client.status().await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_is_renewed() {
    let clock = Arc::new(zako_core::negotiate::ManualClock::default());
    let store = Arc::new(MemoryStore::new(ROOM));
    let options = ServerOptions::default();
    let idle = options.session_idle;
    let server = zako_core::server::Server::new(store, options)
        .with_clock(clock.clone())
        .bind(&client_support::any_port())
        .await
        .unwrap();
    let url = format!("http://{}", server.local_addr()).parse().unwrap();
    tokio::spawn(server.serve(std::future::pending()));
    let mut options = ClientOptions::default();
    options.retry = RetryPolicy::NEVER;
    let client = Client::connect(&url, options).await.unwrap();
    let small = client.put_bytes("small").await.unwrap().0;
    let data = noise(5, 2_000_000);
    clock.advance(idle * 2);
    let large = client.put_bytes(data.clone()).await.unwrap().0;
    clock.advance(idle * 2);
    assert_eq!(client.fetch_bytes(&small).await.unwrap(), "small");
    clock.advance(idle * 2);
    assert!(client.fetch_bytes(&large).await.unwrap() == data);
    clock.advance(idle * 2);
    assert!(client.delete(&large).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_stops_when_another_one_was_faster() {
    let store = Arc::new(MemoryStore::new(ROOM));
    let server = Running::tcp(store.clone()).await;
    let client = server.client().await;
    let data = noise(9, 3_000_000);
    let digest = hash::bytes(&data);
    let mut slow = client.writer(&digest, 0).await.unwrap();
    slow.write(data.slice(..1_000_000)).await.unwrap();
    store.put(&digest, data.clone()).await.unwrap();
    slow.write(data.slice(1_000_000..)).await.unwrap();
    slow.commit().await.unwrap();
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let stored = client.store_from(&digest, move |_| {
        let count = count.clone();
        stream::repeat(Bytes::from_static(&[0; 1000])).map(move |step| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok::<_, CasError>(step)
        })
    });
    assert_eq!(stored.await.unwrap(), Stored::Existing);
    assert_eq!(sent.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_source_parks_what_was_sent() {
    let server = Running::tcp(Arc::new(MemoryStore::new(ROOM))).await;
    let client = server.client().await;
    let data = noise(11, 3_000_000);
    let digest = hash::bytes(&data);
    let steps = vec![
        Ok(data.slice(..1_234_567)),
        Err(CasError::new(ErrorKind::Io, "the disk is gone")),
    ];
    let stored = client.store_from(&digest, |offset| {
        assert_eq!(offset, 0);
        stream::iter(steps.clone())
    });
    let error = stored.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert_eq!(client.held(&digest).await.unwrap(), 1_234_567);
}

/// Passes connections on to a socket; while `silent` is set, no answer comes through.
/// What had been silent breaks when it is not any more.
async fn line_to(socket: std::path::PathBuf, silent: watch::Receiver<bool>) -> ServerUrl {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = ServerUrl::from(listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let near = listener.accept().await.unwrap().0;
            let far = UnixStream::connect(&socket).await.unwrap();
            let (mut near_read, mut near_write) = near.into_split();
            let (mut far_read, mut far_write) = far.into_split();
            let (mut silent, now) = (silent.clone(), silent.clone());
            tokio::spawn(async move {
                let there = tokio::io::copy(&mut near_read, &mut far_write);
                let back = async {
                    let mut data = vec![0; 16 * 1024];
                    loop {
                        let read = tokio::io::AsyncReadExt::read(&mut far_read, &mut data).await;
                        let read = read.unwrap_or(0);
                        if read == 0 {
                            return;
                        }
                        if !*now.borrow() {
                            near_write.write_all(&data[..read]).await.unwrap();
                        }
                    }
                };
                let breaks = async {
                    silent.wait_for(|silent| *silent).await.unwrap();
                    silent.wait_for(|silent| !*silent).await.unwrap();
                };
                tokio::select! {
                    _ = there => {}
                    () = back => {}
                    () = breaks => {}
                }
            });
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_whose_answer_is_lost_is_not_told_as_none() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("zako.sock");
    let store = Arc::new(MemoryStore::new(ROOM));
    let _server = Running::unix(store.clone(), &socket).await;
    let (silence, silent) = watch::channel(false);
    let url = line_to(socket, silent).await;
    let client = Client::connect(&url, quick()).await.unwrap();
    let digest = client.put_bytes("here").await.unwrap().0;
    silence.send(true).unwrap();
    let removal = tokio::spawn(async move { client.delete_batch(&[digest]).await });
    while store.contains(&digest).await.unwrap() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    silence.send(false).unwrap();
    let error = removal.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}
