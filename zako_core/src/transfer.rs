//! Moving many blobs between files or memory and a store.
//!
//! [`upload()`] asks the store what it lacks, many digests at a time, while more still
//! come in; [`download()`] fetches each blob once, however many files want it. Small
//! blobs travel in batches, large ones as streams that are resumed after transient
//! errors. [`hash_files`] finds the digests.

mod download;
mod file;
mod hash;
pub(crate) mod retry;
mod upload;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
pub use download::{Download, DownloadReport, download};
pub use hash::hash_files;
pub use upload::{Upload, UploadReport, upload};

/// Where the bytes of a blob to be stored are.
#[derive(Clone, Debug)]
pub enum Source {
    /// In memory.
    Bytes(Bytes),
    /// The whole content of a file, which must not change until it is stored.
    File(PathBuf),
}

/// How blobs are moved.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferOptions {
    /// Batches and large blobs that are moved at once; at least 1.
    pub concurrency: usize,
    /// The most bytes in one batch of small blobs.
    pub batch_bytes: u64,
    /// The largest blob that travels in a batch, in bytes.
    pub small_bytes: u64,
    /// The most digests in one question for what is missing.
    pub negotiate_batch: usize,
    /// How often something is tried again after a transient error, without any
    /// progress in between.
    pub retries: u32,
    /// How long to wait before the first retry; each further one waits twice as
    /// long, with jitter.
    pub backoff: Duration,
    /// The longest wait between retries. A store that asks for a longer one is
    /// given up.
    pub max_backoff: Duration,
}

impl Default for TransferOptions {
    fn default() -> Self {
        Self {
            concurrency: 8,
            batch_bytes: 4 << 20,
            small_bytes: 64 << 10,
            negotiate_batch: 8192,
            retries: 6,
            backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(15),
        }
    }
}

/// Told how a transfer goes on. In the end what was found has been skipped or moved.
///
/// The methods are called from the task that drives the transfer: they must not
/// block.
pub trait Progress: Send + Sync {
    /// So many more blobs are to be transferred.
    fn found(&self, _blobs: u64, _bytes: u64) {}
    /// So many blobs, or bytes of partly held ones, need not be moved.
    fn skipped(&self, _blobs: u64, _bytes: u64) {}
    /// So many more bytes were moved.
    fn moved(&self, _bytes: u64) {}
    /// So many more blobs were moved whole.
    fn finished(&self, _blobs: u64) {}
}

impl Progress for () {}

/// The size of the steps in which files are read, in bytes: large enough to make
/// the syscalls cheap, small enough for an allocator to recycle.
const STEP: usize = 256 * 1024;

/// What a small blob takes in a batch beside its bytes.
const BATCH_OVERHEAD: u64 = 128;
