//! Large blobs: one file each, named by the digest, in 256 folders.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::eviction::Unit;
use super::index::Place;
use super::io::{Access, Backend, BackendFile};
use super::options::Durability;
use super::shared::Shared;
use crate::Digest;
use crate::cas::{CasError, Result, Stored};

#[derive(Debug)]
pub(super) struct LargeFiles {
    dir: PathBuf,
    backend: Arc<dyn Backend>,
    /// A blob's file and its entry in the index change together.
    locks: [Mutex<()>; 64],
    /// Folders from which files were removed that a loss of power may bring back.
    unsynced: [AtomicBool; 256],
}

/// What a file takes on disk, in bytes.
pub(super) const fn disk_bytes(length: u64) -> u64 {
    length.next_multiple_of(4096)
}

impl LargeFiles {
    pub(super) fn new(dir: PathBuf, backend: Arc<dyn Backend>) -> Self {
        Self {
            dir,
            backend,
            locks: std::array::from_fn(|_| Mutex::new(())),
            unsynced: std::array::from_fn(|_| AtomicBool::new(false)),
        }
    }

    /// The folders, all of which exist.
    pub(super) fn folders(&self) -> impl Iterator<Item = PathBuf> {
        (0..=255u8).map(|byte| self.dir.join(format!("{byte:02x}")))
    }

    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        let name = digest.file_name();
        self.dir.join(&name[..2]).join(name)
    }

    /// Opens a blob's file; `None` if it was removed meanwhile.
    pub(super) fn open(&self, digest: &Digest) -> Result<Option<Arc<dyn BackendFile>>> {
        let path = self.path(digest);
        match self.backend.open(&path, Access::Read) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(CasError::io("opening a blob", &path, error).with_digest(*digest)),
        }
    }

    /// Takes up a complete, synced file as the blob, and publishes it.
    pub(super) fn adopt(&self, shared: &Shared, digest: &Digest, from: &Path) -> Result<Stored> {
        let path = self.path(digest);
        let wrap = |error| CasError::io("storing a blob", &path, error).with_digest(*digest);
        let _changing = self.lock(digest).lock();
        if shared.index.contains(digest) {
            return Ok(Stored::Existing);
        }
        self.backend.rename(from, &path).map_err(wrap)?;
        if shared.options.durability != Durability::None
            && let Err(error) = self.backend.sync_dir(parent(&path))
        {
            // Back to what can be resumed.
            if self.backend.rename(&path, from).is_err() {
                let _ = self.backend.remove(&path);
            }
            return Err(wrap(error));
        }
        let number = shared.file_number.fetch_add(1, Ordering::Relaxed);
        let stream = shared.stream_of_new(digest);
        shared.publish(digest, Place::File { number });
        let digest = *digest;
        shared.enqueue(stream, Unit::File { digest, number });
        Ok(Stored::New)
    }

    /// Removes a blob's file with this number, if `hide` has taken the blob out of
    /// the index.
    pub(super) fn remove(
        &self,
        shared: &Shared,
        digest: &Digest,
        number: u32,
        durable: bool,
        hide: impl FnOnce() -> bool,
    ) -> Result<bool> {
        let path = self.path(digest);
        let wrap = |error| CasError::io("removing a blob", &path, error).with_digest(*digest);
        let _changing = self.lock(digest).lock();
        // Before it leaves the index: a delete that finds nothing must know.
        let unsynced = self.unsynced(digest);
        let before = unsynced.swap(true, Ordering::AcqRel);
        if !hide() {
            unsynced.store(before, Ordering::Release);
            if durable && before {
                self.sync(digest)?;
            }
            return Ok(false);
        }
        match self.backend.remove(&path) {
            Ok(()) => {}
            // Somebody else removed it: gone is gone.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                shared.publish(digest, Place::File { number });
                return Err(wrap(error));
            }
        }
        shared.space.free(disk_bytes(digest.size()));
        if durable {
            self.sync(digest)?;
        }
        Ok(true)
    }

    /// Whether a blob that the index doesn't have may be back after a crash: its
    /// file was evicted.
    pub(super) fn may_come_back(&self, digest: &Digest) -> bool {
        self.unsynced(digest).load(Ordering::Acquire)
    }

    /// Makes sure that it does not. Waits for an eviction that is under way.
    pub(super) fn settle(&self, digest: &Digest) -> Result<()> {
        let _changing = self.lock(digest).lock();
        match self.may_come_back(digest) {
            true => self.sync(digest),
            false => Ok(()),
        }
    }

    /// Makes the names in a blob's folder durable; its lock is held.
    fn sync(&self, digest: &Digest) -> Result<()> {
        let path = self.path(digest);
        self.backend
            .sync_dir(parent(&path))
            .map_err(|error| CasError::io("removing a blob", &path, error).with_digest(*digest))?;
        self.unsynced(digest).store(false, Ordering::Release);
        Ok(())
    }

    fn unsynced(&self, digest: &Digest) -> &AtomicBool {
        &self.unsynced[usize::from(digest.hash().as_bytes()[0])]
    }

    /// Moves a damaged blob's file into quarantine, if it is still the one with
    /// this number.
    pub(super) fn quarantine(&self, shared: &Shared, digest: &Digest, number: u32) -> Result<()> {
        let path = self.path(digest);
        let _changing = self.lock(digest).lock();
        let place = Place::File { number };
        if shared.forget(digest, place) {
            shared.found_damaged(digest);
            shared.space.free(disk_bytes(digest.size()));
            if let Err(error) = shared.quarantine.take_file(digest, &path) {
                // It must not be believed when the store opens.
                tracing::warn!(%digest, %error, "a damaged blob is removed");
                let _ = self.backend.remove(&path);
            }
            let wrap = |error| CasError::io("removing a damaged blob", &path, error);
            self.backend.sync_dir(parent(&path)).map_err(wrap)?;
        }
        Ok(())
    }

    fn lock(&self, digest: &Digest) -> &Mutex<()> {
        &self.locks[usize::from(digest.hash().as_bytes()[0]) % self.locks.len()]
    }
}

/// The folder of a blob's file.
fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}
