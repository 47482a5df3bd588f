//! Runs the real `zako` in an environment of its own.
#![allow(dead_code, reason = "each test file uses its part")]

mod ports;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

#[allow(unused_imports, reason = "as above")]
pub(crate) use ports::Ports;
use serde_json::Value;
use tempfile::TempDir;

/// A home folder with nothing in it, and no `ZAKO_*` variable of the caller.
pub(crate) struct Home {
    dir: TempDir,
    variables: Vec<(String, String)>,
}

/// What a run said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            variables: Vec::new(),
        }
    }

    /// Sets a variable for all runs.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.variables.push((name.to_owned(), value.into()));
    }

    /// A path in the home, which is also where commands run.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file, with its folders.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zako"));
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("ZAKO_") || name_text.starts_with("XDG_") {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("HOME", self.dir.path())
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Said {
        self.command(args).output().unwrap().into()
    }

    /// A new token of this name and role, and the lines of `zako.toml` that know it.
    pub(crate) fn token(&self, name: &str, role: &str) -> (String, String) {
        let said = self.run(["access", "token", name, "--role", role, "--json"]);
        said.ok();
        let made = said.json().remove(0);
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        (text("token"), text("config"))
    }

    /// Runs with `input` on stdin.
    pub(crate) fn run_with<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
        input: &[u8],
    ) -> Said {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            // The command may end without reading all of it.
            scope.spawn(move || {
                let _ = stdin.write_all(input);
            });
            child.wait_with_output().unwrap().into()
        })
    }
}

impl Said {
    /// Stdout of a run that must have succeeded.
    #[track_caller]
    pub(crate) fn ok(&self) -> String {
        assert_eq!(self.code, Some(0), "{self}");
        self.text()
    }

    /// The run must have failed with this code; gives stderr.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self}");
        assert!(!self.stderr.contains("panicked"), "{self}");
        &self.stderr
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The objects of a run with `--json`.
    #[track_caller]
    pub(crate) fn json(&self) -> Vec<Value> {
        self.text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?}\n{self}")))
            .collect()
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self.text();
        let start: String = text.chars().take(4000).collect();
        write!(
            f,
            "exit {:?}\n--- stdout\n{start}\n--- stderr\n{}",
            self.code, self.stderr
        )
    }
}

/// A running `zako serve`; killed when dropped.
pub(crate) struct Server {
    child: Child,
    stdout: BufReader<ChildStdout>,
    pub(crate) address: String,
    /// The device it offers RDMA on.
    pub(crate) rdma: Option<String>,
}

impl Server {
    /// Starts one on a free port over the home's folder `data` and waits for its
    /// first line.
    pub(crate) fn start(home: &Home, more: &[&str]) -> Self {
        Self::listen(home, "127.0.0.1:0", more)
    }

    pub(crate) fn listen(home: &Home, listen: &str, more: &[&str]) -> Self {
        let mut command = home.command(["serve", "--log", "error", "--listen", listen, "--data"]);
        command.arg(home.path("data")).args(more);
        let mut child = command.stderr(Stdio::inherit()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let ready = line
            .trim_end()
            .strip_prefix("zako: ready grpc=")
            .unwrap_or_else(|| panic!("{line:?}"));
        let (address, rdma) = match ready.split_once(" rdma=") {
            Some((address, rdma)) => (address.to_owned(), Some(rdma.to_owned())),
            None => (ready.to_owned(), None),
        };
        Self {
            child,
            stdout,
            address,
            rdma,
        }
    }

    pub(crate) fn url(&self) -> String {
        match self.address.strip_prefix("unix:") {
            Some(_) => self.address.clone(),
            None => format!("http://{}", self.address),
        }
    }

    /// Ends it without a chance to clean up.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it by a signal and waits; gives its exit code.
    pub(crate) fn stop(mut self, signal: rustix::process::Signal) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
        let code = self.child.wait().unwrap().code();
        let mut rest = String::new();
        self.stdout.read_line(&mut rest).unwrap();
        code
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `length` bytes that don't compress and differ from seed to seed (splitmix64).
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length.next_multiple_of(8)];
    let mut state = seed.wrapping_mul(0xd134_2543_de82_ef95);
    for word in bytes.chunks_exact_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// All that a folder has: each path with its kind, mode, and content or target.
pub(crate) fn listing(root: &Path) -> Vec<(PathBuf, String, Vec<u8>)> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;
    let mut all = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            let meta = entry.metadata().unwrap();
            let mode = meta.permissions().mode() & 0o7777;
            let (kind, content) = if meta.is_dir() {
                folders.push(path.clone());
                (format!("folder {mode:o}"), Vec::new())
            } else if meta.is_symlink() {
                let target = std::fs::read_link(&path).unwrap();
                ("link".to_owned(), target.as_os_str().as_bytes().to_vec())
            } else {
                (format!("file {mode:o}"), std::fs::read(&path).unwrap())
            };
            all.push((path.strip_prefix(root).unwrap().to_owned(), kind, content));
        }
    }
    all.sort();
    all
}
