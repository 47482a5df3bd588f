//! `zako put`: files, folders, trees and stdin into the server.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use clap::Args;
use futures::future::ready;
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use zako_core::Digest;
use zako_core::cas::{Cas, CasError, ErrorKind, Lease};
use zako_core::client::Client;
use zako_core::transfer::{Source, TransferOptions, Upload, UploadReport, hash_files, upload};
use zako_core::tree::{TreeOptions, put_tree};

use crate::config::{ClientKeys, Layers};
use crate::connect::{connect_for_blobs, tree_options};
use crate::digests::Named;
use crate::failure::{Exit, Failure, Failures};
use crate::hash::{STDIN, is_stdin};
use crate::output::Output;
use crate::progress::Bar;
use crate::quantity::{bytes, count, plural, rate, took};
use crate::roads::{self, Moved, Road};
use crate::spool::{self, Spooled};
use crate::walk::{Found, walk};

/// Put files, folders or stdin into the server
///
/// Prints the digest and the path of every file. What the server has already is
/// not sent. With --json each object has the road that what was put with it took,
/// "transport": rdma, grpc or rdma+grpc; it is absent if nothing had to be sent. A file that can't be read, or changes meanwhile, is reported and the
/// rest is stored.
#[derive(Args, Debug)]
pub(crate) struct PutArgs {
    /// Files; folders for all files under them; - for stdin
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Store each folder as a tree, whose one digest gives it back whole: with
    /// permissions, symbolic links and empty folders
    #[arg(long)]
    tree: bool,

    #[command(flatten)]
    client: ClientKeys,
}

/// A path that is stored.
#[derive(Serialize)]
struct Stored<'a> {
    #[serde(flatten)]
    named: Named<'a>,
    /// That of the upload it was part of.
    #[serde(flatten)]
    road: Road,
}

/// The files of one upload, and what became of them.
#[derive(Default)]
struct Batch {
    /// How many of them were hashed, or could not be.
    hashed: usize,
    stored: Vec<(Digest, PathBuf)>,
    failures: Vec<Failure>,
    /// What ended it early: nothing after it is tried.
    fatal: Option<Failure>,
}

/// Files that change or vanish while they are read: after so many the upload is
/// given up.
const MOST_CHANGED: usize = 16;

pub(crate) async fn run(
    args: PutArgs,
    layers: &Layers<'_>,
    output: &mut Output,
) -> Result<(), Failure> {
    let client = connect_for_blobs(args.client, layers).await?;
    let outcome = put(&client, &args.paths, args.tree, output).await;
    roads::report(&client, layers).await;
    outcome
}

async fn put(
    client: &Client,
    paths: &[PathBuf],
    as_trees: bool,
    output: &mut Output,
) -> Result<(), Failure> {
    let options = tree_options(client);
    let cas: Arc<dyn Cas> = Arc::new(client.clone());
    let begun = client.roads();
    let start = Instant::now();
    let mut total = UploadReport::default();
    let mut failures = Failures::new(output.json());
    // Runs of real paths are walked and stored together.
    for paths in paths.chunk_by(|a, b| !is_stdin(a) && !is_stdin(b)) {
        let bar = Bar::bytes("putting", output);
        let before = client.roads();
        let outcome = match paths {
            [path] if is_stdin(path) => put_stdin(&cas, &options.transfer, &bar).await,
            paths if as_trees => put_trees(&cas, paths, &options, &bar).await,
            paths => Ok(put_files(&cas, paths, &options.transfer, &bar).await),
        };
        bar.finish();
        let (batch, report) = outcome.unwrap_or_else(|fatal| {
            let fatal = Some(fatal);
            let batch = Batch {
                fatal,
                ..Batch::default()
            };
            (batch, UploadReport::default())
        });
        let road = Moved::since(client, &before).road();
        for (digest, path) in &batch.stored {
            output.record(&Stored {
                named: Named::new(digest, path),
                road: road.clone(),
            })?;
        }
        for failure in batch.failures {
            failures.add(failure);
        }
        add(&mut total, &report);
        if let Some(fatal) = batch.fatal {
            failures.add(fatal);
            break;
        }
    }
    output.flush()?;
    Bar::note(
        output,
        format_args!(
            "{}, {}: sent {}, {} in {}, {}{}",
            plural(total.blobs, "blob"),
            bytes(total.bytes),
            count(total.sent_blobs),
            bytes(total.sent_bytes),
            took(start.elapsed()),
            rate(total.bytes, start.elapsed()),
            Moved::since(client, &begun),
        ),
    );
    failures.into_result()
}

impl fmt::Display for Stored<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.named.fmt(f)
    }
}

async fn put_stdin(
    cas: &Arc<dyn Cas>,
    options: &TransferOptions,
    bar: &Bar,
) -> Result<(Batch, UploadReport), Failure> {
    let (digest, spooled) = spool::stdin().await?;
    let source = match &spooled {
        Spooled::Memory(data) => Source::Bytes(data.clone()),
        Spooled::File(file) => Source::File(file.path().to_owned()),
    };
    let blobs = stream::iter([Ok(Upload { digest, source })]);
    let report = upload(cas, blobs, options, bar).await?;
    let batch = Batch {
        stored: vec![(digest, PathBuf::from(STDIN))],
        ..Batch::default()
    };
    Ok((batch, report))
}

/// Stores each folder as a tree. What is no folder is refused: its digest would
/// give a blob back, not a tree.
async fn put_trees(
    cas: &Arc<dyn Cas>,
    paths: &[PathBuf],
    options: &TreeOptions,
    bar: &Bar,
) -> Result<(Batch, UploadReport), Failure> {
    let mut batch = Batch::default();
    let mut total = UploadReport::default();
    for path in paths {
        match std::fs::metadata(path) {
            Err(error) => {
                batch.failures.push(Failure::io("reading", path, &error));
                continue;
            }
            Ok(meta) if !meta.is_dir() => {
                let failure = Failure::usage(format!("{} is no folder", path.display()));
                batch
                    .failures
                    .push(failure.advise("Put it without --tree."));
                continue;
            }
            Ok(_) => {}
        }
        let report = match put_tree(cas, path, options, bar).await {
            Ok(report) => report,
            Err(error) => {
                // A fault of one folder's files concerns the other folders not.
                let goes_on = error.path().is_some();
                let failure = Failure::from(error).context(path.display());
                if goes_on {
                    batch.failures.push(failure);
                    continue;
                }
                batch.fatal = Some(failure);
                break;
            }
        };
        for left_out in &report.left_out {
            tracing::warn!("left out {}: {}", left_out.path.display(), left_out.what);
        }
        add(&mut total, &report.upload);
        batch.stored.push((report.digest, path.clone()));
    }
    Ok((batch, total))
}

fn add(total: &mut UploadReport, report: &UploadReport) {
    total.blobs += report.blobs;
    total.bytes += report.bytes;
    total.sent_blobs += report.sent_blobs;
    total.sent_bytes += report.sent_bytes;
}

async fn put_files(
    cas: &Arc<dyn Cas>,
    paths: &[PathBuf],
    options: &TransferOptions,
    bar: &Bar,
) -> (Batch, UploadReport) {
    let Found {
        files,
        failures,
        skipped,
    } = walk(paths);
    if skipped > 0 {
        let links = plural(skipped, "link or special file");
        tracing::warn!("left out {links}: --tree stores links too");
    }
    let batch = Mutex::new(Batch {
        failures,
        ..Batch::default()
    });
    for _ in 0..=MOST_CHANGED {
        let outcome = upload(cas, uploads(&files, &batch), options, bar).await;
        let (ended, report) = {
            let mut batch = batch.lock().unwrap_or_else(PoisonError::into_inner);
            let report = match outcome {
                Ok(report) => report,
                Err(error) => match batch.leave_out(&error) {
                    Ok(()) => continue,
                    Err(fatal) => {
                        batch.fatal = Some(fatal);
                        UploadReport::default()
                    }
                },
            };
            (std::mem::take(&mut *batch), report)
        };
        return (ended.only_stored(cas).await, report);
    }
    let mut batch = batch.into_inner().unwrap_or_else(PoisonError::into_inner);
    let text = format!(
        "{} changed while they were read",
        plural(MOST_CHANGED as u64, "file")
    );
    let fatal = Failure::new(Exit::Corrupt, text).advise("Put them when nothing writes to them.");
    batch.fatal = Some(fatal);
    (batch.only_stored(cas).await, UploadReport::default())
}

/// What is hashed already, and the rest while it is being hashed.
fn uploads<'a>(
    files: &[PathBuf],
    batch: &'a Mutex<Batch>,
) -> impl Stream<Item = Result<Upload, CasError>> + Send + 'a {
    let lock = || batch.lock().unwrap_or_else(PoisonError::into_inner);
    let (known, rest): (Vec<_>, Vec<_>) = {
        let batch = lock();
        let known = batch
            .stored
            .iter()
            .map(|(digest, path)| of_file(*digest, path));
        (known.map(Ok).collect(), files[batch.hashed..].to_vec())
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let rest = hash_files(stream::iter(rest), threads);
    let rest = rest.filter_map(move |(path, outcome)| {
        let mut batch = lock();
        batch.hashed += 1;
        let upload = match outcome {
            Ok(digest) => {
                let upload = of_file(digest, &path);
                batch.stored.push((digest, path));
                Some(Ok(upload))
            }
            Err(error) => {
                let is_special = error.kind() == ErrorKind::InvalidArgument;
                let mut failure = Failure::from(error);
                if is_special {
                    failure = failure.advise("Feed its bytes to stdin, and put - instead.");
                }
                batch.failures.push(failure);
                None
            }
        };
        ready(upload)
    });
    stream::iter(known).chain(rest)
}

fn of_file(digest: Digest, path: &Path) -> Upload {
    Upload {
        digest,
        source: Source::File(path.to_owned()),
    }
}

impl Batch {
    /// After an early end: without the files that the server has not, or may not have.
    async fn only_stored(mut self, cas: &Arc<dyn Cas>) -> Self {
        let Some(fatal) = &self.fatal else {
            return self;
        };
        let digests: Vec<_> = self.stored.iter().map(|(digest, _)| *digest).collect();
        let missing = match fatal.exit() {
            // It would be waited for in vain once more.
            Exit::Unreachable => None,
            _ => cas.missing(&digests, Lease::None).await.ok(),
        };
        match missing {
            Some(missing) => {
                let missing: HashSet<_> = missing.into_iter().collect();
                self.stored.retain(|(digest, _)| !missing.contains(digest));
            }
            None => self.stored.clear(),
        }
        self
    }

    /// Leaves the file out whose fault the error is: the others must not suffer.
    ///
    /// # Errors
    /// It is no file's fault.
    fn leave_out(&mut self, error: &CasError) -> Result<(), Failure> {
        let named = |(_, path): &(Digest, PathBuf)| Some(path.as_path()) == error.path();
        if let Some(at) = self.stored.iter().position(named) {
            self.stored.remove(at);
            self.failures.push(error.clone().into());
            return Ok(());
        }
        let failure = Failure::from(error.clone());
        let of = |(digest, _): &&(Digest, PathBuf)| Some(*digest) == error.digest();
        Err(match self.stored.iter().find(of) {
            Some((_, path)) => failure.context(format_args!("storing {}", path.display())),
            None => failure,
        })
    }
}
