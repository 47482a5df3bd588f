//! A server with all its ways in, which is measured; and what it tells, read back.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use zako_core::alias::{AliasOptions, AliasTable};
use zako_core::client::{Client, ClientOptions, ServerUrl};
use zako_core::observe::Observer;
use zako_core::server::{Server, ServerOptions};
use zako_core::store::{LocalStore, StoreOptions};
use zako_reapi::grpc::RemoteExecutionFace;
use zako_reapi::http::{HttpOptions, HttpServer};
use zako_reapi::{Cache, CacheOptions};
use zako_telemetry::{Metrics, OtlpOptions};

/// A server on free ports.
pub struct Measured {
    pub metrics: Metrics,
    pub store: LocalStore,
    pub url: ServerUrl,
    pub http: String,
    pub dir: TempDir,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

/// When the server's certificate ends, if it had one, since 1970.
const CERTIFICATE: Duration = Duration::from_secs(4_102_444_800);

/// A scrape: samples by name and labels, as they are written.
pub struct Scrape(pub BTreeMap<String, f64>);

impl Measured {
    pub async fn start(options: StoreOptions) -> Self {
        let metrics = Metrics::new(&OtlpOptions::default(), &|_| None).unwrap();
        Self::of(metrics, options).await
    }

    pub async fn of(metrics: Metrics, mut options: StoreOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let observer: Arc<dyn Observer> = Arc::new(metrics.clone());
        options.observer = Some(Arc::clone(&observer));
        let store = LocalStore::open(dir.path().join("data"), options).await;
        let store = store.unwrap();
        let aliases = dir.path().join("data/aliases");
        let aliases = AliasTable::open(aliases, AliasOptions::default()).await;
        let cache = Cache::new(
            Arc::new(store.clone()),
            aliases.unwrap(),
            CacheOptions::default(),
        );
        let face = Arc::new(RemoteExecutionFace::new(cache.clone()));
        let server = Server::new(Arc::new(store.clone()), ServerOptions::default())
            .with_face(face)
            .with_observer(Arc::clone(&observer));
        let any = "127.0.0.1:0".parse().unwrap();
        let server = server.bind(&any).await.unwrap();
        let url = format!("http://{}", server.local_addr()).parse().unwrap();
        let http = HttpServer::bind(&any, cache, HttpOptions::default()).await;
        let http = http.unwrap().with_observer(observer);
        let http_addr = http.local_addr().to_string();
        metrics.watch_server(server.figures());
        metrics.watch_store(Arc::new(store.clone()));
        metrics.watch_certificate(|| SystemTime::UNIX_EPOCH + CERTIFICATE);
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = futures::FutureExt::shared(async { drop(stopped.await) });
        let serving = tokio::spawn(async move {
            let (served, ()) = tokio::join!(server.serve(stopped.clone()), http.serve(stopped));
            served.unwrap();
        });
        Self {
            metrics,
            store,
            url,
            http: http_addr,
            dir,
            stop: Some(stop),
            serving,
        }
    }

    pub async fn client(&self) -> Client {
        let options = ClientOptions::default();
        Client::connect(&self.url, options).await.unwrap()
    }

    /// The status of the answer.
    pub async fn ask_http(&self, method: &str, path: &str, body: &[u8]) -> u16 {
        let mut stream = TcpStream::connect(&self.http).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let line = String::from_utf8_lossy(&answer);
        line.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub async fn scrape(&self) -> Scrape {
        Scrape::of(&self.metrics).await
    }

    /// A scrape in which a sample has this value: a call is reported when its last byte
    /// is gone, which its caller can't see.
    pub async fn scrape_when(&self, sample: &str, value: f64) -> Scrape {
        Scrape::when(&self.metrics, sample, value).await
    }

    /// Lets it end.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        self.serving.await.unwrap();
        self.metrics.end().await;
    }
}

impl Scrape {
    pub async fn of(metrics: &Metrics) -> Self {
        Self::read(&metrics.prometheus().await)
    }

    pub async fn when(metrics: &Metrics, sample: &str, value: f64) -> Self {
        let mut last = None;
        for _ in 0..3000 {
            let scrape = Self::of(metrics).await;
            if scrape.0.get(sample) == Some(&value) {
                return scrape;
            }
            last = Some(scrape);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let last = last.unwrap().0;
        panic!("{sample} never was {value}: {last:#?}");
    }

    pub fn read(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.filter_map(|line| line.rsplit_once(' '));
        let samples = samples.map(|(name, value)| (name.to_owned(), value.parse().unwrap()));
        Self(samples.collect())
    }

    /// The value of a sample, named with its labels in their order.
    pub fn get(&self, sample: &str) -> f64 {
        match self.0.get(sample) {
            Some(value) => *value,
            None => panic!("there is no {sample} in {:#?}", self.0),
        }
    }

    /// The names of all samples, without labels.
    pub fn names(&self) -> BTreeSet<&str> {
        let names = self.0.keys().map(|key| key.split('{').next().unwrap());
        names.collect()
    }

    /// The sum over all series of a name.
    pub fn sum(&self, name: &str) -> f64 {
        let series = self.0.iter();
        let series = series.filter(|(key, _)| key.split('{').next() == Some(name));
        series.map(|(_, value)| value).sum()
    }
}
