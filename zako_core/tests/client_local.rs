//! The client of a server on disk: restarts, damage, maintenance.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod client_support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use client_support::{Running, any_port, noise};
use futures::stream;
use tokio::sync::mpsc;
use zako_core::cas::{Cas, CasExt, ErrorKind, Lease, Location, Maintain, Stored, VerifyScope};
use zako_core::client::{Client, ClientOptions};
use zako_core::conformance;
use zako_core::server::{Server, ServerOptions};
use zako_core::store::{LocalStore, StoreOptions};
use zako_digest::hash;

async fn open(path: &Path) -> LocalStore {
    let mut options = StoreOptions::default();
    options.max_bytes = Some(512 << 20);
    LocalStore::open(path, options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_on_disk_conforms_from_afar() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::tcp(Arc::new(open(dir.path()).await)).await;
    let client = server.client().await;
    let made = conformance::run_all(async || Arc::new(client.clone()) as _).await;
    made.unwrap_or_else(|violations| panic!("{violations}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_after_the_store_was_opened_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = ServerOptions::default();
    options.drain_timeout = Duration::ZERO;
    let store = open(dir.path()).await;
    let server = Running::start(Arc::new(store.clone()), &any_port(), options).await;
    let addr = server.addr();
    let client = server.client().await;
    let data = noise(3, 30_000_000);
    let digest = hash::bytes(&data);
    let mut writer = client.writer(&digest, 0).await.unwrap();
    for step in data[..20_000_000].chunks(1_000_000) {
        writer.write(data.slice_ref(step)).await.unwrap();
    }
    server.stop().await;
    drop(writer);
    store.close().await.unwrap();
    drop(store);

    // The lock is free when the last task of the server is gone.
    let store = loop {
        match LocalStore::open(dir.path(), StoreOptions::default()).await {
            Ok(store) => break store,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Locked),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let _server = Running::start(Arc::new(store.clone()), &addr, ServerOptions::default()).await;
    let held = client.held(&digest).await.unwrap();
    assert!(held > 0 && held <= 20_000_000, "{held}");
    let first = AtomicU64::new(u64::MAX);
    let stored = client.store_from(&digest, |offset| {
        first.fetch_min(offset, Ordering::SeqCst);
        stream::iter([Ok(data.slice(offset as usize..))])
    });
    assert_eq!(stored.await.unwrap(), Stored::New);
    assert_eq!(first.load(Ordering::SeqCst), held);
    assert!(store.fetch_bytes(&digest).await.unwrap() == data);
    assert!(client.fetch_bytes(&digest).await.unwrap() == data);
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_from_afar() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(dir.path()).await);
    let server = Server::new(store.clone(), ServerOptions::default())
        .with_maintenance(store.clone())
        .bind(&any_port())
        .await
        .unwrap();
    let url = format!("http://{}", server.local_addr()).parse().unwrap();
    tokio::spawn(server.serve(std::future::pending()));
    let client = Client::connect(&url, ClientOptions::default())
        .await
        .unwrap();

    let small = client.put_bytes("small").await.unwrap().0;
    let data = noise(1, 5_000_000);
    let large = client.put_bytes(data.clone()).await.unwrap().0;
    assert_eq!(
        client.stat(&small).await.unwrap().location,
        Location::Segment
    );
    assert_eq!(client.stat(&large).await.unwrap().location, Location::File);
    let mut own = store.usage().await.unwrap();
    // Of a moment in this process; clients aren't told.
    (own.queued_bytes, own.blocking_jobs) = (0, 0);
    assert_eq!(client.usage().await.unwrap(), own);
    let missing = client.missing(&[small], Lease::Default).await.unwrap();
    assert!(missing.is_empty());
    let leased = client.stat(&small).await.unwrap().leased_for;
    assert!(leased > Duration::ZERO);
    let status = client.status().await.unwrap();
    assert_eq!(status.usage.blobs, 2);
    assert_eq!(status.usage.durability, "immediate");

    spoil_the_file_of(&data, dir.path());
    let absent = hash::bytes(b"absent");
    let scope = VerifyScope::Blobs(vec![small, large, absent]);
    let (progress, mut reports) = mpsc::channel(64);
    let report = client.verify(scope, progress).await.unwrap();
    assert_eq!(report.corrupt, [large]);
    assert_eq!(report.missing, [absent]);
    assert!(report.unreadable.is_empty());
    while let Some(early) = reports.recv().await {
        assert!(early.blobs_checked <= report.blobs_checked);
    }
    let error = client.fetch_bytes(&large).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(client.usage().await.unwrap().quarantined_blobs, 1);
    let (progress, _reports) = mpsc::channel(64);
    let all = client.verify(VerifyScope::All, progress).await.unwrap();
    assert_eq!((all.blobs_checked, all.corrupt.len()), (1, 0));
    client.collect_garbage().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_that_is_not_offered_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::tcp(Arc::new(open(dir.path()).await)).await;
    let client = server.client().await;
    let error = client.collect_garbage().await.unwrap_err();
    assert!(
        matches!(
            error.kind(),
            ErrorKind::Unsupported | ErrorKind::PermissionDenied
        ),
        "{error:?}"
    );
}

/// Flips a bit in the middle of the file that holds these bytes.
fn spoil_the_file_of(data: &[u8], folder: &Path) {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mut content = std::fs::read(&path).unwrap();
            let middle = &data[2_000_000..2_000_064];
            let found = content.windows(64).position(|window| window == middle);
            if let Some(at) = found {
                content[at] ^= 1;
                std::fs::write(&path, content).unwrap();
                return;
            }
        }
    }
    panic!("no file holds the blob");
}
