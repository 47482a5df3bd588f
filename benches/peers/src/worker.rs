//! The process that gets or puts: it prepares, says so, waits for its cue, works, and
//! tells what that took.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};

use crate::load::Load;
use crate::process::usage;
use crate::{Outcome, iroh_blobs_peer, nginx, zako};

/// The first argument of such a process.
pub(crate) const ROLE: &str = "--worker";

const READY: &str = "ready";

/// What is done.
pub(crate) struct Task {
    pub(crate) load: Load,
    pub(crate) how: How,
    /// The server's; empty for a put, which is into a store of the process.
    pub(crate) address: String,
    /// The names of the blobs.
    pub(crate) list: PathBuf,
    /// For a store of the process.
    pub(crate) folder: PathBuf,
}

/// What is done with the blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// Got and dropped.
    Get,
    /// Got and dropped, what came is compared with its name.
    GetHashed,
    /// The same with one request for all.
    GetBatch,
    /// Got into a store that checks them; durable when it is done.
    GetStored,
    /// Got into a store that checks them; written back later.
    GetStoredLater,
    /// Put into a store; durable when it is done.
    Put,
    /// Put into a store; written back later.
    PutLater,
    /// As `Put`, many blobs a call.
    PutBatch,
    /// As `PutLater`, many blobs a call.
    PutBatchLater,
}

const HOWS: &[How] = &[
    How::Get,
    How::GetHashed,
    How::GetBatch,
    How::GetStored,
    How::GetStoredLater,
    How::Put,
    How::PutLater,
    How::PutBatch,
    How::PutBatchLater,
];

impl How {
    pub(crate) fn is_put(self) -> bool {
        matches!(
            self,
            Self::Put | Self::PutLater | Self::PutBatch | Self::PutBatchLater
        )
    }

    /// Whether it writes to the disk.
    pub(crate) fn writes(self) -> bool {
        self.is_put() || matches!(self, Self::GetStored | Self::GetStoredLater)
    }
}

/// The processes that can be told to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Zako,
    IrohBlobs,
    Nginx,
}

/// Gives the cue; taken by the work when all is prepared.
pub(crate) struct Cue(());

/// Work under way.
pub(crate) struct Running {
    cpu: f64,
    start: Instant,
}

/// What the work took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
}

/// Such a process, from outside; killed when dropped.
pub(crate) struct Worker {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Cue {
    /// Says that all is prepared, and waits for the cue.
    pub(crate) fn wait(self) -> Outcome<Running> {
        println!("{READY}");
        std::io::stdin().lock().read_line(&mut String::new())?;
        Ok(Running {
            cpu: usage("self")?.cpu,
            start: Instant::now(),
        })
    }
}

impl Running {
    pub(crate) fn end(self) -> Outcome<()> {
        let wall = self.start.elapsed().as_secs_f64();
        println!("{wall} {}", usage("self")?.cpu - self.cpu);
        Ok(())
    }
}

impl Worker {
    /// Starts one and waits until it is prepared.
    pub(crate) fn start(peer: Peer, task: &Task) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([ROLE, &format!("{peer:?}"), &format!("{:?}", task.how)])
            .args([&task.load.to_string(), &task.address])
            .args([&task.list, &task.folder])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().ok_or("a worker has no stdin")?;
        let stdout = child.stdout.take().ok_or("a worker has no stdout")?;
        let mut worker = Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
        };
        match worker.line()?.as_str() {
            READY => Ok(worker),
            other => Err(format!("a worker began with {other:?}").into()),
        }
    }

    /// Gives the cue and waits for the end of the work; the process goes on.
    pub(crate) fn work(&mut self) -> Outcome<Took> {
        self.stdin.write_all(b"\n")?;
        let line = self.line()?;
        let (wall, cpu) = line.split_once(' ').ok_or("a worker failed")?;
        Ok(Took {
            wall: wall.parse()?,
            cpu: cpu.parse()?,
        })
    }

    /// Waits for the end of the process.
    pub(crate) fn end(mut self) -> Outcome<()> {
        let status = self.child.wait()?;
        if !status.success() {
            return Err(format!("a worker ended with {status}").into());
        }
        Ok(())
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The work of such a process, as its arguments tell.
pub(crate) async fn work(args: &[String]) -> Outcome<()> {
    let [peer, how, load, address, list, folder] = args else {
        return Err("a worker has six arguments".into());
    };
    let known = HOWS.iter().find(|known| format!("{known:?}") == *how);
    let task = Task {
        load: load.parse()?,
        how: *known.ok_or_else(|| format!("{how:?} is not known"))?,
        address: address.clone(),
        list: list.into(),
        folder: folder.into(),
    };
    match (peer.as_str(), task.how.is_put()) {
        ("Zako", false) => zako::get(task, Cue(())).await,
        ("Zako", true) => zako::put(task, Cue(())).await,
        ("IrohBlobs", false) => iroh_blobs_peer::get(task, Cue(())).await,
        ("IrohBlobs", true) => iroh_blobs_peer::put(task, Cue(())).await,
        ("Nginx", false) => nginx::get(&task, Cue(())),
        _ => Err(format!("{peer} can't do that").into()),
    }
}

/// Does `work` for each item, for `at_once` of them at a time, on all threads.
pub(crate) async fn each<T, F, W>(items: Vec<T>, at_once: usize, work: F) -> Outcome<()>
where
    F: Fn(T) -> W,
    W: Future<Output = Outcome<()>> + Send + 'static,
{
    stream::iter(items.into_iter().map(work))
        .map(tokio::spawn)
        .buffer_unordered(at_once)
        .map(|joined| joined?)
        .try_collect()
        .await
}
