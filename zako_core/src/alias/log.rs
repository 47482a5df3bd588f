//! The file that records are appended to.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::record::{HEADER_LEN, Header, RECORD_LEN};
use crate::cas::{CasError, Result};
use crate::store::local::io::{Backend, BackendFile, write_all_at};

/// The name of the log in the table's folder.
pub(super) const LOG: &str = "aliases.log";

/// The name of a log that is being written to take the place of the other.
pub(super) const NEW_LOG: &str = "aliases.log.new";

/// So many zeros are written ahead of short appends: to sync bytes that were written over
/// others costs a third less than to sync those of a file that grows.
const ZEROS: u64 = 64 << 10;

/// Appends of fewer bytes are short.
const SHORT: usize = 32 << 10;

/// A log that is being written.
#[derive(Debug)]
pub(super) struct Log {
    file: Arc<dyn BackendFile>,
    path: PathBuf,
    pub(super) epoch: u64,
    /// The end of what is written, and of what is synced.
    written: u64,
    synced: u64,
    /// The end of the zeros behind that, and whether there are to be more.
    zeroed: u64,
    writes_zeros: bool,
}

/// Why bytes were not appended.
pub(super) enum AppendError {
    /// The log is as it was.
    Undone(CasError),
    /// Nobody knows what is behind its end.
    Torn(CasError),
}

impl Log {
    /// Begins a log, in place of what has this path.
    pub(super) fn create(backend: &dyn Backend, path: PathBuf) -> Result<Self> {
        let wrap = |error| CasError::io("beginning a log of aliases", &path, error);
        match backend.remove(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(wrap(error)),
            _ => {}
        }
        let file = backend.create(&path).map_err(wrap)?;
        let epoch = rand::random();
        let header = Header::encode(epoch);
        write_all_at(&*file, &mut [IoSlice::new(&header)], 0).map_err(wrap)?;
        Ok(Self {
            file,
            path,
            epoch,
            written: HEADER_LEN as u64,
            synced: 0,
            zeroed: HEADER_LEN as u64,
            writes_zeros: true,
        })
    }

    /// Goes on with a log that ends at `end` and is synced.
    pub(super) fn resume(file: Arc<dyn BackendFile>, path: PathBuf, epoch: u64, end: u64) -> Self {
        Self {
            file,
            path,
            epoch,
            written: end,
            synced: end,
            zeroed: end,
            writes_zeros: true,
        }
    }

    /// Gives the log, which must be synced, the other name, durably.
    ///
    /// # Errors
    /// With `true` if the name may be given all the same.
    pub(super) fn rename(
        &mut self,
        backend: &dyn Backend,
        to: PathBuf,
    ) -> Result<(), (CasError, bool)> {
        let wrap = |error| CasError::io("replacing the log of aliases", &to, error);
        backend
            .rename(&self.path, &to)
            .map_err(|error| (wrap(error), false))?;
        let folder = to.parent().unwrap_or(Path::new("."));
        backend
            .sync_dir(folder)
            .map_err(|error| (wrap(error), true))?;
        self.path = to;
        Ok(())
    }

    /// Writes records. They are durable once it is synced.
    pub(super) fn append(&mut self, records: &[u8]) -> Result<(), AppendError> {
        let written = write_all_at(&*self.file, &mut [IoSlice::new(records)], self.written);
        if let Err(error) = written {
            let error = CasError::io("appending to the log of aliases", &self.path, error);
            self.zeroed = self.written;
            return Err(match self.file.set_len(self.written) {
                Ok(()) => AppendError::Undone(error),
                Err(_) => AppendError::Torn(error),
            });
        }
        self.written += records.len() as u64;
        if self.written > self.zeroed {
            self.zeroed = self.written;
            if self.writes_zeros && records.len() < SHORT {
                self.write_zeros();
            }
        }
        Ok(())
    }

    fn write_zeros(&mut self) {
        let zeros = vec![0; ZEROS as usize];
        match write_all_at(&*self.file, &mut [IoSlice::new(&zeros)], self.written) {
            Ok(()) => self.zeroed = self.written + ZEROS,
            // A full disk has to have room for records first. What stays of them is no
            // record.
            Err(_) => {
                self.writes_zeros = false;
                let _ = self.file.set_len(self.written);
            }
        }
    }

    /// Asks the system to begin writing what was appended since it ended at `from`.
    pub(super) fn start_writeback(&self, from: u64) {
        self.file.start_writeback(from, self.written - from);
    }

    /// Makes durable what is written. After an error the log must not be written again.
    pub(super) fn sync(&mut self) -> Result<()> {
        if self.synced < self.written {
            self.file
                .sync_data()
                .map_err(|error| CasError::io("syncing the log of aliases", &self.path, error))?;
            self.synced = self.written;
        }
        Ok(())
    }

    /// Cuts off what was not synced: it was not acknowledged, or will be written anew.
    pub(super) fn cut(&self) {
        let cut = self.file.set_len(self.synced.max(HEADER_LEN as u64));
        if let Err(error) = cut.and_then(|()| self.file.sync_data()) {
            tracing::warn!(path = %self.path.display(), %error, "its end could not be cut off");
        }
    }

    /// Cuts off the zeros; whoever opens it does so otherwise.
    pub(super) fn trim(&mut self) {
        if self.zeroed > self.written && self.file.set_len(self.written).is_ok() {
            self.zeroed = self.written;
        }
    }

    /// Where it ends, in bytes.
    pub(super) fn end(&self) -> u64 {
        self.written
    }

    /// How many records it has, damaged ones too.
    pub(super) fn records(&self) -> u64 {
        (self.written - HEADER_LEN as u64) / RECORD_LEN as u64
    }
}
