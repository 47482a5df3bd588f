//! Fetching many blobs into files.

mod large;
mod place;

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tracing::Instrument;

use self::large::fetch_large;
use self::place::place_whole;
use super::retry::Retry;
use super::{BATCH_OVERHEAD, Progress, TransferOptions};
use crate::Digest;
use crate::cas::{Cas, CasError, ErrorKind, Result};
use crate::observe::trace;

/// A file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// Its content.
    pub digest: Digest,
    /// Where it goes; its folder must exist. What is there already is replaced.
    pub target: PathBuf,
    /// Its permission bits; `None` for those of a new file.
    pub mode: Option<u32>,
}

/// What a download did.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DownloadReport {
    /// Files written.
    pub files: u64,
    /// The sum of their sizes.
    pub file_bytes: u64,
    /// Blobs fetched: one for all files of the same content.
    pub blobs: u64,
    /// The sum of their sizes.
    pub bytes: u64,
}

/// Fetches blobs into files, each blob once.
///
/// A file is written beside its target under a temporary name, and renamed once it
/// is whole and its digest was checked. Files are not synced to the disk. Memory is
/// bounded by the options and the list itself.
///
/// # Errors
/// The first one that isn't transient, or stays: [`ErrorKind::NotFound`] for a blob
/// that the store lacks, [`ErrorKind::Corrupt`] for bytes that are not the digest's,
/// [`ErrorKind::Io`] and [`ErrorKind::NoSpace`] with the path of a file that can't be
/// written. Files that are whole by then stay; no temporary ones do.
pub async fn download(
    cas: &Arc<dyn Cas>,
    files: Vec<Download>,
    options: &TransferOptions,
    progress: &dyn Progress,
) -> Result<DownloadReport> {
    let mut report = DownloadReport {
        files: files.len() as u64,
        ..DownloadReport::default()
    };
    let mut wanted = group(files);
    for want in &wanted {
        report.blobs += 1;
        report.bytes += want.digest.size();
        report.file_bytes += want.digest.size() * want.targets.len() as u64;
    }
    progress.found(report.blobs, report.bytes);

    // From the back: the large ones first, so that the last task isn't a long one.
    wanted.sort_by_key(|want| want.digest.size());
    let (in_use, mut written) = mpsc::channel(1);
    let given_up = Arc::new(AtomicBool::new(false));
    let guard = GiveUp(Arc::clone(&given_up));
    let disk = DiskUse {
        _in_use: in_use,
        given_up,
    };
    let outcome = fetch_all(cas, wanted, options, progress, disk).await;
    drop(guard);
    // Also after an error: no thread writes any more when this returns.
    let _ = written.recv().await;
    outcome.map(|()| report)
}

/// Held by every thread that writes.
#[derive(Clone)]
struct DiskUse {
    /// Nothing is sent: when all are dropped, nobody writes.
    _in_use: mpsc::Sender<Infallible>,
    given_up: Arc<AtomicBool>,
}

/// Tells the threads that write when the download is dropped.
struct GiveUp(Arc<AtomicBool>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn fetch_all(
    cas: &Arc<dyn Cas>,
    mut wanted: Vec<Want>,
    options: &TransferOptions,
    progress: &dyn Progress,
    disk: DiskUse,
) -> Result<()> {
    let options = Arc::new(options.clone());
    let (moved, mut moves) = mpsc::channel(64);
    let mut tasks: JoinSet<Result<u64>> = JoinSet::new();
    loop {
        while tasks.len() < options.concurrency.max(1)
            && let Some(last) = wanted.last()
        {
            let (cas, options) = (Arc::clone(cas), Arc::clone(&options));
            if last.digest.size() > options.small_bytes {
                if let Some(want) = wanted.pop() {
                    let fetching = fetch_large(cas, options, want, moved.clone(), disk.clone());
                    tasks.spawn(fetching.instrument(trace::current()));
                }
            } else {
                let batch = small_batch(&mut wanted, options.batch_bytes);
                let fetching = fetch_small(cas, options, batch, moved.clone(), disk.clone());
                tasks.spawn(fetching.instrument(trace::current()));
            }
        }
        if tasks.is_empty() {
            break;
        }
        tokio::select! {
            Some(bytes) = moves.recv() => progress.moved(bytes),
            Some(done) = tasks.join_next() => progress.finished(joined(done)?),
        }
    }
    while let Ok(bytes) = moves.try_recv() {
        progress.moved(bytes);
    }
    Ok(())
}

/// A blob and all files that want it.
struct Want {
    digest: Digest,
    targets: Vec<Target>,
}

struct Target {
    path: PathBuf,
    mode: Option<u32>,
}

fn group(files: Vec<Download>) -> Vec<Want> {
    let mut places: HashMap<Digest, usize> = HashMap::with_capacity(files.len());
    let mut wanted: Vec<Want> = Vec::new();
    for file in files {
        let target = Target {
            path: file.target,
            mode: file.mode,
        };
        let at = *places.entry(file.digest).or_insert(wanted.len());
        match wanted.get_mut(at) {
            Some(want) => want.targets.push(target),
            None => wanted.push(Want {
                digest: file.digest,
                targets: vec![target],
            }),
        }
    }
    wanted
}

fn small_batch(wanted: &mut Vec<Want>, batch_bytes: u64) -> Vec<Want> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while let Some(last) = wanted.last() {
        bytes += last.digest.size() + BATCH_OVERHEAD;
        if bytes > batch_bytes && !batch.is_empty() {
            break;
        }
        batch.extend(wanted.pop());
    }
    batch
}

/// Fetches and writes a batch; how many blobs that were.
async fn fetch_small(
    cas: Arc<dyn Cas>,
    options: Arc<TransferOptions>,
    mut batch: Vec<Want>,
    moved: mpsc::Sender<u64>,
    disk: DiskUse,
) -> Result<u64> {
    let mut retry = Retry::new(&options);
    let mut finished = 0;
    while !batch.is_empty() {
        let digests: Vec<Digest> = batch.iter().map(|want| want.digest).collect();
        let outcomes = cas.fetch_batch(&digests).await;
        if outcomes.len() != batch.len() {
            let text = "the store answered for another number of blobs than asked";
            return Err(CasError::new(ErrorKind::Internal, text));
        }
        let mut whole: Vec<(Want, Bytes)> = Vec::with_capacity(batch.len());
        let mut again = Vec::new();
        let mut failure = None;
        for (want, outcome) in batch.into_iter().zip(outcomes) {
            match outcome {
                Ok(data) => whole.push((want, data)),
                Err(error) if error.is_transient() => {
                    failure = Some(error);
                    again.push(want);
                }
                Err(error) => return Err(error),
            }
        }
        if !whole.is_empty() {
            retry.progressed();
            finished += whole.len() as u64;
            let bytes = whole.iter().map(|(_, data)| data.len() as u64).sum();
            let disk = disk.clone();
            joined(
                tokio::task::spawn_blocking(move || {
                    whole
                        .iter()
                        .take_while(|_| !disk.given_up.load(Ordering::Relaxed))
                        .try_for_each(|(want, data)| place_whole(want, data))
                })
                .await,
            )?;
            // The receiver lives as long as this task.
            let _ = moved.send(bytes).await;
        }
        if let Some(error) = failure {
            retry.wait(error).await?;
        }
        batch = again;
    }
    Ok(finished)
}

fn joined<T>(done: Result<Result<T>, JoinError>) -> Result<T> {
    done.unwrap_or_else(|error| {
        let text = "a part of the download ended early";
        Err(CasError::new(ErrorKind::Internal, text).with_source(error))
    })
}
