//! Files as sources of blobs.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::Stream;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::mpsc;

use super::{STEP, Source};
use crate::Digest;
use crate::cas::{CasError, ErrorKind, Result};

/// Steps that are read ahead of the store.
const AHEAD: usize = 3;

/// Opens a regular file; tells its size in bytes.
pub(super) fn open_regular(path: &Path) -> Result<(File, u64)> {
    let failed = |error| CasError::io("the file can't be opened", path, error);
    // Before the opening: that of a fifo would wait for its other end.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        let error = CasError::new(ErrorKind::InvalidArgument, "not a regular file");
        return Err(error.with_path(path));
    }
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    Ok((file, size))
}

/// The bytes of `source` from `offset` on, in steps; fails if it isn't as long as
/// the digest says.
pub(super) fn steps(
    source: &Source,
    digest: Digest,
    offset: u64,
) -> BoxStream<'static, Result<Bytes>> {
    match source {
        Source::Bytes(data) => byte_steps(data.clone(), offset).boxed(),
        Source::File(path) => file_steps(path.clone(), digest, offset).boxed(),
    }
}

/// A small blob whole. Blocks.
pub(super) fn read_whole(source: &Source, digest: Digest) -> Result<Bytes> {
    let path = match source {
        Source::Bytes(data) => return Ok(data.clone()),
        Source::File(path) => path,
    };
    let (file, size) = open_regular(path)?;
    if size != digest.size() {
        return Err(changed(path, digest));
    }
    // One more, to see a file that grew.
    let mut data = Vec::with_capacity(usize::try_from(size).unwrap_or(STEP).min(STEP) + 1);
    file.take(size + 1)
        .read_to_end(&mut data)
        .map_err(|error| CasError::io("the file can't be read", path, error))?;
    if data.len() as u64 != size {
        return Err(changed(path, digest));
    }
    Ok(data.into())
}

/// What is told of a file whose bytes are no longer those of its digest.
pub(super) fn changed(path: &Path, digest: Digest) -> CasError {
    let text = "the file changed since it was hashed";
    CasError::new(ErrorKind::Mismatch, text)
        .with_digest(digest)
        .with_path(path)
}

/// Names the file when the store found bytes that are not the digest's.
pub(super) fn explain(error: CasError, source: &Source, digest: Digest) -> CasError {
    match source {
        Source::File(path) if error.kind() == ErrorKind::Mismatch && error.path().is_none() => {
            changed(path, digest)
        }
        _ => error,
    }
}

fn byte_steps(mut data: Bytes, offset: u64) -> impl Stream<Item = Result<Bytes>> {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let _ = data.split_to(offset.min(data.len()));
    stream::iter(std::iter::from_fn(move || {
        (!data.is_empty()).then(|| Ok(data.split_to(data.len().min(STEP))))
    }))
}

/// Read by a blocking thread, a few steps ahead; it ends when the stream is dropped.
fn file_steps(path: PathBuf, digest: Digest, offset: u64) -> impl Stream<Item = Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = read_steps(&path, digest, offset, &sender) {
            let _ = sender.blocking_send(Err(error));
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}

fn read_steps(
    path: &Path,
    digest: Digest,
    offset: u64,
    steps: &mpsc::Sender<Result<Bytes>>,
) -> Result<()> {
    let failed = |error| CasError::io("the file can't be read", path, error);
    let (mut file, size) = open_regular(path)?;
    if size != digest.size() {
        return Err(changed(path, digest));
    }
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let mut left = size.saturating_sub(offset);
    while left > 0 {
        let step = left.min(STEP as u64);
        // Reads into the vector's room as it is; a buffer would be zeroed first.
        let mut data = Vec::with_capacity(step as usize);
        (&file).take(step).read_to_end(&mut data).map_err(failed)?;
        if data.len() as u64 != step {
            return Err(changed(path, digest));
        }
        left -= data.len() as u64;
        if steps.blocking_send(Ok(data.into())).is_err() {
            break;
        }
    }
    Ok(())
}
