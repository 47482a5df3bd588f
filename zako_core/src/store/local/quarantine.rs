//! Bytes that are not what their name says: out of use, kept for a person to look at.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::io::{Access, Backend, write_all_at};
use super::space::Space;
use crate::Digest;
use crate::cas::{CasError, Result};

#[derive(Debug)]
pub(super) struct Quarantine {
    dir: PathBuf,
    backend: Arc<dyn Backend>,
    space: Arc<Space>,
    files: AtomicU64,
    next: AtomicU64,
}

impl Quarantine {
    /// Takes stock of what is in quarantine.
    pub(super) fn open(dir: PathBuf, backend: Arc<dyn Backend>, space: Arc<Space>) -> Result<Self> {
        let entries = backend
            .list(&dir)
            .map_err(|error| CasError::io("listing the quarantine", &dir, error))?;
        let mut next = 0;
        for entry in &entries {
            space.add(entry.length);
            let number = entry.name.rsplit('.').next();
            next = next.max(
                number
                    .and_then(|number| number.parse::<u32>().ok())
                    .map_or(0, u64::from)
                    + 1,
            );
        }
        Ok(Self {
            dir,
            backend,
            space,
            files: AtomicU64::new(entries.len() as u64),
            next: AtomicU64::new(next),
        })
    }

    /// The number of files in quarantine.
    pub(super) fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// Keeps the damaged bytes of a record. On a full disk they are not kept: they
    /// are of no use but to find out what happened.
    pub(super) fn keep(&self, digest: &Digest, bytes: &[u8]) {
        let path = self.next_path(&digest.file_name());
        let kept = self.backend.create(&path).and_then(|file| {
            write_all_at(&*file, &mut [IoSlice::new(bytes)], 0)?;
            file.sync_data()
        });
        match kept {
            Ok(()) => self.count(bytes.len() as u64),
            Err(error) => {
                tracing::warn!(%digest, %error, "damaged bytes could not be kept in quarantine");
                let _ = self.backend.remove(&path);
            }
        }
    }

    /// Takes in the file of a damaged blob.
    pub(super) fn take_file(&self, digest: &Digest, from: &Path) -> Result<()> {
        let path = self.next_path(&digest.file_name());
        self.move_in(from, &path)?;
        let file = self.backend.open(&path, Access::Read);
        self.count(file.and_then(|file| file.length()).unwrap_or(digest.size()));
        Ok(())
    }

    /// Takes in a file that is no part of a store.
    pub(super) fn take_stray(&self, from: &Path, length: u64) -> Result<()> {
        let name = from.file_name().unwrap_or_default().to_string_lossy();
        let path = self.next_path(&name);
        self.move_in(from, &path)?;
        self.count(length);
        Ok(())
    }

    fn move_in(&self, from: &Path, to: &Path) -> Result<()> {
        self.backend
            .rename(from, to)
            .and_then(|()| self.backend.sync_dir(&self.dir))
            .map_err(|error| CasError::io("moving a file to quarantine", from, error))
    }

    fn count(&self, bytes: u64) {
        self.space.add(bytes);
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    fn next_path(&self, name: &str) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.dir.join(format!("{name}.{number}"))
    }
}
