//! A store of a million blobs: opening it, and asking what it lacks.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use bytes::Bytes;
use zako_core::Digest;
use zako_core::cas::{Cas, Lease};
use zako_core::store::{LocalStore, StoreOptions};
use zako_digest::hash;

use crate::Outcome;
use crate::blobs::noise;
use crate::process::Server;
use crate::report::Report;
use crate::run::Run;

/// The title of the table of openings.
pub(crate) const OPENING: &str = "Opening a store";
/// The title of the table of look-ups.
pub(crate) const ASKING: &str = "NegotiateBlobs, half present";

/// The role of a process that fills a store and is killed.
pub(crate) const FILL: &str = "--fill";

/// The size of the blobs. They fill three segments, which hold 2^18 records each,
/// and most of another one, which a crash leaves to be scanned.
const SIZE: usize = 160;

/// Blobs put at once.
const BATCH: usize = 4096;

/// The stores that all rounds open.
pub(crate) struct Million {
    count: usize,
    stopped: tempfile::TempDir,
    killed: tempfile::TempDir,
    /// Those of the stores, and as many others, in turn.
    digests: Vec<Digest>,
}

impl Million {
    pub(crate) async fn new(run: &Run, count: usize) -> Outcome<Self> {
        let (stopped, killed) = (run.new_folder()?, run.new_folder()?);
        fill(stopped.path(), count).await?.close().await?;
        // Killed as soon as all is acknowledged: it has no chance to clean up.
        let mut child = Command::new(std::env::current_exe()?)
            .arg(FILL)
            .arg(killed.path())
            .arg(count.to_string())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut said = [0; 5];
        if let Some(stdout) = &mut child.stdout {
            std::io::Read::read_exact(stdout, &mut said)?;
        }
        child.kill()?;
        child.wait()?;
        let digests = (0..count / 2)
            .flat_map(|at| [at, at + count])
            .map(|at| hash::bytes(&content(at)))
            .collect();
        Ok(Self {
            count,
            stopped,
            killed,
            digests,
        })
    }

    /// One round.
    pub(crate) async fn round(&self, run: &Run, report: &mut Report) -> Outcome<()> {
        let empty = run.new_folder()?;
        let server = Server::start(run, empty.path(), &[])?;
        // A client and a look-up cost memory, too.
        server
            .client(true)
            .await?
            .missing(&self.digests[..1], Lease::Default)
            .await?;
        let without = server.usage()?.resident;
        server.stop()?;

        let (name, folder) = ("after a clean stop", self.stopped.path());
        let server = self.open(run, name, folder, without, report).await?;
        self.ask(&server, report).await?;
        server.stop()?;

        let copy = run.new_folder()?;
        copy_folder(self.killed.path(), copy.path())?;
        self.open(run, "after kill -9", copy.path(), without, report)
            .await?
            .stop()
    }

    /// Starts a server and waits until it knows whether it has a blob.
    async fn open(
        &self,
        run: &Run,
        name: &'static str,
        folder: &Path,
        without: u64,
        report: &mut Report,
    ) -> Outcome<Server> {
        let start = Instant::now();
        let server = Server::start(run, folder, &[])?;
        let ready = start.elapsed().as_secs_f64();
        let client = server.client(true).await?;
        if client
            .missing(&self.digests[..2], Lease::Default)
            .await?
            .len()
            != 1
        {
            return Err("the opened store has other blobs than it should".into());
        }
        let opened = start.elapsed().as_secs_f64();
        let usage = server.usage()?;
        let resident = usage.resident.saturating_sub(without) as f64;
        report.add(
            OPENING,
            name,
            &[
                ("listening, s", ready),
                ("answering, s", opened),
                ("server CPU-s", usage.cpu),
                ("memory, B a blob", resident / self.count as f64),
            ],
        );
        Ok(server)
    }

    async fn ask(&self, server: &Server, report: &mut Report) -> Outcome<()> {
        let client = server.client(true).await?;
        for name in ["first time", "again"] {
            let meter = server.meter()?;
            let missing = client.missing(&self.digests, Lease::Default).await?;
            let cost = meter.end()?;
            if missing.len() != self.digests.len() / 2 {
                return Err("the store lacks other blobs than it should".into());
            }
            let count = self.digests.len() as f64;
            report.add(
                ASKING,
                name,
                &[
                    ("digests/s, millions", count / cost.wall / 1e6),
                    ("server CPU ns", cost.server / count * 1e9),
                    ("client CPU ns", cost.client / count * 1e9),
                    ("server's peak, MiB", cost.peak as f64 / (1 << 20) as f64),
                ],
            );
        }
        Ok(())
    }
}

fn content(at: usize) -> Vec<u8> {
    noise(1 << 40 | at as u64, SIZE)
}

/// A store with `count` blobs.
pub(crate) async fn fill(folder: &Path, count: usize) -> Outcome<LocalStore> {
    let store = LocalStore::open(folder, StoreOptions::default()).await?;
    for from in (0..count).step_by(BATCH) {
        let batch = (from..count.min(from + BATCH)).map(|at| {
            let data = Bytes::from(content(at));
            (hash::bytes(&data), data)
        });
        for outcome in store.put_batch(batch.collect()).await {
            outcome?;
        }
    }
    Ok(store)
}

/// Fills a store, says so, and waits to be killed.
pub(crate) async fn fill_and_wait(folder: &Path, count: usize) -> Outcome<()> {
    let _store = fill(folder, count).await?;
    println!("full");
    std::future::pending().await
}

fn copy_folder(from: &Path, to: &Path) -> Outcome<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            std::fs::create_dir_all(&to)?;
            copy_folder(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
