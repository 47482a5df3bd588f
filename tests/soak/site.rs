//! A store, the server that runs over it, and whether that is well.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

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
    /// Of the first server, and of all that follow.
    ports: OnceLock<Ports>,
    child: Mutex<Option<Child>>,
    /// Even while a server is well; odd from before it is ended until the next one is ready.
    life: watch::Sender<u64>,
}

#[derive(Debug)]
struct Ports {
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
        Self {
            name,
            evicts: name == "small",
            lease: Duration::from_secs(3),
            cap,
            partial_ttl,
            zako: zako.to_owned(),
            folder,
            ports: OnceLock::new(),
            child: Mutex::new(None),
            life: watch::Sender::new(1),
        }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(crate) fn grpc(&self) -> &str {
        &self.ports.get().unwrap().grpc
    }

    pub(crate) fn http(&self) -> &str {
        &self.ports.get().unwrap().http
    }

    pub(crate) fn admin(&self) -> &str {
        &self.ports.get().unwrap().admin
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

    /// Starts a server on the ports of the first one, and waits until it is ready.
    pub(crate) fn start(&self, durability: &str) {
        let any = Ports {
            grpc: "127.0.0.1:0".to_owned(),
            http: "127.0.0.1:0".to_owned(),
            admin: "127.0.0.1:0".to_owned(),
        };
        let ports = self.ports.get().unwrap_or(&any);
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
            .args(["--upload-idle-timeout", "5s", "--drain-timeout", "5s"])
            .args(["--durability", durability])
            .stdout(Stdio::piped())
            .stderr(said)
            .spawn()
            .unwrap();
        let mut ready = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut ready).unwrap();
        let word = |name: &str| {
            let mut words = ready.split_whitespace();
            words.find_map(|word| Some(word.strip_prefix(name)?.to_owned()))
        };
        let ports = (word("grpc="), word("http="), word("admin="));
        let (Some(grpc), Some(http), Some(admin)) = ports else {
            panic!("{}: no server: {ready:?} {}", self.name, self.said());
        };
        self.ports.get_or_init(|| Ports { grpc, http, admin });
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
