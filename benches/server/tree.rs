//! A folder of many files: putting it, beside copying it and beside hashing it.

use std::f64::consts::TAU;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ignore::{WalkBuilder, WalkState};
use tempfile::TempDir;
use zako_core::cas::Cas;
use zako_core::tree::{TreeOptions, TreeReport, put_tree};
use zako_digest::hash;

use crate::Outcome;
use crate::blobs::noise;
use crate::process::{Cost, Server, usage};
use crate::report::Report;
use crate::run::Run;

/// The title of the table.
pub(crate) const TITLE: &str = "A tree of 30,000 files";
/// Rows that goals are set for, and their columns.
pub(crate) const FIRST: &str = "put, empty store";
pub(crate) const AGAIN: &str = "put again, all present";
pub(crate) const PER_COPY: &str = "÷ cp -r and sync";
pub(crate) const PER_HASH: &str = "÷ walk and hash";

const COPY: &str = "cp -r and sync";
const HASH: &str = "walk and hash";

/// Files in a folder, and folders in one: sources are split about so.
const FANOUT: (usize, usize) = (12, 8);

/// The sizes of files are log-normal with this median, in bytes, and this sigma:
/// half are below 4 KiB, a tenth above 22 KiB, and they have 10 KiB on average, as
/// the sources of Rust's packages do.
const MEDIAN: f64 = 4096.0;
const SIGMA: f64 = 1.35;
const LARGEST: f64 = (1 << 20) as f64;

/// The folder that all rounds put.
pub(crate) struct Tree {
    path: PathBuf,
    /// If it was made for this.
    _made: Option<TempDir>,
}

impl Tree {
    /// The folder that the run names, or one with `count` files.
    pub(crate) fn new(run: &Run, count: usize) -> Outcome<Self> {
        if let Some(path) = &run.tree {
            return Ok(Self {
                path: path.clone(),
                _made: None,
            });
        }
        let made = run.new_folder()?;
        let path = made.path().join("source");
        for number in 0..count {
            generate(&path, number)?;
        }
        sync(&path)?;
        Ok(Self {
            path,
            _made: Some(made),
        })
    }

    /// One round.
    pub(crate) async fn round(&self, run: &Run, report: &mut Report) -> Outcome<()> {
        // All read the files from memory.
        self.walk_and_hash()?;
        run.take_pages(0)?;
        let home = run.new_folder()?;
        sync(home.path())?;
        let copy = self.copy(&home.path().join("copy"))?;
        report.add(TITLE, COPY, &[("s", copy)]);

        run.take_pages(0)?;
        let store = run.new_folder()?;
        let server = Server::start(run, store.path(), &[])?;
        let (first, cost) = self.put(&server).await?;
        report.add(TITLE, FIRST, &[(PER_COPY, cost.wall / copy)]);
        add(report, FIRST, &cost);

        let before = usage("self")?.cpu;
        let start = Instant::now();
        let bytes = self.walk_and_hash()?;
        let alone = start.elapsed().as_secs_f64();
        let cpu = usage("self")?.cpu - before;
        report.add(TITLE, HASH, &[("s", alone), ("client CPU-s", cpu)]);

        let (again, cost) = self.put(&server).await?;
        if (again.digest, again.upload.sent_blobs) != (first.digest, 0) {
            return Err("the second put sent what was there".into());
        }
        if bytes != again.file_bytes {
            return Err("the walk found other files than the put".into());
        }
        report.add(TITLE, AGAIN, &[(PER_HASH, cost.wall / alone)]);
        add(report, AGAIN, &cost);
        server.stop()
    }

    /// As `zako put --tree` does it, on a connection of its own.
    async fn put(&self, server: &Server) -> Outcome<(TreeReport, Cost)> {
        let meter = server.meter()?;
        let client = server.client(true).await?;
        let mut options = TreeOptions::default();
        options.transfer.concurrency = client.recommended_concurrency();
        let cas: Arc<dyn Cas> = Arc::new(client);
        let report = put_tree(&cas, &self.path, &options, &()).await?;
        Ok((report, meter.end()?))
    }

    /// The seconds that copying the folder takes, until the copy is on disk.
    fn copy(&self, to: &Path) -> Outcome<f64> {
        let start = Instant::now();
        run_command(Command::new("cp").arg("-r").arg(&self.path).arg(to))?;
        sync(to)?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Reads and hashes all files with a thread for each core; the bytes that they
    /// have.
    fn walk_and_hash(&self) -> Outcome<u64> {
        let (bytes, failure) = (AtomicU64::new(0), Mutex::new(None));
        let hash = |entry: Result<ignore::DirEntry, ignore::Error>| -> Outcome<()> {
            let entry = entry?;
            if entry.file_type().is_some_and(|kind| kind.is_file()) {
                let digest = hash::file(entry.path())?;
                bytes.fetch_add(digest.size(), Ordering::Relaxed);
            }
            Ok(())
        };
        WalkBuilder::new(&self.path)
            .standard_filters(false)
            .threads(std::thread::available_parallelism()?.get())
            .build_parallel()
            .run(|| {
                Box::new(|entry| match hash(entry) {
                    Ok(()) => WalkState::Continue,
                    Err(error) => {
                        let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                        *failure = Some(error);
                        WalkState::Quit
                    }
                })
            });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(bytes.into_inner()),
        }
    }
}

fn add(report: &mut Report, row: &'static str, cost: &Cost) {
    report.add(
        TITLE,
        row,
        &[
            ("s", cost.wall),
            ("client CPU-s", cost.client),
            ("server CPU-s", cost.server),
            ("server's peak, MiB", cost.peak as f64 / (1 << 20) as f64),
        ],
    );
}

/// Makes the file of this number, and the folders above it if it is the first there.
fn generate(root: &Path, number: usize) -> Outcome<()> {
    let (files, folders) = FANOUT;
    let mut folder = root.to_owned();
    let mut at = number / files;
    while at > 0 {
        folder.push(format!("folder_{}", at % folders));
        at /= folders;
    }
    if number.is_multiple_of(files) {
        std::fs::create_dir_all(&folder)?;
    }
    let words = noise(3 << 40 | number as u64, 16);
    let unit = |at: usize| {
        let word = words[at..at + 8]
            .iter()
            .fold(0, |all, &byte| all << 8 | u64::from(byte));
        // In (0, 1].
        ((word >> 11) + 1) as f64 / (1u64 << 53) as f64
    };
    // Box and Muller's way to a normal distribution.
    let normal = (-2.0 * unit(0).ln()).sqrt() * (TAU * unit(8)).cos();
    let size = (MEDIAN * (SIGMA * normal).exp()).min(LARGEST) as usize;
    let mut file = File::create(folder.join(format!("file_{number}.rs")))?;
    file.write_all(&noise(4 << 40 | number as u64, size))?;
    Ok(())
}

/// Waits until all of a file system is on disk.
fn sync(path: &Path) -> Outcome<()> {
    run_command(Command::new("sync").arg("-f").arg(path))
}

fn run_command(command: &mut Command) -> Outcome<()> {
    let status = command.status()?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{command:?} ended with {status}").into()),
    }
}
