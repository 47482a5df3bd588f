//! Reading a tree's directories from a store.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::pin::pin;

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};

use super::{Directory, MAX_DIRECTORY, Node, TreeOptions, too_much};
use crate::Digest;
use crate::cas::{Cas, CasError, CasExt, ErrorKind, Result};
use crate::transfer::retry::Retry;
use crate::transfer::{Download, TransferOptions};

/// All that a tree holds, with paths below the target.
#[derive(Default)]
pub(super) struct Plan {
    /// Parents before their children.
    pub(super) folders: Vec<(PathBuf, u32)>,
    pub(super) files: Vec<Download>,
    pub(super) symlinks: Vec<(PathBuf, Bytes)>,
    pub(super) bytes: u64,
}

/// The most bytes of directories that are fetched at once; a larger one comes alone.
const IN_FLIGHT: u64 = 64 << 20;

/// What an entry takes in its directory on average, at most, in bytes.
const ENTRY_BYTES: u64 = 512;

/// Fetches all directories, level by level, each one once, and spreads them out
/// below `target`.
pub(super) async fn plan(
    cas: &dyn Cas,
    root: Digest,
    target: &Path,
    options: &TreeOptions,
) -> Result<Plan> {
    let mut plan = Plan::default();
    let mut known: HashMap<Digest, Directory> = HashMap::new();
    let mut entries = 0;
    let mut room = options
        .max_entries
        .saturating_mul(ENTRY_BYTES)
        .max(MAX_DIRECTORY);
    let mut level = vec![(target.to_owned(), root)];
    let mut depth = 0;
    while !level.is_empty() {
        depth += 1;
        let mut seen = HashSet::new();
        let unknown: Vec<Digest> = level
            .iter()
            .map(|(_, digest)| *digest)
            .filter(|digest| !known.contains_key(digest) && seen.insert(*digest))
            .collect();
        let mut fetched = pin!(fetch(cas, unknown, &options.transfer, &mut room)?);
        // Each of them appears once at least.
        let mut fewest = entries;
        while let Some(batch) = fetched.try_next().await? {
            for (digest, blob) in batch {
                let directory = decode(digest, &blob)?;
                fewest += directory.entries().len() as u64;
                if fewest > options.max_entries {
                    return Err(too_much("entries", options.max_entries).with_digest(root));
                }
                known.insert(digest, directory);
            }
        }

        let mut next = Vec::new();
        for (path, digest) in level {
            let Some(directory) = known.get(&digest) else {
                return Err(CasError::not_found(digest));
            };
            // Before it takes memory: directories can share their children.
            entries += directory.entries().len() as u64;
            if entries > options.max_entries {
                return Err(too_much("entries", options.max_entries).with_digest(root));
            }
            if depth > options.max_depth && !directory.entries().is_empty() {
                return Err(too_much("levels", options.max_depth as u64).with_digest(root));
            }
            spread(directory, &path, options, &mut plan, &mut next);
            if plan.bytes > options.max_bytes {
                return Err(too_much("bytes", options.max_bytes).with_digest(root));
            }
        }
        level = next;
    }
    Ok(plan)
}

fn spread(
    directory: &Directory,
    folder: &Path,
    options: &TreeOptions,
    plan: &mut Plan,
    next: &mut Vec<(PathBuf, Digest)>,
) {
    let bits = if options.restore_setuid {
        0o7777
    } else {
        0o1777
    };
    for entry in directory.entries() {
        // A checked name: it has no '/', and is not '..'.
        let path = folder.join(OsStr::from_bytes(&entry.name));
        match &entry.node {
            Node::File { digest, mode } => {
                plan.bytes = plan.bytes.saturating_add(digest.size());
                plan.files.push(Download {
                    digest: *digest,
                    target: path,
                    mode: Some(mode & bits),
                });
            }
            Node::Folder { digest, mode } => {
                plan.folders.push((path.clone(), mode & bits));
                next.push((path, *digest));
            }
            Node::Symlink { target } => plan.symlinks.push((path, target.clone())),
        }
    }
}

/// Fetches directories; takes their sizes off `room`.
fn fetch<'a>(
    cas: &'a dyn Cas,
    wanted: Vec<Digest>,
    options: &'a TransferOptions,
    room: &mut u64,
) -> Result<impl Stream<Item = Result<Vec<(Digest, Bytes)>>> + 'a> {
    for digest in &wanted {
        if digest.size() > MAX_DIRECTORY {
            let text = "a blob of this size is not a directory";
            return Err(CasError::new(ErrorKind::InvalidArgument, text).with_digest(*digest));
        }
        *room = room.checked_sub(digest.size()).ok_or_else(|| {
            let text = "the directories of the tree are too large for so few entries";
            CasError::new(ErrorKind::InvalidArgument, text).with_digest(*digest)
        })?;
    }
    let batches = batches(wanted, options);
    let sizes = batches
        .iter()
        .map(|batch| batch.iter().map(Digest::size).sum::<u64>());
    let largest = sizes.max().unwrap_or(0).max(1);
    let at_once = options.concurrency.min((IN_FLIGHT / largest) as usize);
    Ok(stream::iter(batches)
        .map(move |batch| fetch_batch(cas, batch, options))
        .buffer_unordered(at_once.max(1)))
}

fn decode(digest: Digest, blob: &Bytes) -> Result<Directory> {
    if zako_digest::hash::bytes(blob) != digest {
        let text = "the store gave other bytes";
        return Err(CasError::new(ErrorKind::Corrupt, text).with_digest(digest));
    }
    Directory::decode(blob).map_err(|error| error.with_digest(digest))
}

/// Small ones together, large ones alone.
fn batches(wanted: Vec<Digest>, options: &TransferOptions) -> Vec<Vec<Digest>> {
    let mut batches = Vec::new();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for digest in wanted {
        if digest.size() > options.small_bytes {
            batches.push(vec![digest]);
            continue;
        }
        if bytes + digest.size() > options.batch_bytes && !batch.is_empty() {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += digest.size();
        batch.push(digest);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

async fn fetch_batch(
    cas: &dyn Cas,
    mut wanted: Vec<Digest>,
    options: &TransferOptions,
) -> Result<Vec<(Digest, Bytes)>> {
    let mut found = Vec::with_capacity(wanted.len());
    let mut retry = Retry::new(options);
    while !wanted.is_empty() {
        let outcomes = match wanted[..] {
            [one] if one.size() > options.small_bytes => vec![cas.fetch_bytes(&one).await],
            _ => cas.fetch_batch(&wanted).await,
        };
        if outcomes.len() != wanted.len() {
            let text = "the store answered for another number of blobs than asked";
            return Err(CasError::new(ErrorKind::Internal, text));
        }
        let before = found.len();
        let mut failure = None;
        let mut again = Vec::new();
        for (digest, outcome) in wanted.into_iter().zip(outcomes) {
            match outcome {
                Ok(blob) => found.push((digest, blob)),
                Err(error) if error.is_transient() => {
                    again.push(digest);
                    failure = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        if found.len() > before {
            retry.progressed();
        }
        if let Some(error) = failure {
            retry.wait(error).await?;
        }
        wanted = again;
    }
    Ok(found)
}
