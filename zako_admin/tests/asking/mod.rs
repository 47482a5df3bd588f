//! An admin port on loopback, and who asks it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use zako_admin::{AdminHandle, AdminOptions, AdminServer, Readiness, Recorder};
use zako_core::server::ListenAddr;

/// An admin port that runs.
pub(crate) struct Asked {
    pub(crate) addr: SocketAddr,
    pub(crate) readiness: Readiness,
    pub(crate) handle: AdminHandle,
    pub(crate) recorder: Arc<Recorder>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

/// What was answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) async fn new() -> Self {
        Self::with(AdminOptions::default()).await
    }

    pub(crate) async fn with(options: AdminOptions) -> Self {
        let readiness = Readiness::new();
        let listen: ListenAddr = "127.0.0.1:0".parse().unwrap();
        let server = AdminServer::bind(&listen, readiness.clone(), options).await;
        let server = server.unwrap();
        let ListenAddr::Tcp(addr) = *server.local_addr() else {
            panic!("{server:?}");
        };
        let (handle, recorder) = (server.handle(), Arc::new(Recorder::new()));
        handle.set_recorder(Arc::clone(&recorder));
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(server.serve(async {
            let _ = stopped.await;
        }));
        Self {
            addr,
            readiness,
            handle,
            recorder,
            stop,
            served,
        }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// Sends this and reads to the end; `None` if nothing is answered.
    pub(crate) async fn send(&self, request: &str) -> Option<Answer> {
        let mut stream = self.connect().await;
        // Fails where it is closed before it is read.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let text = String::from_utf8(answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some(Answer {
            status: head[9..12].parse().unwrap(),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        })
    }

    pub(crate) async fn ask(&self, method: &str, path: &str) -> Answer {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.addr);
        self.send(&request).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path).await
    }

    /// Stops it and waits for its end.
    pub(crate) async fn end(self) {
        drop(self.stop);
        self.served.await.unwrap();
    }
}

impl Answer {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}
