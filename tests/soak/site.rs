//! A store, the server that runs over it, and whether that is well.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

use crate::ports::Ports;

/// A store, and its server.
pub(crate) struct Site {
    pub(crate) name: &'static str,
    /// Whether the load is more than fits.
    pub(crate) evicts: bool,
    pub(crate) lease: Duration,
    /// The most bytes that it may take.
    pub(crate) cap: u64,
    /// For how long the store keeps interrupted uploads.
    pub(crate) partial_ttl: Duration,
    zako: PathBuf,
    folder: PathBuf,
    ports: Addresses,
    /// What the servers listen on stays theirs while there is none.
    _held: Ports,
    child: Mutex<Option<Child>>,
    /// Even while a server is well; odd from before it is ended until the next one is ready.
    life: watch::Sender<u64>,
}

/// Where all servers listen.
#[derive(Debug)]
struct Addresses {
    grpc: String,
    http: String,
    admin: String,
}

/// When a call began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// The server's life.
    pub(crate) life: u64,
    pub(crate) began: Instant,
}

/// How a server is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Kill,
    Term,
}

/// How long a server may take to end.
const HUNG: Duration = Duration::from_secs(120);

impl Site {
    pub(crate) fn new(
        zako: &Path,
        folder: &Path,
        name: &'static str,
        cap: u64,
        partial_ttl: Duration,
    ) -> Self {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let held = Ports::in_a_row(3);
        let address = |at: u16| format!("127.0.0.1:{}", held.first + at);
        Self {
            name,
            evicts: name == "small",
            lease: Duration::from_secs(3),
            cap,
            partial_ttl,
            zako: zako.to_owned(),
            folder,
            ports: Addresses {
                grpc: address(0),
                http: address(1),
                admin: address(2),
            },
            _held: held,
            child: Mutex::new(None),
            life: watch::Sender::new(1),
        }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(crate) fn grpc(&self) -> &str {
        &self.ports.grpc
    }

    pub(crate) fn http(&self) -> &str {
        &self.ports.http
    }

    pub(crate) fn admin(&self) -> &str {
        &self.ports.admin
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.lock().as_ref().map(Child::id)
    }

    /// `zako` without a configuration of the caller's.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.zako);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ZAKO_") {
                command.env_remove(name);
            }
        }
        command
            .current_dir(&self.folder)
            .env("HOME", &self.folder)
            .env("XDG_CONFIG_HOME", &self.folder)
            .stdin(Stdio::null());
        command
    }

    /// Starts a server, and waits until it is ready.
    pub(crate) fn start(&self, durability: &str) {
        let ports = &self.ports;
        let mut said = File::options();
        let said = said.create(true).append(true).open(self.stderr()).unwrap();
        let mut child = self
            .command()
            .args(["serve", "--log", "error", "--rdma", "off", "--data", "data"])
            .args(["--listen", &ports.grpc, "--http", &ports.http])
            .args(["--admin", &ports.admin])
            .args(["--max-size", &self.cap.to_string()])
            .args(["--lease", &format!("{}s", self.lease.as_secs())])
            .args(["--partial-ttl", &format!("{}s", self.partial_ttl.as_secs())])
            .args(["--upload-idle-timeout", "15s", "--drain-timeout", "5s"])
            .args(["--durability", durability])
            .stdout(Stdio::piped())
            .stderr(said)
            .spawn()
            .unwrap();
        let mut ready = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut ready).unwrap();
        let has = |name: &str| ready.split_whitespace().any(|word| word.starts_with(name));
        if !["grpc=", "http=", "admin="].into_iter().all(has) {
            panic!("{}: no server: {ready:?} {}", self.name, self.said());
        }
        *self.child.lock() = Some(child);
        self.life.send_modify(|life| *life += 1);
    }

    /// Ends the server. From before that on its calls may fail.
    pub(crate) fn end(&self, how: End) {
        self.life.send_modify(|life| *life += 1);
        let mut child = self.child.lock().take().unwrap();
        let signal = match how {
            End::Kill => Signal::KILL,
            End::Term => Signal::TERM,
        };
        kill_process(Pid::from_child(&child), signal).unwrap();
        let late = Instant::now() + HUNG;
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(Instant::now() < late, "{}: a server hangs", self.name),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        if how == End::Term {
            assert!(status.success(), "{}: {status} {}", self.name, self.said());
        }
    }

    /// Waits until the server is well.
    pub(crate) async fn calm(&self) -> Moment {
        let mut life = self.life.subscribe();
        let life = *life.wait_for(|life| life % 2 == 0).await.unwrap();
        Moment {
            life,
            began: Instant::now(),
        }
    }

    /// Whether nothing has happened to the server since.
    pub(crate) fn is_calm(&self, moment: Moment) -> bool {
        *self.life.borrow() == moment.life
    }

    /// Kills the server, if it can be had at once.
    pub(crate) fn abandon(&self) {
        if let Some(mut child) = self.child.try_lock()
            && let Some(child) = child.as_mut()
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn stderr(&self) -> PathBuf {
        self.folder.join("stderr")
    }

    /// What its servers have said on stderr.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.stderr()).unwrap_or_default()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.lock().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
