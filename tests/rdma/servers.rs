//! Servers in processes of their own.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::{child, device};

/// A folder for one store and what its servers say.
pub(crate) struct Place {
    folder: TempDir,
    /// Servers may pin so much memory, in bytes.
    pub(crate) may_pin: Option<u64>,
    /// What servers make the memory of sessions of.
    pub(crate) pages: Option<&'static str>,
}

/// A server that is ready. Killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    errors: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            may_pin: None,
            pages: None,
        }
    }

    /// Starts `zako serve` on a free port, and waits until it is ready.
    pub(crate) fn serve(&self) -> Server {
        self.serve_on("127.0.0.1:0")
    }

    pub(crate) fn serve_on(&self, address: &str) -> Server {
        let device = device::wish(device::SERVER).device.unwrap_or_default();
        // One that is named must be usable.
        let device = match self.may_pin {
            Some(_) => "auto",
            None => &device,
        };
        let mut command = self.command(env!("CARGO_BIN_EXE_zako"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ZAKO_") {
                command.env_remove(name);
            }
        }
        command
            .args(["serve", "--log", "warn", "--listen", address, "--data"])
            .arg(self.folder.path().join("data"))
            .args(["--rdma", device, "--rdma-trust", "127.0.0.0/8"])
            .env("HOME", self.folder.path())
            .env("XDG_CONFIG_HOME", self.folder.path());
        if let Some(pages) = self.pages {
            command.args(["--rdma-pages", pages]);
        }
        self.start(command)
    }

    /// Starts a program that serves with the library, which asks nothing in advance.
    pub(crate) fn serve_bare(&self) -> Server {
        let program = std::env::current_exe().unwrap();
        let mut command = self.command(program.to_str().unwrap());
        command.args([child::CHILD, "serve"]);
        command.arg(self.folder.path().join("data"));
        self.start(command)
    }

    fn command(&self, program: &str) -> Command {
        match self.may_pin {
            Some(bytes) => child::limited_to(bytes, program),
            None => Command::new(program),
        }
    }

    fn start(&self, mut command: Command) -> Server {
        let errors = self.folder.path().join("stderr");
        let mut child = command
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let mut server = Server {
            child,
            address: String::new(),
            errors,
        };
        let ready = line.trim_end().strip_prefix("zako: ready grpc=");
        match ready.and_then(|rest| rest.split(' ').next()) {
            Some(address) => server.address = address.to_owned(),
            None => panic!("{line:?}: {}", server.said()),
        }
        server
    }
}

impl Server {
    /// What it has written to stderr.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap()
    }

    /// What its memory is of, as the kernel tells.
    pub(crate) fn maps(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/maps", self.child.id())).unwrap()
    }

    /// Bytes that the kernel counts as pinned for it.
    pub(crate) fn pinned(&self) -> u64 {
        pinned(&self.child)
    }

    /// Ends it without a chance to clean up.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// `VmPin` of a process, in bytes.
fn pinned(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPin:"));
    let kib: u64 = line.unwrap().trim_end_matches("kB").trim().parse().unwrap();
    kib * 1024
}
