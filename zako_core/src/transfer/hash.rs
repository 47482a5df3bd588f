//! Hashing many files.

use std::path::PathBuf;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use tokio::sync::Semaphore;

use super::file;
use crate::Digest;
use crate::cas::{CasError, ErrorKind, Result};

/// How many files for each thread may be hashed before an earlier one is done.
const AHEAD: usize = 64;

/// The digests of files, in the order given, hashed on at most `threads` blocking
/// threads.
///
/// A large file holds up its successors' results, but not their hashing.
///
/// # Errors
/// An outcome is an error if the file can't be read, or is no regular file.
pub fn hash_files<S>(
    paths: S,
    threads: usize,
) -> impl Stream<Item = (PathBuf, Result<Digest>)> + Send
where
    S: Stream<Item = PathBuf> + Send,
{
    let threads = threads.max(1);
    let free = Arc::new(Semaphore::new(threads));
    paths
        .map(move |path| {
            let free = Arc::clone(&free);
            async move {
                let permit = free.acquire_owned().await;
                let file = path.clone();
                let task = tokio::task::spawn_blocking(move || {
                    let _permit = permit;
                    hash_file(file)
                });
                let outcome = task.await.unwrap_or_else(|error| {
                    Err(CasError::new(ErrorKind::Internal, "hashing ended early")
                        .with_source(error))
                });
                (path, outcome)
            }
        })
        .buffered(threads * AHEAD)
}

fn hash_file(path: PathBuf) -> Result<Digest> {
    let failed = |error| CasError::io("the file can't be read", &path, error);
    let (file, _) = file::open_regular(&path)?;
    zako_digest::hash::reader(file).map_err(failed)
}
