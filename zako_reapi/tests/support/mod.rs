//! A real server over a real store, and a channel to it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used)]

pub mod http;
pub mod raw;
pub mod streams;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rand::RngCore;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use zako_core::alias::{AliasOptions, AliasTable};
use zako_core::server::{Server, ServerOptions};
use zako_core::store::{LocalStore, StoreOptions};
use zako_reapi::digest::{DigestFunction, RemoteDigest};
use zako_reapi::grpc::RemoteExecutionFace;
use zako_reapi::{Cache, CacheOptions};

/// A server on a free port. It stops when it is dropped; [`stop`](Self::stop) waits.
pub struct TestServer {
    pub cache: Cache,
    pub store: LocalStore,
    pub channel: Channel,
    pub addr: String,
    pub dir: Arc<TempDir>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

impl TestServer {
    pub async fn start() -> Self {
        Self::with(CacheOptions::default(), ServerOptions::default()).await
    }

    pub async fn with(cache: CacheOptions, server: ServerOptions) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::over(dir, StoreOptions::default(), cache, server).await
    }

    /// A server over the store in this folder, new or old.
    pub async fn over(
        dir: Arc<TempDir>,
        store: StoreOptions,
        cache: CacheOptions,
        server: ServerOptions,
    ) -> Self {
        let store = LocalStore::open(data(dir.path()), store).await.unwrap();
        let aliases = data(dir.path()).join("aliases");
        let aliases = AliasTable::open(aliases, AliasOptions::default());
        let aliases = aliases.await.unwrap();
        let cache = Cache::new(Arc::new(store.clone()), aliases, cache);
        let face = Arc::new(RemoteExecutionFace::new(cache.clone()));
        let server = Server::new(Arc::new(store.clone()), server).with_face(face);
        let bound = server.bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = bound.local_addr().to_string();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            bound.serve(stopped).await.unwrap();
        });
        let channel = Endpoint::from_shared(format!("http://{addr}")).unwrap();
        Self {
            channel: channel.connect().await.unwrap(),
            cache,
            store,
            addr,
            dir,
            stop: Some(stop),
            serving,
        }
    }

    /// Shuts the server and its store down; what they leave is in the folder.
    pub async fn stop(mut self) -> Arc<TempDir> {
        drop(self.channel);
        let _ = self.stop.take().unwrap().send(());
        self.serving.await.unwrap();
        self.cache.close().await.unwrap();
        self.store.close().await.unwrap();
        self.dir
    }
}

pub fn data(dir: &Path) -> PathBuf {
    dir.join("data")
}

/// Bytes that nobody has stored yet.
pub fn random(length: usize) -> Bytes {
    let mut data = vec![0; length];
    rand::rng().fill_bytes(&mut data);
    data.into()
}

pub fn sha256(data: &[u8]) -> RemoteDigest {
    DigestFunction::Sha256.digest(data)
}

pub fn blake3(data: &[u8]) -> RemoteDigest {
    DigestFunction::Blake3.digest(data)
}
