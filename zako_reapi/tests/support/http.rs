//! The HTTP cache over a test server's cache, and a client that sends what it is told.
#![allow(clippy::expect_used)]

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use zako_core::cas::{Maintain, Usage};
use zako_core::server::ServerOptions;
use zako_core::store::{LocalStore, StoreOptions};
use zako_reapi::http::{HttpOptions, HttpServer};
use zako_reapi::{Cache, CacheOptions};

use super::TestServer;

/// After so long, what is awaited will not come.
const HUNG: Duration = Duration::from_secs(60);

/// Both faces over one store.
pub struct HttpTest {
    pub server: TestServer,
    pub addr: String,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

/// A connection.
pub struct Http {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl HttpTest {
    pub async fn start() -> Self {
        Self::with(HttpOptions::default()).await
    }

    pub async fn with(options: HttpOptions) -> Self {
        Self::over(StoreOptions::default(), CacheOptions::default(), options).await
    }

    pub async fn over(store: StoreOptions, cache: CacheOptions, options: HttpOptions) -> Self {
        let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
        let server = TestServer::over(dir, store, cache, ServerOptions::default()).await;
        let addr = "127.0.0.1:0".parse().unwrap();
        let http = HttpServer::bind(&addr, server.cache.clone(), options);
        let http = http.await.unwrap();
        let http = http.with_maintenance(std::sync::Arc::new(server.store.clone()));
        let addr = http.local_addr().to_string();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(http.serve(async {
            let _ = stopped.await;
        }));
        Self {
            server,
            addr,
            stop: Some(stop),
            serving,
        }
    }

    pub fn cache(&self) -> &Cache {
        &self.server.cache
    }

    pub fn store(&self) -> &LocalStore {
        &self.server.store
    }

    pub async fn usage(&self) -> Usage {
        self.server.store.usage().await.unwrap()
    }

    pub async fn connect(&self) -> Http {
        Http::connect(&self.addr).await
    }

    /// Sends a request on a connection of its own.
    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut http = self.connect().await;
        http.request(method, path, headers, body).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"").await
    }

    pub async fn put(&self, path: &str, body: &[u8]) -> Answer {
        self.ask("PUT", path, &[], body).await
    }

    /// Tells the HTTP cache to end.
    pub fn begin_stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    /// Waits until it has ended.
    pub async fn stopped(&mut self) {
        in_time(&mut self.serving).await.unwrap();
    }
}

impl Http {
    pub async fn connect(addr: &str) -> Self {
        Self {
            stream: TcpStream::connect(addr).await.unwrap(),
            unread: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // A server that refuses may close before all is sent; its answer counts.
        let _ = in_time(self.stream.write_all(bytes.as_ref())).await;
    }

    /// Sends a request with the length of its body, and reads the answer.
    pub async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.send(head(method, path, headers, Some(body.len())))
            .await;
        self.send(body).await;
        self.answer(method).await
    }

    /// The next answer, to a request by this method.
    pub async fn answer(&mut self, method: &str) -> Answer {
        self.maybe_answer(method).await.expect("an answer")
    }

    /// As [`answer`](Self::answer); `None` if the connection ends before its head.
    pub async fn maybe_answer(&mut self, method: &str) -> Option<Answer> {
        let head = self.until(b"\r\n\r\n").await?;
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let status = status.parse().unwrap();
        let headers: HashMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut body = Vec::new();
        if method != "HEAD" && ![100, 204, 304].contains(&status) {
            if let Some(length) = headers.get("content-length") {
                body = self.exactly(length.parse().unwrap()).await;
            } else if headers.contains_key("transfer-encoding") {
                loop {
                    let line = self.until(b"\r\n").await.expect("a chunk");
                    let length = std::str::from_utf8(&line).unwrap().trim();
                    let length = usize::from_str_radix(length, 16).unwrap();
                    let mut chunk = self.exactly(length + 2).await;
                    chunk.truncate(length);
                    body.extend_from_slice(&chunk);
                    if length == 0 {
                        break;
                    }
                }
            }
        }
        Some(Answer {
            status,
            headers,
            body,
        })
    }

    /// Whether the server closes the connection without another byte.
    pub async fn is_closed(&mut self) -> bool {
        self.unread.is_empty() && !self.read().await
    }

    /// Whether anything has come, or the end; doesn't wait.
    pub async fn has_said(&mut self) -> bool {
        !self.unread.is_empty() || futures::poll!(std::pin::pin!(self.read())).is_ready()
    }

    /// Reads what comes to the end; how many bytes that are.
    pub async fn rest(&mut self) -> usize {
        while self.read().await {}
        self.unread.len()
    }

    async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            let found = self.unread.windows(end.len()).position(|part| part == end);
            if let Some(at) = found {
                let rest = self.unread.split_off(at + end.len());
                return Some(std::mem::replace(&mut self.unread, rest));
            }
            if !self.read().await {
                return None;
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.unread.len() < length {
            assert!(self.read().await, "the body breaks off");
        }
        let rest = self.unread.split_off(length);
        std::mem::replace(&mut self.unread, rest)
    }

    async fn read(&mut self) -> bool {
        let read = in_time(self.stream.read_buf(&mut self.unread)).await;
        read.is_ok_and(|count| count > 0)
    }
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value)
    }
}

/// The head of a request.
pub fn head(method: &str, path: &str, headers: &[(&str, &str)], length: Option<usize>) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if let Some(length) = length {
        head += &format!("content-length: {length}\r\n");
    }
    head + "\r\n"
}

/// A body in chunks of this size.
pub fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for chunk in body.chunks(size) {
        all.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        all.extend_from_slice(chunk);
        all.extend_from_slice(b"\r\n");
    }
    all.extend_from_slice(b"0\r\n\r\n");
    all
}

/// What comes of this, which must not hang.
pub async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HUNG, future).await.expect("it hangs")
}

/// Waits until something holds that comes about by itself.
pub async fn until<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    in_time(async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
