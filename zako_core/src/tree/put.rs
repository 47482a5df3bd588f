//! Storing a folder.

use std::collections::VecDeque;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt, future, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::walk::{Kind, Walked, walk};
use super::{Directory, Entry, LeftOut, MAX_DIRECTORY, Node, TreeOptions};
use crate::Digest;
use crate::cas::{Cas, CasError, ErrorKind, Result};
use crate::transfer::{Progress, Source, Upload, UploadReport, hash_files, upload};

/// A stored folder.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeReport {
    /// The digest of the root's directory: the name of the whole tree.
    pub digest: Digest,
    /// Regular files in it.
    pub files: u64,
    /// The sum of their sizes, in bytes.
    pub file_bytes: u64,
    /// Folders in it, the root not counted.
    pub folders: u64,
    /// Symbolic links in it.
    pub symlinks: u64,
    /// What can't be stored and isn't part of the tree.
    pub left_out: Vec<LeftOut>,
    /// What was sent: the files' blobs and the directories.
    pub upload: UploadReport,
}

/// Files whose digests may wait for the upload.
const AHEAD: usize = 1024;

/// Stores the folder at `path` with all below it.
///
/// Equal folders give equal digests. The root's own mode and name are not part of
/// it; a `path` that is a link to a folder means that folder, links below it are
/// stored as links.
///
/// # Errors
/// Those of reading the folder and its files, with the path;
/// [`ErrorKind::InvalidArgument`] if `path` is no folder or a limit of the options
/// is reached; those of [`upload`].
pub async fn put_tree(
    cas: &Arc<dyn Cas>,
    path: &Path,
    options: &TreeOptions,
    progress: &dyn Progress,
) -> Result<TreeReport> {
    let root = path.to_owned();
    let walk_options = options.clone();
    let walked = tokio::task::spawn_blocking(move || walk(&root, &walk_options))
        .await
        .unwrap_or_else(|error| {
            Err(CasError::new(ErrorKind::Internal, "the walk ended early").with_source(error))
        })?;

    // Hashed and sent at once: a file is still in the page cache when it is sent.
    let (uploads, receiver) = mpsc::channel(AHEAD);
    let sending = upload(
        cas,
        ReceiverStream::new(receiver),
        &options.transfer,
        progress,
    );
    let hashing = build(walked, options, uploads);
    let (report, built) = future::join(sending, hashing).await;
    match (report, built) {
        (Ok(upload), Ok(built)) => Ok(TreeReport { upload, ..built }),
        (Err(error), _) | (Ok(_), Err(error)) => Err(error),
    }
}

/// Hashes the files and makes the directories, from the deepest up to the root.
async fn build(
    walked: Walked,
    options: &TreeOptions,
    uploads: mpsc::Sender<Result<Upload>>,
) -> Result<TreeReport> {
    let mut report = TreeReport {
        digest: Digest::EMPTY,
        files: 0,
        file_bytes: 0,
        folders: walked.folders.len() as u64 - 1,
        symlinks: 0,
        left_out: walked.left_out,
        upload: UploadReport::default(),
    };
    // Parents have lower numbers, so going down all children are done before.
    let paths: Vec<PathBuf> = walked
        .folders
        .iter()
        .rev()
        .flatten()
        .filter_map(|found| match &found.kind {
            Kind::File { path, .. } => Some(path.clone()),
            _ => None,
        })
        .collect();
    let mut digests = VecDeque::with_capacity(paths.len());
    let mut hashed = std::pin::pin!(hash_files(stream::iter(paths), options.threads));
    while let Some((path, digest)) = hashed.next().await {
        let digest = digest?;
        digests.push_back(digest);
        report.files += 1;
        report.file_bytes += digest.size();
        let source = Source::File(path);
        send(&uploads, Upload { digest, source }).await?;
    }

    let mut directories = vec![Digest::EMPTY; walked.folders.len()];
    for (number, found) in walked.folders.into_iter().enumerate().rev() {
        let mut entries = Vec::with_capacity(found.len());
        for found in found {
            let node = match found.kind {
                Kind::File { mode, .. } => Node::File {
                    digest: digests.pop_front().ok_or_else(out_of_step)?,
                    mode,
                },
                Kind::Folder { number, mode } => Node::Folder {
                    digest: directories[number],
                    mode,
                },
                Kind::Symlink { target } => {
                    report.symlinks += 1;
                    Node::Symlink { target }
                }
            };
            let name = found.name.into_vec().into();
            entries.push(Entry { name, node });
        }
        let blob = Directory::new(entries)?.encode();
        if blob.len() as u64 > MAX_DIRECTORY {
            let text = "a folder has more entries than a directory can list";
            return Err(CasError::new(ErrorKind::InvalidArgument, text));
        }
        let digest = zako_digest::hash::bytes(&blob);
        directories[number] = digest;
        let source = Source::Bytes(blob);
        send(&uploads, Upload { digest, source }).await?;
    }
    report.digest = directories[0];
    Ok(report)
}

async fn send(uploads: &mpsc::Sender<Result<Upload>>, upload: Upload) -> Result<()> {
    // The upload ended with an error, which is the one that counts.
    uploads.send(Ok(upload)).await.map_err(|_| out_of_step())
}

fn out_of_step() -> CasError {
    CasError::new(ErrorKind::Internal, "the upload ended early")
}
