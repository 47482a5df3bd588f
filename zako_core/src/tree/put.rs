//! Storing a folder.

use std::path::Path;
use std::sync::Arc;

use futures::{StreamExt, future, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::walk::{Walked, walk};
use super::{LeftOut, TreeOptions};
use crate::Digest;
use crate::cas::{Cas, CasError, ErrorKind, Result};
use crate::transfer::{Progress, UploadReport, upload};

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

/// Groups of blobs that may wait for the upload.
const AHEAD: usize = 16;

/// Stores the folder at `path` with all below it.
///
/// Equal folders give equal digests. The root's own mode and name are not part of
/// it; a `path` that is a link to a folder means that folder, links below it are
/// stored as links. Small files are read once and kept until they are stored or the
/// store has told that it has them, 64 MiB of them at most; while a store keeps what it
/// is given, further files are read again to be sent.
///
/// # Errors
/// Those of reading the folder and its files, with the path;
/// [`ErrorKind::InvalidArgument`] if `path` is no folder or a limit of the options
/// is reached; [`ErrorKind::Mismatch`] for a file that changes meanwhile; those of
/// [`upload`].
pub async fn put_tree(
    cas: &Arc<dyn Cas>,
    path: &Path,
    options: &TreeOptions,
    progress: &dyn Progress,
) -> Result<TreeReport> {
    let (uploads, receiver) = mpsc::channel(AHEAD);
    let (root, walk_options) = (path.to_owned(), options.clone());
    let walking = tokio::task::spawn_blocking(move || walk(&root, &walk_options, uploads));
    // Sent at once: what a file was is not known for long.
    let blobs = ReceiverStream::new(receiver)
        .flat_map(|group: Vec<_>| stream::iter(group.into_iter().map(Ok)));
    let sending = upload(cas, blobs, &options.transfer, progress);
    let (report, walked) = future::join(sending, walking).await;
    let walked = walked.unwrap_or_else(|error| {
        Err(CasError::new(ErrorKind::Internal, "the walk ended early").with_source(error))
    });
    match (report, walked) {
        (Ok(upload), Ok(walked)) => Ok(TreeReport::new(walked, upload)),
        // The walk ends when the upload does, which has the reason then.
        (Err(error), _) | (Ok(_), Err(error)) => Err(error),
    }
}

impl TreeReport {
    fn new(walked: Walked, upload: UploadReport) -> Self {
        Self {
            digest: walked.digest,
            files: walked.files,
            file_bytes: walked.file_bytes,
            folders: walked.folders,
            symlinks: walked.symlinks,
            left_out: walked.left_out,
            upload,
        }
    }
}
