//! What a table's handles and its committer share.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use tokio::sync::Semaphore;

use super::index::{Index, Mark};
use super::log::{Log, NEW_LOG};
use super::{AliasOptions, unix_seconds};
use crate::cas::{CasError, ErrorKind, Result};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) options: AliasOptions,
    pub(super) index: Index,
    /// Bounds the aliases that wait for the committer.
    pub(super) backlog: Arc<Semaphore>,
    pub(super) closed: AtomicBool,
    /// The length of the log.
    pub(super) disk_bytes: AtomicU64,
    pub(super) damaged: u64,
    /// How often aliases were asked about.
    pub(super) questions: AtomicU32,
}

/// The most aliases that wait for the committer: a few groups.
pub(super) const BACKLOG: usize = 1 << 17;

impl Shared {
    pub(super) fn now(&self) -> u64 {
        unix_seconds(&*self.options.clock)
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(self.closed_error());
        }
        Ok(())
    }

    pub(super) fn closed_error(&self) -> CasError {
        CasError::new(ErrorKind::Closed, "the aliases are closed").with_path(&self.dir)
    }

    /// A mark that no question has that is under way.
    pub(super) fn next_mark(&self) -> Mark {
        Mark::of(self.questions.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn set_disk_bytes(&self, log: &Log) {
        self.disk_bytes.store(log.end(), Ordering::Relaxed);
    }

    /// Removes what is left of a log that did not take the other's place.
    pub(super) fn remove_new_log(&self) {
        // If it can't be removed now, the next one begins in its place.
        let _ = self.options.backend.remove(&self.dir.join(NEW_LOG));
    }
}
