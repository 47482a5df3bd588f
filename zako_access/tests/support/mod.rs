//! Servers that ask who their callers are, and clients that show what a test wants.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used)]

pub mod issuer;
pub mod limited;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use zako_access::{AccessControl, AccessRules, IdentityRule, JwtRule, TokenHash};
use zako_core::access::{Accounted, Quota};
use zako_core::alias::{AliasOptions, AliasTable};
use zako_core::server::{BoundServer, ListenAddr, Server, ServerOptions};
use zako_core::store::{LocalStore, StoreOptions};
use zako_reapi::grpc::RemoteExecutionFace;
use zako_reapi::http::{HttpOptions, HttpServer};
use zako_reapi::{Cache, CacheOptions};

/// All faces over one store, with one set of rules.
pub struct Servers {
    pub control: AccessControl,
    pub grpc: SocketAddr,
    pub unix: PathBuf,
    pub http: SocketAddr,
    pub store: LocalStore,
    _dir: TempDir,
}

impl Servers {
    pub async fn start(rules: AccessRules, options: ServerOptions) -> Self {
        Self::with(rules, options, StoreOptions::default(), None).await
    }

    /// Those over such a store that ask what callers may use.
    pub async fn with(
        rules: AccessRules,
        options: ServerOptions,
        store: StoreOptions,
        quota: Option<Arc<dyn Quota>>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(dir.path().join("data"), store);
        let store = store.await.unwrap();
        let accounted = Arc::new(Accounted::new(store.clone()));
        let aliases = AliasTable::open(dir.path().join("aliases"), AliasOptions::default());
        let aliases = aliases.await.unwrap();
        let cache = Cache::new(accounted.clone(), aliases, CacheOptions::default());
        let control = AccessControl::new(rules).unwrap();
        let authorizer = Arc::new(control.clone());
        let server = || {
            let server = Server::new(accounted.clone(), options.clone())
                .with_maintenance(Arc::new(store.clone()))
                .with_face(Arc::new(RemoteExecutionFace::new(cache.clone())))
                .with_authorizer(authorizer.clone());
            match &quota {
                Some(quota) => server.with_quota(Arc::clone(quota)),
                None => server,
            }
        };
        let any: ListenAddr = "127.0.0.1:0".parse().unwrap();
        let unix = dir.path().join("socket");
        let tcp = server().bind(&any).await.unwrap();
        let local = server()
            .bind(&ListenAddr::Unix(unix.clone()))
            .await
            .unwrap();
        let http = HttpServer::bind(&any, cache.clone(), HttpOptions::default());
        let http = http.await.unwrap().with_authorizer(authorizer.clone());
        let http = match &quota {
            Some(quota) => http.with_quota(Arc::clone(quota)),
            None => http,
        };
        let addr = |addr: &ListenAddr| match addr {
            ListenAddr::Tcp(addr) => *addr,
            ListenAddr::Unix(_) => unreachable!("a port was asked for"),
        };
        let (grpc, http_addr) = (addr(tcp.local_addr()), addr(http.local_addr()));
        let serve = |server: BoundServer| {
            tokio::spawn(async move { server.serve(std::future::pending()).await });
        };
        serve(tcp);
        serve(local);
        tokio::spawn(http.serve(std::future::pending()));
        Self {
            control,
            grpc,
            unix,
            http: http_addr,
            store,
            _dir: dir,
        }
    }

    pub async fn grpc(&self) -> Grpc {
        Grpc::over(TcpStream::connect(self.grpc).await.unwrap()).await
    }

    pub async fn grpc_by_unix(&self) -> Grpc {
        Grpc::over(UnixStream::connect(&self.unix).await.unwrap()).await
    }
}

/// A connection that makes calls of any bytes with any headers.
pub struct Grpc(SendRequest<Bytes>);

/// What is answered to a call, and what sends to it.
pub type Answer = h2::client::ResponseFuture;
pub type Sending = h2::SendStream<Bytes>;

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub code: i32,
    pub message: String,
    /// `grpc-status-details-bin`, not decoded.
    pub details: String,
    /// All that was answered, with the messages' heads.
    pub body: Vec<u8>,
}

impl Grpc {
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Self(client)
    }

    /// A call of one message.
    pub async fn call(&self, path: &str, headers: &[(&str, &str)], message: &[u8]) -> Ended {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()))
            .collect();
        self.call_raw(path, &headers, message).await.unwrap()
    }

    /// A call whose messages are sent one by one.
    pub async fn open(&self, path: &str, headers: &[(&str, &str)]) -> (Answer, Sending) {
        let mut request = Request::post(format!("http://server{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut ready = self.0.clone().ready().await.unwrap();
        ready
            .send_request(request.body(()).unwrap(), false)
            .unwrap()
    }

    /// A call of one message; `None` if it is reset.
    pub async fn call_raw(
        &self,
        path: &str,
        headers: &[(&str, &[u8])],
        message: &[u8],
    ) -> Option<Ended> {
        let mut request = Request::post(format!("http://server{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut ready = self.0.clone().ready().await.ok()?;
        let request = request.body(()).unwrap();
        let (answer, mut send) = ready.send_request(request, false).ok()?;
        let length = (message.len() as u32).to_be_bytes();
        let framed = [&[0], &length[..], message].concat();
        // The answer may come before all is sent.
        let _ = send.send_data(framed.into(), true);
        let (head, mut body) = answer.await.ok()?.into_parts();
        let mut data = Vec::new();
        let trailers = match head.headers.contains_key("grpc-status") {
            true => head.headers,
            false => {
                while let Some(piece) = body.data().await {
                    let piece = piece.ok()?;
                    let _ = body.flow_control().release_capacity(piece.len());
                    data.extend_from_slice(&piece);
                }
                body.trailers().await.ok()??
            }
        };
        let text = |name: &str| {
            let value = trailers.get(name).map(|value| value.to_str().unwrap());
            value.unwrap_or_default().to_owned()
        };
        Some(Ended {
            code: text("grpc-status").parse().unwrap(),
            message: text("grpc-message"),
            details: text("grpc-status-details-bin"),
            body: data,
        })
    }
}

/// What a request by HTTP/1 was answered, on a connection of its own.
pub async fn ask(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("content-length: {}\r\n\r\n", body.len());
    // Who is refused may be closed to before all is sent.
    let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

/// A field of a message that is a string or bytes.
pub fn field(number: u8, value: &[u8]) -> Vec<u8> {
    assert!(value.len() < 1 << 14, "a length of at most two bytes");
    let (low, high) = ((value.len() & 0x7f) as u8, (value.len() >> 7) as u8);
    let mut field = match high {
        0 => vec![number << 3 | 2, low],
        high => vec![number << 3 | 2, low | 0x80, high],
    };
    field.extend_from_slice(value);
    field
}

/// The token of an identity of tests.
pub fn token(name: &str) -> String {
    format!("token-of-{name}")
}

pub fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// A rule from JSON, which has the keys of `zako.toml`.
pub fn identity(json: &str) -> IdentityRule {
    serde_json::from_str(json).unwrap()
}

pub fn jwt(json: &str) -> JwtRule {
    serde_json::from_str(json).unwrap()
}

/// Somebody with [`token`], and these roles as JSON.
pub fn with_token(name: &str, roles: &str) -> IdentityRule {
    let hash = TokenHash::of(token(name).as_bytes());
    identity(&format!(
        r#"{{"name": "{name}", "token-sha256": "{hash}", "roles": {roles}}}"#
    ))
}

pub fn rules(identities: impl IntoIterator<Item = IdentityRule>) -> AccessRules {
    let mut rules = AccessRules::default();
    rules.identities = identities.into_iter().collect();
    rules
}
