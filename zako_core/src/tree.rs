//! Folders as blobs.
//!
//! A folder is a `zako.v1.tree.Directory`: a blob that lists names, the digests of
//! files and of further directories, permission bits and symbolic links. Its
//! encoding is canonical, so that equal folders have equal digests, whoever stored
//! them; times and owners are left out for the same reason. [`put_tree`] stores a
//! folder, [`restore_tree`] brings it back.

mod content;
mod directory;
mod fetch;
mod folder;
mod put;
mod restore;
mod walk;

use std::path::PathBuf;

pub use directory::{Directory, Entry, Node, is_tree};
pub use put::{TreeReport, put_tree};
pub use restore::{RestoreReport, restore_tree};

use crate::cas::{CasError, ErrorKind};
use crate::transfer::TransferOptions;

/// How folders are stored and restored.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeOptions {
    /// How their blobs are moved.
    pub transfer: TransferOptions,
    /// Threads that read folders and hash files.
    pub threads: usize,
    /// The deepest nesting; the entries of the root have depth 1.
    pub max_depth: usize,
    /// The most entries in all, counted as often as they appear: a small blob can
    /// otherwise mean an endless tree.
    pub max_entries: u64,
    /// The most bytes of files in all that are restored.
    pub max_bytes: u64,
    /// Whether the setuid and setgid bits are restored.
    pub restore_setuid: bool,
}

impl Default for TreeOptions {
    fn default() -> Self {
        Self {
            transfer: TransferOptions::default(),
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            max_depth: 512,
            max_entries: 4_000_000,
            max_bytes: u64::MAX,
            restore_setuid: false,
        }
    }
}

/// What was left out of a stored tree: a socket, a fifo, a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub what: &'static str,
}

/// The largest blob that is taken for a directory, in bytes.
const MAX_DIRECTORY: u64 = 64 << 20;

/// A limit of the options was reached.
fn too_much(what: &str, limit: u64) -> CasError {
    let text = format!("the tree has more than {limit} {what}");
    CasError::new(ErrorKind::InvalidArgument, text)
}
