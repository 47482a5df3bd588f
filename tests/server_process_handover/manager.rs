//! What starts servers: with sockets that it holds, as systemd does, or without.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::server_process::Place;

/// Holds the sockets of servers.
pub(crate) struct Manager {
    grpc: TcpListener,
    http: TcpListener,
    errors: tempfile::NamedTempFile,
}

/// A server that was started.
pub(crate) struct Running {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    errors: PathBuf,
    addresses: Option<(SocketAddr, SocketAddr)>,
}

/// How long a child may take before the test gives it up as hung.
const HUNG: Duration = Duration::from_secs(300);

impl Manager {
    pub(crate) fn new() -> Self {
        Self {
            grpc: TcpListener::bind("127.0.0.1:0").unwrap(),
            http: TcpListener::bind("127.0.0.1:0").unwrap(),
            errors: tempfile::NamedTempFile::new().unwrap(),
        }
    }

    pub(crate) fn grpc(&self) -> SocketAddr {
        self.grpc.local_addr().unwrap()
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.http.local_addr().unwrap()
    }

    /// All that servers said on stderr.
    pub(crate) fn errors(&self) -> String {
        std::fs::read_to_string(self.errors.path()).unwrap()
    }

    /// Starts a server and hands the sockets on, as sd_listen_fds(3) has it.
    pub(crate) fn start(&self, place: &Place) -> Running {
        // The shell puts them where they belong: the standard library gives children no
        // descriptors but the first three.
        let script = "exec 3<&0 4<&2 0</dev/null 2>>\"$ERRORS\"; export LISTEN_FDS=2; \
                      export LISTEN_FDNAMES=grpc:http; export LISTEN_PID=$$; exec \"$@\"";
        let server = serve(place, &[]);
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", script, "sh"])
            .arg(server.get_program())
            .args(server.get_args());
        for (name, value) in server.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let hand = |socket: &TcpListener| OwnedFd::from(socket.try_clone().unwrap());
        let child = command
            .current_dir(place.data().parent().unwrap())
            .env("ERRORS", self.errors.path())
            .stdin(hand(&self.grpc))
            .stderr(hand(&self.http))
            .stdout(Stdio::piped())
            .spawn();
        Running::new(child.unwrap(), self.errors.path())
    }
}

/// `zako serve` with no ports but these.
fn serve(place: &Place, ports: &[&str]) -> Command {
    let mut command = place.command(&["serve", "--log", "error,zako=info", "--admin", "off"]);
    command.arg("--data").arg(place.data()).args(ports);
    command
}

impl Running {
    fn new(mut child: Child, errors: &Path) -> Self {
        Self {
            stdout: Some(BufReader::new(child.stdout.take().unwrap())),
            child,
            errors: errors.to_owned(),
            addresses: None,
        }
    }

    /// A server that takes free ports.
    pub(crate) fn by_itself(place: &Place) -> Self {
        let errors = place.data().with_file_name("errors");
        let ports = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        let child = serve(place, &ports)
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).unwrap())
            .spawn();
        Self::new(child.unwrap(), &errors)
    }

    /// Waits for its first line, or for that of the program which follows it.
    pub(crate) async fn ready(mut self) -> Self {
        let mut stdout = self.stdout.take().unwrap();
        let reading = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            (stdout, line)
        });
        let (stdout, line) = tokio::time::timeout(HUNG, reading)
            .await
            .expect("it gets ready")
            .unwrap();
        self.stdout = Some(stdout);
        let ports = line.trim_end().strip_prefix("zako: ready grpc=");
        let ports = ports.and_then(|ports| ports.split_once(" http="));
        let (grpc, http) = ports.unwrap_or_else(|| panic!("{line:?}: {}", self.errors()));
        self.addresses = Some((grpc.parse().unwrap(), http.parse().unwrap()));
        self
    }

    pub(crate) fn grpc(&self) -> SocketAddr {
        self.addresses.unwrap().0
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.addresses.unwrap().1
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it has said this on stderr.
    pub(crate) async fn says(&self, text: &str) {
        let late = Instant::now() + HUNG;
        while !self.errors().contains(text) {
            assert!(
                Instant::now() < late,
                "{text:?} is not in: {}",
                self.errors()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for its end; gives its exit code.
    pub(crate) async fn ended(mut self) -> Option<i32> {
        let late = Instant::now() + HUNG;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < late, "it hangs: {}", self.errors());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
