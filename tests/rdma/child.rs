//! What this program does as a child of itself.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use bytes::BytesMut;
use zako_core::Digest;
use zako_core::cas::Cas;
use zako_core::client::TransportChoice;
use zako_core::server::{ListenAddr, RdmaOptions, Server, ServerOptions};
use zako_core::store::{LocalStore, StoreOptions};

use crate::content::{MIB, blob, client, fresh_client, get, held_off, open, options, run, take};
use crate::device;

/// The argument that makes this program a child.
pub(crate) const CHILD: &str = "--child";

/// A child that says a line when it has come as far as it shall.
pub(crate) struct Process {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::spawn(Command::new(std::env::current_exe().unwrap()), arguments)
    }

    /// As [`start`](Self::start), and it may pin so many bytes.
    pub(crate) fn start_limited(bytes: u64, arguments: &[&str]) -> Self {
        let program = std::env::current_exe().unwrap();
        Self::spawn(limited_to(bytes, program.to_str().unwrap()), arguments)
    }

    fn spawn(mut command: Command, arguments: &[&str]) -> Self {
        let mut child = command
            .arg(CHILD)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    /// The next line that it says.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "the child has ended");
        line.trim_end().to_owned()
    }

    /// Ends it without a chance to clean up.
    pub(crate) fn kill(self) {
        drop(self);
    }

    /// Lets it go on to its end, which must go well.
    pub(crate) fn end(mut self) {
        // It may have ended by itself.
        let _gone = writeln!(self.child.stdin.take().unwrap(), "go on");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// A program without the privilege to pin more than its limit, which is so many bytes.
pub(crate) fn limited_to(bytes: u64, program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"])
        .arg("prlimit")
        .arg(format!("--memlock={bytes}:{bytes}"))
        .arg(program);
    command
}

pub(crate) fn act(arguments: &[String]) {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve", data] => serve(data),
        ["move", address, seed, bytes] => {
            moves(address, seed.parse().unwrap(), bytes.parse().unwrap())
        }
        ["hold", address, digest] => holds(address, digest),
        ["give", address, bytes] => gives(address, bytes.parse().unwrap()),
        ["limited", address] => limited(address),
        _ => panic!("no role {arguments:?}"),
    }
}

fn serve(data: &str) {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    run(async {
        let options = StoreOptions::default();
        let store = LocalStore::open(data, options).await.unwrap();
        let fabric = device::open(device::SERVER).unwrap();
        let trusted = vec!["127.0.0.0/8".parse().unwrap()];
        let address = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
        let server = Server::new(Arc::new(store.clone()), ServerOptions::default())
            .with_maintenance(Arc::new(store))
            .with_rdma(RdmaOptions::new(fabric, trusted));
        let server = server.bind(&address).await.unwrap();
        say(&format!("zako: ready grpc={}", server.local_addr()));
        server.serve(std::future::pending()).await.unwrap();
    });
}

/// Puts and gets blobs of its own, some at once.
fn moves(address: &str, seed: u64, bytes: usize) {
    run(async {
        let client = client(address, TransportChoice::Rdma).await;
        let moved = |seed| {
            let client = client.clone();
            async move {
                let (digest, data) = blob(bytes, seed);
                client.put(&digest, data.clone()).await.unwrap();
                get(&client, &digest, &data).await;
            }
        };
        tokio::join!(moved(seed), moved(seed + 1), moved(seed + 2));
        let roads = client.roads();
        assert_eq!((roads.rdma.transfers, roads.grpc.transfers), (6, 0));
        say("moved");
        // The session stays open until all have been seen at once.
        wait();
    });
}

/// Reads a part of a blob and then no more.
fn holds(address: &str, digest: &str) {
    run(async {
        let client = client(address, TransportChoice::Rdma).await;
        let digest: Digest = digest.parse().unwrap();
        let mut blob = open(&client, &digest).await;
        take(&mut blob, MIB, &mut BytesMut::new()).await;
        say("midway");
        wait();
    });
}

/// Sends a part of a blob and then no more.
fn gives(address: &str, bytes: usize) {
    run(async {
        let client = client(address, TransportChoice::Rdma).await;
        let (digest, data) = blob(bytes, 99);
        let mut writer = client.writer(&digest, 0).await.unwrap();
        writer.write(data.slice(..bytes / 2)).await.unwrap();
        say("midway");
        wait();
    });
}

/// A client that may pin too little.
fn limited(address: &str) {
    run(async {
        let client = fresh_client(address, options(TransportChoice::Auto)).await;
        let (digest, data) = blob(MIB, 1);
        client.put(&digest, data.clone()).await.unwrap();
        get(&client, &digest, &data).await;
        let roads = client.roads();
        assert_eq!((roads.rdma.transfers, roads.grpc.transfers), (0, 2));
        say(&held_off(&client).await);
    });
}

fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").unwrap();
    stdout.flush().unwrap();
}

/// Until the parent has ended or says something.
fn wait() {
    std::io::stdin()
        .lock()
        .read_line(&mut String::new())
        .unwrap();
}
