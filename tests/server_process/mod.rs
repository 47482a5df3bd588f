//! A child `zako serve` that the test kills, stops and starts again.
#![allow(dead_code, reason = "each test file uses its part")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use zako_core::client::{Client, ClientOptions, RetryPolicy};

/// A folder for one store and what its servers say.
pub(crate) struct Place(TempDir);

/// A child that was started, and may not be ready.
pub(crate) struct Starting {
    child: Child,
    stdout: BufReader<ChildStdout>,
    errors: PathBuf,
}

/// A server that is ready. Killed when dropped.
pub(crate) struct Server {
    process: Starting,
    address: String,
}

/// How long a child may take to end before the test gives it up as hung.
const HUNG: Duration = Duration::from_secs(60);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The store's folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// `zako` with these arguments and no configuration but theirs.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zako"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ZAKO_") {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .current_dir(self.0.path())
            .env("HOME", self.0.path())
            .env("XDG_CONFIG_HOME", self.0.path())
            .stdin(Stdio::null());
        command
    }

    /// Starts a server on a free port and waits until it is ready.
    pub(crate) fn serve(&self, more: &[&str]) -> Server {
        self.start(more).ready()
    }

    /// Starts a server and doesn't wait.
    pub(crate) fn start(&self, more: &[&str]) -> Starting {
        let errors = self.0.path().join("stderr");
        let mut child = self
            .command(&["serve", "--log", "error", "--listen", "127.0.0.1:0"])
            .arg("--data")
            .arg(self.data())
            .args(more)
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        Starting {
            stdout: BufReader::new(child.stdout.take().unwrap()),
            child,
            errors,
        }
    }
}

impl Starting {
    fn ready(mut self) -> Server {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("zako: ready grpc=");
        let address = address.unwrap_or_else(|| panic!("{line:?}: {}", self.errors()));
        Server {
            address: address.to_owned(),
            process: self,
        }
    }

    /// Ends it without a chance to clean up. What it has said so far must not be
    /// an error.
    #[track_caller]
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        assert_eq!(self.errors(), "");
    }

    /// What it has written to stderr.
    fn errors(&self) -> String {
        let mut text = String::new();
        let mut file = File::open(&self.errors).unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    fn wait(&mut self) -> Option<i32> {
        let late = Instant::now() + HUNG;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < late, "it hangs: {}", self.errors());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// A client that tries nothing again, so that each call's fate is its own.
    pub(crate) async fn client(&self) -> Client {
        let mut options = ClientOptions::default();
        options.retry = RetryPolicy::NEVER;
        self.client_with(options).await
    }

    pub(crate) async fn client_with(&self, options: ClientOptions) -> Client {
        let url = format!("http://{}", self.address).parse().unwrap();
        Client::connect(&url, options).await.unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process.child), signal).unwrap();
    }

    /// Waits for its end; gives its exit code and what it wrote to stderr.
    pub(crate) async fn ended(mut self) -> (Option<i32>, String) {
        tokio::task::spawn_blocking(move || (self.process.wait(), self.process.errors()))
            .await
            .unwrap()
    }

    /// Ends it by SIGTERM, which must go well.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        let code = self.process.wait();
        assert_eq!(
            (code, self.process.errors().as_str()),
            (Some(0), ""),
            "after SIGTERM"
        );
    }

    #[track_caller]
    pub(crate) fn kill(self) {
        self.process.kill();
    }
}

/// Bytes on disk as the store counts them: files of the segments and of partial
/// uploads by their length, large blobs in blocks.
pub(crate) fn bytes_on_disk(data: &Path) -> u64 {
    let lengths = |folder: PathBuf| -> Vec<u64> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().metadata().unwrap())
            .filter(std::fs::Metadata::is_file)
            .map(|file| file.len())
            .collect()
    };
    let large = std::fs::read_dir(data.join("large")).unwrap();
    let large: u64 = large
        .flat_map(|folder| lengths(folder.unwrap().path()))
        .map(|length| length.next_multiple_of(4096))
        .sum();
    let rest: u64 = ["segments", "partial", "quarantine"]
        .into_iter()
        .flat_map(|folder| lengths(data.join(folder)))
        .sum();
    large + rest
}

/// `length` bytes that differ from seed to seed.
pub(crate) fn noise(seed: u64, length: usize) -> Bytes {
    use rand::{RngCore, SeedableRng};
    let mut bytes = vec![0; length];
    rand::rngs::StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes.into()
}
