//! The server over the stores that it is made for.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod wire_harness;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wire_harness::message::{bytes, chunk, digest, framed, metadata, number_in};
use wire_harness::{Client, UPLOAD, code, pattern};
use zako_core::cas::{Cas, ErrorKind, Maintain};
use zako_core::server::{ListenAddr, Server, ServerOptions};
use zako_core::store::{LocalStore, MemoryStore, StoreOptions};
use zako_digest::hash;

struct Served {
    addr: std::net::SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<zako_core::cas::Result<()>>,
}

impl Served {
    async fn start(store: Arc<impl Cas + Maintain>) -> Self {
        let mut options = ServerOptions::default();
        options.drain_timeout = Duration::from_millis(200);
        let any = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
        let bound = Server::new(store.clone(), options)
            .with_maintenance(store)
            .bind(&any)
            .await
            .unwrap();
        let ListenAddr::Tcp(addr) = *bound.local_addr() else {
            panic!("{bound:?}")
        };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(bound.serve(async {
            let _ = stopped.await;
        }));
        Self { addr, stop, task }
    }

    async fn session(&self) -> Client {
        let mut client = Client::connect(self.addr).await;
        client.token = Some(client.negotiate().await);
        client
    }

    async fn end(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

async fn local(folder: &std::path::Path) -> Arc<LocalStore> {
    // The threads of a store that was dropped end a moment later.
    for _ in 0..1000 {
        let mut options = StoreOptions::default();
        options.max_bytes = Some(256 << 20);
        match LocalStore::open(folder, options).await {
            Err(error) if error.kind() == ErrorKind::Locked => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            opened => return Arc::new(opened.unwrap()),
        }
    }
    panic!("the store stays locked");
}

/// Bytes of which no two numbers have the same.
fn numbered(number: usize, length: usize) -> Bytes {
    let mut data = pattern(length).to_vec();
    let head = data.len().min(8);
    data[..head].copy_from_slice(&number.to_le_bytes()[..head]);
    data.into()
}

/// Many connections store and read blobs of all sizes at once, some the same ones.
async fn mixed_load(served: &Served) {
    const SIZES: [usize; 6] = [9, 4000, 65_536, 300_000, (1 << 20) + 1, 3_000_000];
    let clients = (0..6).map(|number| async move {
        let client = served.session().await;
        for (at, size) in SIZES.into_iter().enumerate() {
            // Every second blob is everyone's.
            let own = if at % 2 == 0 { 0 } else { number };
            let data = numbered(own, size);
            let named = hash::bytes(&data);
            let pieces = data.chunks(100_000).map(chunk);
            let messages: Vec<Vec<u8>> = [metadata(&named, 0, None)]
                .into_iter()
                .chain(pieces)
                .collect();
            let stored = client.upload(&messages).await;
            assert!(
                [code::OK, code::ALREADY_EXISTS].contains(&stored.status),
                "{stored:?}"
            );
            let back = client.download(metadata(&named, 0, None)).await;
            assert!(back.expect(code::OK).data() == data);
            let part = client.download(metadata(&named, 5, Some(3))).await;
            assert_eq!(part.expect(code::OK).data(), data[5..8]);
        }
    });
    futures::future::join_all(clients).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mixed_load_on_memory() {
    let served = Served::start(Arc::new(MemoryStore::new(256 << 20))).await;
    mixed_load(&served).await;
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mixed_load_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path()).await;
    let served = Served::start(store.clone()).await;
    mixed_load(&served).await;
    let client = served.session().await;
    let verified = client.unary("/zako.v1.store.Store/Verify", b"").await;
    let last = verified.expect(code::OK).messages.last().unwrap();
    // Three blobs are everyone's, three are one's own.
    assert_eq!(number_in(last, 1), 3 + 3 * 6);
    assert_eq!(number_in(last, 8), 1);
    served.end().await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let data = pattern(5_000_000);
    let named = hash::bytes(&data);

    let store = local(folder.path()).await;
    let served = Served::start(store.clone()).await;
    let client = served.session().await;
    let mut call = client.call(UPLOAD, &[]).await;
    let body = [
        framed(metadata(&named, 0, None)),
        framed(chunk(&data[..3_000_000])),
    ]
    .concat();
    call.send(body.into(), false).await;
    // Stopped while the upload runs: it is parked.
    served.stop.send(()).unwrap();
    call.answer().await.expect(code::UNAVAILABLE);
    served.task.await.unwrap().unwrap();
    assert_eq!(
        Arc::strong_count(&store),
        1,
        "the server let go of the store"
    );
    store.close().await.unwrap();
    drop(store);

    let store = local(folder.path()).await;
    let served = Served::start(store.clone()).await;
    let client = served.session().await;
    let stat = client
        .unary("/zako.v1.store.Store/Stat", bytes(1, digest(&named)))
        .await;
    stat.expect(code::OK);
    let asked = client.upload(&[metadata(&named, 0, None)]).await;
    let held = number_in(asked.expect(code::OK).message(), 1) as usize;
    assert!(held > 0 && held <= 3_000_000, "{held}");
    let rest = [metadata(&named, held as u64, None), chunk(&data[held..])];
    client.upload(&rest).await.expect(code::OK);
    let back = client.download(metadata(&named, 0, None)).await;
    assert!(back.expect(code::OK).data() == data);
    served.end().await;
    store.close().await.unwrap();
}
