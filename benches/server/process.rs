//! Processes: the server that is measured, and what the kernel counts of them.

use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use zako_core::client::{Client, ClientOptions, ServerUrl};

use crate::Outcome;
use crate::run::Run;

/// A running `zako serve`; killed when dropped.
pub(crate) struct Server {
    child: Child,
    /// Kept open: the server may write to it.
    _stdout: BufReader<ChildStdout>,
    pub(crate) url: ServerUrl,
}

/// What a process used up to now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Seconds of CPU, in user mode and in the kernel.
    pub(crate) cpu: f64,
    /// Resident memory now, in bytes.
    pub(crate) resident: u64,
    /// The most resident memory since [`Server::forget_peak`], in bytes.
    pub(crate) peak: u64,
}

/// What a stretch of work cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Seconds.
    pub(crate) wall: f64,
    /// The server's seconds of CPU.
    pub(crate) server: f64,
    /// This process's seconds of CPU.
    pub(crate) client: f64,
    /// The server's peak of resident memory, in bytes.
    pub(crate) peak: u64,
}

/// Measures from its making to [`end`](Self::end).
pub(crate) struct Meter<'a> {
    server: &'a Server,
    before: Usage,
    client: f64,
    start: Instant,
}

impl Server {
    /// Starts one over `data` and waits for its first line.
    pub(crate) fn start(run: &Run, data: &Path, more: &[&str]) -> Outcome<Self> {
        let mut command = Command::new(&run.zako);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ZAKO_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(["serve", "--log", "error", "--listen", "127.0.0.1:0"])
            .arg("--data")
            .arg(data)
            .args(more)
            .current_dir(data.parent().unwrap_or(data))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("the server has no stdout")?;
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let address = line
            .trim_end()
            .strip_prefix("zako: ready grpc=")
            .ok_or_else(|| format!("the server began with {line:?}"))?;
        Ok(Self {
            url: format!("http://{address}").parse()?,
            child,
            _stdout: stdout,
        })
    }

    pub(crate) async fn client(&self, verify: bool) -> Outcome<Client> {
        let mut options = ClientOptions::default();
        options.verify = verify;
        Ok(Client::connect(&self.url, options).await?)
    }

    /// Clients with one connection each.
    pub(crate) async fn clients(&self, count: usize) -> Outcome<Vec<Client>> {
        let mut options = ClientOptions::default();
        options.max_connections = 1;
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            clients.push(Client::connect(&self.url, options.clone()).await?);
        }
        Ok(clients)
    }

    pub(crate) fn usage(&self) -> Outcome<Usage> {
        usage(&self.child.id().to_string())
    }

    /// Lets the peak of resident memory begin again at what is resident now.
    fn forget_peak(&self) -> Outcome<()> {
        let path = format!("/proc/{}/clear_refs", self.child.id());
        match std::fs::write(path, "5") {
            // Without the right to, the peak is that of the process's life.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
            outcome => Ok(outcome?),
        }
    }

    pub(crate) fn meter(&self) -> Outcome<Meter<'_>> {
        self.forget_peak()?;
        Ok(Meter {
            server: self,
            before: self.usage()?,
            client: usage("self")?.cpu,
            start: Instant::now(),
        })
    }

    /// Ends it well.
    pub(crate) fn stop(mut self) -> Outcome<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let status = self.child.wait()?;
        if !status.success() {
            return Err(format!("the server ended with {status}").into());
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Meter<'_> {
    pub(crate) fn end(self) -> Outcome<Cost> {
        let wall = self.start.elapsed().as_secs_f64();
        let after = self.server.usage()?;
        Ok(Cost {
            wall,
            server: after.cpu - self.before.cpu,
            client: usage("self")?.cpu - self.client,
            peak: after.peak,
        })
    }
}

/// CPU seconds of all children that have been waited for.
pub(crate) fn children_cpu() -> Outcome<f64> {
    cpu("self", 13)
}

/// CPU seconds from the two fields of a process's `stat`, counted after its name,
/// that begin at `field`.
fn cpu(process: &str, field: usize) -> Outcome<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in parentheses, may hold anything; numbers follow.
    let fields = stat.rsplit_once(')').ok_or("no name in stat")?.1;
    let mut ticks = 0;
    for field in fields.split_whitespace().skip(field).take(2) {
        ticks += field.parse::<u64>()?;
    }
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// What a process (its number, or "self") used, its ended threads included.
pub(crate) fn usage(process: &str) -> Outcome<Usage> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let kib = |name: &str| -> Outcome<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.ok_or("a line of status is absent")?.parse()?)
    };
    Ok(Usage {
        cpu: cpu(process, 11)?,
        resident: kib("VmRSS:")? * 1024,
        peak: kib("VmHWM:")? * 1024,
    })
}
