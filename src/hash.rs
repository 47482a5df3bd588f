//! `zako hash`: digests without a store.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use clap::Args;
use zako_core::Digest;
use zako_digest::hash::Hasher;

use crate::digests::Named;
use crate::failure::{Failure, Failures};
use crate::output::Output;
use crate::walk::walk;

/// Print the digests of files, without a server
#[derive(Args, Debug)]
pub(crate) struct HashArgs {
    /// Files; folders for all files under them; - for stdin
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// Read at once when one file is hashed by all cores.
const PARALLEL_STEP: usize = 4 << 20;

/// What `-` is called in the output.
pub(crate) const STDIN: &str = "-";

pub(crate) fn run(args: &HashArgs, output: &mut Output) -> Result<(), Failure> {
    let mut failures = Failures::new(output.json());
    // Runs of real paths are walked and hashed together.
    for paths in args.paths.chunk_by(|a, b| !is_stdin(a) && !is_stdin(b)) {
        if let [path] = paths
            && is_stdin(path)
        {
            match one(&mut io::stdin().lock()) {
                Ok(digest) => print(output, digest, path)?,
                Err(error) => failures.add(Failure::io("reading", Path::new("stdin"), &error)),
            }
            continue;
        }
        let found = walk(paths);
        for failure in found.failures {
            failures.add(failure);
        }
        hash_files(&found.files, |path, outcome| {
            match outcome {
                Ok(digest) => print(output, digest, path)?,
                Err(error) => failures.add(Failure::io("reading", path, &error)),
            }
            Ok(())
        })?;
    }
    failures.into_result()
}

pub(crate) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == STDIN
}

fn print(output: &mut Output, digest: Digest, path: &Path) -> Result<(), Failure> {
    output.record(&Named::new(&digest, path))
}

/// Hashes `files` on all cores and hands the outcomes to `done` in their order.
fn hash_files(
    files: &[PathBuf],
    mut done: impl FnMut(&Path, io::Result<Digest>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    if let [file] = files {
        return done(file, File::open(file).and_then(|mut file| one(&mut file)));
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let (sender, receiver) = mpsc::sync_channel(1024);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(files.len()) {
            let sender = sender.clone();
            let (next, stop) = (&next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(file) = files.get(at) else { break };
                    if sender.send((at, zako_digest::hash::file(file))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut printed = 0;
        let mut early = std::collections::HashMap::new();
        for (at, outcome) in receiver {
            early.insert(at, outcome);
            while let Some(outcome) = early.remove(&printed) {
                if let Err(failure) = done(&files[printed], outcome) {
                    stop.store(true, Ordering::Relaxed);
                    return Err(failure);
                }
                printed += 1;
            }
        }
        Ok(())
    })
}

/// Hashes one source on all cores.
fn one(reader: &mut impl Read) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        // Grows to a step only when there is that much to read.
        if reader.take(PARALLEL_STEP as u64).read_to_end(&mut buffer)? == 0 {
            return Ok(hasher.finish());
        }
        hasher.update_parallel(&buffer);
    }
}
