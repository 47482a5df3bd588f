//! Hashing many files.

use std::cell::RefCell;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use tokio::sync::Semaphore;
use zako_digest::hash::Hasher;

use super::file;
use crate::Digest;
use crate::cas::{self, CasError, Result};

/// How many files for each thread may be hashed before an earlier one is done.
const AHEAD: usize = 64;

/// The size of a read, in bytes: it stays in the L2 cache until it is hashed.
const READ_STEP: usize = 128 * 1024;

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
                    Err(
                        CasError::new(cas::ErrorKind::Internal, "hashing ended early")
                            .with_source(error),
                    )
                });
                (path, outcome)
            }
        })
        .buffered(threads * AHEAD)
}

thread_local! {
    /// Kept, since a fresh one for each small file would be most of the work.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn hash_file(path: PathBuf) -> Result<Digest> {
    let (mut file, _) = file::open_regular(&path)?;
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(READ_STEP, 0);
        let mut hasher = Hasher::new();
        loop {
            match file.read(buffer) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(read) => hasher.update(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(CasError::io("the file can't be read", &path, error)),
            };
        }
    })
}
