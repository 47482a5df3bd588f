//! Interrupted uploads of large blobs, waiting to be resumed.
//!
//! A partial upload is a file `<digest>.<number>` whose length is what is held.
//! After a loss of power its content may be anything: whoever resumes it hashes
//! what is there, and the blob's hash decides.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use zako_digest::hash::Hasher;

use super::io::{Access, Backend, BackendFile};
use super::space::Space;
use crate::Digest;
use crate::cas::{CasError, Result};

#[derive(Debug)]
pub(super) struct Partials {
    dir: PathBuf,
    backend: Arc<dyn Backend>,
    space: Arc<Space>,
    parked: Mutex<HashMap<Digest, Parked>>,
    next: AtomicU64,
    /// Of running and parked uploads together.
    bytes: AtomicU64,
}

/// A partial upload that nobody is writing to.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) path: PathBuf,
    pub(super) length: u64,
    pub(super) since: SystemTime,
    /// Has seen all its bytes, if they were written by this process.
    pub(super) hasher: Option<Box<Hasher>>,
}

/// So many are kept; then the oldest goes. Bounds the memory for their hashers.
const MOST_PARKED: usize = 8192;

impl Partials {
    pub(super) fn new(dir: PathBuf, backend: Arc<dyn Backend>, space: Arc<Space>) -> Self {
        Self {
            dir,
            backend,
            space,
            parked: Mutex::default(),
            next: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// Takes up what is on disk.
    pub(super) fn recover(&self) -> Result<()> {
        let entries = self
            .backend
            .list(&self.dir)
            .map_err(|error| CasError::io("listing partial uploads", &self.dir, error))?;
        for entry in entries {
            let path = self.dir.join(&entry.name);
            let Some((digest, number)) = entry
                .name
                .rsplit_once('.')
                .and_then(|(digest, number)| {
                    Some((
                        digest.parse::<Digest>().ok()?,
                        u64::from(number.parse::<u32>().ok()?),
                    ))
                })
                .filter(|(digest, _)| entry.length <= digest.size())
            else {
                // Made by no version of this store.
                let _ = self.backend.remove(&path);
                continue;
            };
            self.next.fetch_max(number + 1, Ordering::Relaxed);
            // A process that was killed may have left room behind the end.
            let trimmed = self
                .backend
                .open(&path, Access::ReadWrite)
                .and_then(|file| file.trim());
            if let Err(error) = trimmed {
                tracing::debug!(path = %path.display(), %error, "a partial upload may keep room that it doesn't need");
            }
            self.count(entry.length);
            let parked = Parked {
                path,
                length: entry.length,
                since: entry.modified,
                hasher: None,
            };
            self.park(digest, parked);
        }
        Ok(())
    }

    /// Begins a partial upload.
    pub(super) fn create(&self, digest: &Digest) -> Result<(PathBuf, Arc<dyn BackendFile>)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{}.{number}", digest.file_name()));
        match self.backend.create(&path) {
            Ok(file) => Ok((path, file)),
            Err(error) => {
                Err(CasError::io("beginning an upload", &path, error).with_digest(*digest))
            }
        }
    }

    pub(super) fn open(&self, parked: &Parked) -> Result<Arc<dyn BackendFile>> {
        self.backend
            .open(&parked.path, Access::ReadWrite)
            .map_err(|error| CasError::io("resuming an upload", &parked.path, error))
    }

    /// How many bytes of the blob can be resumed.
    pub(super) fn held(&self, digest: &Digest) -> u64 {
        self.parked
            .lock()
            .get(digest)
            .map_or(0, |parked| parked.length)
    }

    /// Takes the blob's parked upload, for one writer alone.
    pub(super) fn claim(&self, digest: &Digest) -> Option<Parked> {
        self.parked.lock().remove(digest)
    }

    /// Keeps an upload for later; of two of one blob, the longer one. An empty one
    /// is not worth keeping.
    pub(super) fn park(&self, digest: Digest, parked: Parked) {
        if parked.length == 0 {
            self.discard(&parked);
            return;
        }
        let dropped = {
            let mut all = self.parked.lock();
            match all.get(&digest) {
                Some(other) if other.length >= parked.length => Some(parked),
                _ => all.insert(digest, parked),
            }
        };
        if let Some(dropped) = dropped {
            self.discard(&dropped);
        }
        if self.parked.lock().len() > MOST_PARKED {
            self.drop_oldest();
        }
    }

    /// Removes a partial upload and frees its space.
    pub(super) fn discard(&self, parked: &Parked) {
        if let Err(error) = self.backend.remove(&parked.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %parked.path.display(), %error, "a partial upload could not be removed");
        }
        self.uncount(parked.length);
        self.space.free(parked.length);
    }

    /// Removes the parked upload of a blob that is stored now.
    pub(super) fn discard_of(&self, digest: &Digest) {
        if let Some(parked) = self.claim(digest) {
            self.discard(&parked);
        }
    }

    /// Removes the parked uploads of blobs that are present: a crash came between
    /// the blob's new name and the removal of the old one.
    pub(super) fn discard_where(&self, mut present: impl FnMut(&Digest) -> bool) {
        let found: Vec<Parked> = {
            let mut all = self.parked.lock();
            all.extract_if(|digest, _| present(digest))
                .map(|(_, parked)| parked)
                .collect()
        };
        for parked in &found {
            self.discard(parked);
        }
    }

    /// Removes those that were parked longer than this ago; how many.
    pub(super) fn expire(&self, now: SystemTime, ttl: Duration) -> u64 {
        let expired: Vec<Parked> = {
            let mut all = self.parked.lock();
            all.extract_if(|_, parked| now.duration_since(parked.since).is_ok_and(|age| age >= ttl))
                .map(|(_, parked)| parked)
                .collect()
        };
        for parked in &expired {
            self.discard(parked);
        }
        expired.len() as u64
    }

    /// Removes the one that was parked first; whether there was one.
    pub(super) fn drop_oldest(&self) -> bool {
        let oldest = {
            let mut all = self.parked.lock();
            let oldest = all
                .iter()
                .min_by_key(|(_, parked)| parked.since)
                .map(|(digest, _)| *digest);
            oldest.and_then(|digest| all.remove(&digest))
        };
        match oldest {
            Some(parked) => {
                self.discard(&parked);
                true
            }
            None => false,
        }
    }

    /// The bytes of running and parked uploads.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes were written to an upload, or found. Their space is counted elsewhere
    /// when they were written.
    pub(super) fn count_written(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// An upload has become a blob, or is cut.
    pub(super) fn uncount(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn count(&self, bytes: u64) {
        self.count_written(bytes);
        self.space.add(bytes);
    }
}
