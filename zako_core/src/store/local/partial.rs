//! Interrupted uploads of large blobs, waiting to be resumed.
//!
//! A partial upload is a file `<digest>.<number>`, or `staged-<key>.<number>` if its
//! blob's digest is not known yet, whose length is what is held. After a loss of
//! power its content may be anything: whoever resumes it hashes what is there, and
//! the blob's hash decides, or the upload's witness.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use zako_digest::hash::Hasher;

use super::io::{Access, Backend, BackendFile};
use super::space::Space;
use crate::cas::{CasError, Result, UploadKey};
use crate::store::upload_name::UploadName;
use crate::{Digest, Hash};

#[derive(Debug)]
pub(super) struct Partials {
    dir: PathBuf,
    backend: Arc<dyn Backend>,
    space: Arc<Space>,
    all: Mutex<All>,
    /// The number of the next file.
    next: AtomicU64,
    /// Of running and parked uploads together.
    bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct All {
    parked: HashMap<UploadName, Parked>,
    running: HashMap<UploadName, Running>,
    next_ticket: u64,
}

/// The uploads of one name that somebody is writing to.
#[derive(Debug, Default)]
struct Running {
    count: usize,
    /// Those with earlier tickets are not worth keeping: the blob was stored since.
    outdated_before: u64,
}

/// An upload's turn among those of its name.
#[derive(Debug)]
pub(super) struct Ticket(u64);

/// A partial upload that nobody is writing to.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) path: PathBuf,
    pub(super) length: u64,
    pub(super) since: SystemTime,
    /// Has seen all its bytes, if they were written by this process.
    pub(super) hasher: Option<Box<Hasher>>,
    /// Whether it was found when the store opened.
    pub(super) recovered: bool,
}

/// So many are kept; then the oldest goes. Bounds the memory for their hashers.
const MOST_PARKED: usize = 8192;

/// How the names of files begin whose blob's digest is not known. No digest begins
/// so, and an older version takes them for litter.
const STAGED: &str = "staged-";

impl Partials {
    pub(super) fn new(dir: PathBuf, backend: Arc<dyn Backend>, space: Arc<Space>) -> Self {
        Self {
            dir,
            backend,
            space,
            all: Mutex::default(),
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
            let Some((name, number)) = parse(&entry.name).filter(|(name, _)| match name {
                UploadName::Blob(digest) => entry.length <= digest.size(),
                UploadName::Staged(_) => true,
            }) else {
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
                recovered: true,
            };
            self.keep(name, parked);
        }
        Ok(())
    }

    /// Begins a partial upload.
    pub(super) fn create(&self, name: &UploadName) -> Result<(PathBuf, Arc<dyn BackendFile>)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(match name {
            UploadName::Blob(digest) => format!("{}.{number}", digest.file_name()),
            UploadName::Staged(key) => format!("{STAGED}{key}.{number}"),
        });
        match self.backend.create(&path) {
            Ok(file) => Ok((path, file)),
            Err(error) => Err(name.mark(CasError::io("beginning an upload", &path, error))),
        }
    }

    pub(super) fn open(&self, parked: &Parked) -> Result<Arc<dyn BackendFile>> {
        self.backend
            .open(&parked.path, Access::ReadWrite)
            .map_err(|error| CasError::io("resuming an upload", &parked.path, error))
    }

    /// How many bytes of the upload can be resumed.
    pub(super) fn held(&self, name: &UploadName) -> u64 {
        let all = self.all.lock();
        all.parked.get(name).map_or(0, |parked| parked.length)
    }

    /// Takes the parked upload of this name, for one writer alone.
    pub(super) fn claim(&self, name: &UploadName) -> Option<Parked> {
        self.all.lock().parked.remove(name)
    }

    /// Somebody begins to write to an upload of this name.
    pub(super) fn enter(&self, name: UploadName) -> Ticket {
        let mut all = self.all.lock();
        all.running.entry(name).or_default().count += 1;
        all.next_ticket += 1;
        Ticket(all.next_ticket)
    }

    /// Somebody has ended an upload.
    pub(super) fn leave(&self, name: &UploadName, ticket: Ticket) {
        self.all.lock().leave(name, &ticket);
    }

    /// Somebody stops writing to an upload that may be resumed.
    pub(super) fn park(&self, name: UploadName, ticket: Ticket, parked: Parked) {
        let parked = {
            let mut all = self.all.lock();
            match all.leave(&name, &ticket) && parked.length > 0 {
                true => all.keep(name, parked),
                false => Some(parked),
            }
        };
        self.settle(parked);
    }

    /// Gives a parked upload back that was claimed.
    pub(super) fn keep(&self, name: UploadName, parked: Parked) {
        let dropped = match parked.length {
            // Not worth keeping.
            0 => Some(parked),
            _ => self.all.lock().keep(name, parked),
        };
        self.settle(dropped);
    }

    fn settle(&self, dropped: Option<Parked>) {
        if let Some(dropped) = dropped {
            self.discard(&dropped);
        }
        if self.all.lock().parked.len() > MOST_PARKED {
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

    /// Whether there are uploads of this name.
    pub(super) fn has(&self, name: &UploadName) -> bool {
        let all = self.all.lock();
        all.parked.contains_key(name) || all.running.contains_key(name)
    }

    /// The blob of this name is stored: removes the parked upload of it, and sees that
    /// those that are running are not parked.
    pub(super) fn discard_of(&self, name: &UploadName) {
        let parked = {
            let mut all = self.all.lock();
            let next = all.next_ticket + 1;
            if let Some(running) = all.running.get_mut(name) {
                running.outdated_before = next;
            }
            all.parked.remove(name)
        };
        if let Some(parked) = parked {
            self.discard(&parked);
        }
    }

    /// Removes the parked uploads of blobs that are present: a crash came between
    /// the blob's new name and the removal of the old one.
    pub(super) fn discard_where(&self, mut present: impl FnMut(&Digest) -> bool) {
        let found: Vec<Parked> = {
            let all = &mut self.all.lock().parked;
            let mut is_present = |name: &UploadName| match name {
                UploadName::Blob(digest) => present(digest),
                UploadName::Staged(_) => false,
            };
            all.extract_if(|name, _| is_present(name))
                .map(|(_, parked)| parked)
                .collect()
        };
        for parked in &found {
            self.discard(parked);
        }
    }

    /// Removes those that were parked longer than this ago; how many, and their
    /// bytes.
    pub(super) fn expire(&self, now: SystemTime, ttl: Duration) -> (u64, u64) {
        let expired: Vec<Parked> = {
            let all = &mut self.all.lock().parked;
            all.extract_if(|_, parked| now.duration_since(parked.since).is_ok_and(|age| age >= ttl))
                .map(|(_, parked)| parked)
                .collect()
        };
        for parked in &expired {
            self.discard(parked);
        }
        let bytes = expired.iter().map(|parked| parked.length).sum();
        (expired.len() as u64, bytes)
    }

    /// Removes the one that was parked first; whether there was one.
    pub(super) fn drop_oldest(&self) -> bool {
        let oldest = {
            let all = &mut self.all.lock().parked;
            let oldest = all
                .iter()
                .min_by_key(|(_, parked)| parked.since)
                .map(|(name, _)| *name);
            oldest.and_then(|name| all.remove(&name))
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

impl All {
    /// Whether what is left of the upload is worth keeping.
    fn leave(&mut self, name: &UploadName, ticket: &Ticket) -> bool {
        let Some(running) = self.running.get_mut(name) else {
            return true;
        };
        let wanted = ticket.0 >= running.outdated_before;
        running.count -= 1;
        if running.count == 0 {
            self.running.remove(name);
        }
        wanted
    }

    /// Keeps an upload for later; of two of one name, the longer one. Gives the other
    /// out.
    fn keep(&mut self, name: UploadName, parked: Parked) -> Option<Parked> {
        match self.parked.get(&name) {
            Some(other) if other.length >= parked.length => Some(parked),
            _ => self.parked.insert(name, parked),
        }
    }
}

/// What a file's name says.
fn parse(file: &str) -> Option<(UploadName, u64)> {
    let (name, number) = file.rsplit_once('.')?;
    let name = match name.strip_prefix(STAGED) {
        Some(key) => UploadKey::from_bytes(*key.parse::<Hash>().ok()?.as_bytes()).into(),
        None => name.parse::<Digest>().ok()?.into(),
    };
    Some((name, u64::from(number.parse::<u32>().ok()?)))
}
