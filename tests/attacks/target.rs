//! A server under attack, and a good client that must not notice.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use rand::RngCore;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use zako_core::BlobRange;
use zako_core::cas::Cas;
use zako_core::client::{Client, ClientOptions, ServerUrl};

/// After so long, what is awaited will not come.
const HUNG: Duration = Duration::from_secs(60);

/// Where attacks come from; the good client comes from 127.0.0.1.
pub(crate) const ATTACKER: [u8; 4] = [127, 0, 0, 9];

pub(crate) const MIB: u64 = 1 << 20;

/// A real `zako serve`, killed when dropped.
pub(crate) struct Target {
    child: Child,
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    _dir: TempDir,
}

/// Puts and gets over both protocols, on connections of its own.
pub(crate) struct GoodClient {
    client: Client,
    address: SocketAddr,
    /// From its first request on: a head has to come soon.
    http: Option<TcpStream>,
}

/// How many connections are many: fewer where this process can't open so many files.
pub(crate) fn many() -> u32 {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    u32::try_from(limit / 8).map_or(2000, |most| most.min(2000))
}

/// Attacks come from many sockets of this process, several at a time.
fn raise_file_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
}

impl Target {
    pub(crate) fn start(more: &[&str]) -> Self {
        raise_file_limit();
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_zako"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ZAKO_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .args(["--log", "error", "--data"])
            .arg(dir.path().join("data"))
            .args(more)
            .current_dir(dir.path())
            .env("HOME", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut ready).unwrap();
        let address = |name: &str| {
            let mut words = ready.split_whitespace();
            let found = words.find_map(|word| word.strip_prefix(name));
            found
                .unwrap_or_else(|| panic!("{ready:?}"))
                .parse()
                .unwrap()
        };
        Self {
            grpc: address("grpc="),
            http: address("http="),
            child,
            _dir: dir,
        }
    }

    fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.child.id()))
    }

    /// The most memory that it has had, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line.unwrap().split_whitespace().nth(1).unwrap();
        kib.parse::<u64>().unwrap() << 10
    }

    /// How many files and sockets it has open.
    pub(crate) fn files(&self) -> usize {
        std::fs::read_dir(self.proc("fd")).unwrap().count()
    }

    pub(crate) async fn good_client(&self) -> GoodClient {
        let url = ServerUrl::from(self.grpc);
        let client = Client::connect(&url, ClientOptions::default());
        GoodClient {
            client: client.await.unwrap(),
            address: self.http,
            http: None,
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl GoodClient {
    /// Stores a blob, and two small ones at once, and reads the first one back over gRPC; asks
    /// the HTTP cache for its status.
    pub(crate) async fn works(&mut self) {
        let data = noise(300_000);
        let digest = zako_digest::hash::bytes(&data);
        in_time("a put", self.client.put(&digest, data.clone()))
            .await
            .unwrap();
        let small = [noise(1000), noise(1000)].map(|data| (zako_digest::hash::bytes(&data), data));
        let put = in_time("a batch", self.client.put_batch(small.into())).await;
        assert!(put.iter().all(Result::is_ok), "{put:?}");
        let read = self.client.fetch(&digest, BlobRange::FULL);
        let read = in_time("a get", read).await.unwrap();
        let read = in_time("its bytes", read.bytes()).await.unwrap();
        assert!(read == data);
        let http = match &mut self.http {
            Some(http) => http,
            none => none.insert(TcpStream::connect(self.address).await.unwrap()),
        };
        let request = b"GET /status HTTP/1.1\r\nhost: x\r\n\r\n";
        http.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        while !is_whole(&answer) {
            let mut part = [0; 4096];
            let read = in_time("a status", http.read(&mut part)).await;
            let read = read.unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&part[..read]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    length.is_some_and(|length| body.len() == length.parse::<usize>().unwrap())
}

/// Bytes that nobody has stored yet.
pub(crate) fn noise(length: usize) -> Bytes {
    let mut data = vec![0; length];
    rand::rng().fill_bytes(&mut data);
    data.into()
}

/// A connection from another address of this machine.
pub(crate) async fn from(address: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((address, 0).into())?;
    socket.connect(to).await
}

pub(crate) async fn attacker(to: SocketAddr) -> TcpStream {
    from(ATTACKER, to).await.unwrap()
}

/// Fails if this hangs.
pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(HUNG, future).await;
    outcome.unwrap_or_else(|_| panic!("{what} hangs"))
}

/// Waits until the server has closed this connection; how many bytes came before.
pub(crate) async fn closed(mut stream: TcpStream) -> usize {
    let mut rest = Vec::new();
    // An end or a reset: both close it.
    let _ = in_time("the end of a connection", stream.read_to_end(&mut rest)).await;
    rest.len()
}
