//! Reading files of a tree: each is hashed, and a small one kept to be sent.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags};
use zako_digest::hash::Hasher;

use crate::Digest;
use crate::cas::{CasError, ErrorKind, Result};

/// An open regular file.
pub(super) struct Opened {
    file: File,
    metadata: Metadata,
}

/// Buffers for the content of small files: so many at most, and each used again.
#[derive(Debug)]
pub(super) struct Buffers {
    free: Mutex<Free>,
    changed: Condvar,
}

#[derive(Debug)]
struct Free {
    /// Used before.
    buffers: Vec<Vec<u8>>,
    /// Those and the ones that may still be made.
    left: usize,
    /// Nobody waits again before one is given back.
    kept: bool,
}

/// A buffer, given back when it drops.
#[derive(Debug)]
pub(super) struct Buffer {
    data: Vec<u8>,
    home: Arc<Buffers>,
}

/// Files that fit into a buffer are kept in one, in bytes.
pub(super) const BUFFER: usize = 256 * 1024;

/// The size of a read of a large file, in bytes: it stays in the L2 cache until it
/// is hashed.
const STEP: usize = 128 * 1024;

/// For how long nothing may be given back before files are not kept any more.
const PATIENCE: Duration = Duration::from_secs(1);

/// Opens a file in an open folder.
pub(super) fn open(folder: impl AsFd, name: &[u8], path: &dyn Fn() -> PathBuf) -> Result<Opened> {
    let failed = |error| CasError::io("the file can't be opened", &path(), error);
    // What was a file when the folder was read may be a fifo now, or a link.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, name, flags, Mode::empty())
        .map_err(|error| failed(error.into()))?;
    let file = File::from(file);
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        let error = CasError::new(ErrorKind::InvalidArgument, "not a regular file");
        return Err(error.with_path(&path()));
    }
    Ok(Opened { file, metadata })
}

impl Opened {
    pub(super) fn size(&self) -> u64 {
        self.metadata.len()
    }

    /// Its permission bits.
    pub(super) fn mode(&self) -> u32 {
        self.metadata.mode() & 0o7777
    }

    /// Hashes a file for which the buffer has room, and appends its content.
    pub(super) fn keep(self, buffer: &mut Buffer, path: &dyn Fn() -> PathBuf) -> Result<Digest> {
        let data = &mut buffer.data;
        let from = data.len();
        let end = from as u64 + self.size();
        while (data.len() as u64) <= end && data.len() < data.capacity() {
            match rustix::io::read(&self.file, spare_capacity(data)) {
                Ok(0) => break,
                // There was room for more: it has come to the end.
                Ok(_) if data.len() as u64 == end => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    let text = "the file can't be read";
                    return Err(CasError::io(text, &path(), error.into()));
                }
            }
        }
        let content = &data[from..];
        self.check_unchanged(content.len(), path)?;
        Ok(zako_digest::hash::bytes(content))
    }

    /// Hashes a file, a step of `buffer` at a time.
    pub(super) fn hash(
        mut self,
        buffer: &mut Vec<u8>,
        path: &dyn Fn() -> PathBuf,
    ) -> Result<Digest> {
        buffer.resize(STEP, 0);
        let mut hasher = Hasher::new();
        loop {
            match self.file.read(buffer) {
                Ok(0) => break,
                Ok(read) => {
                    hasher.update(&buffer[..read]);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let text = "the file can't be read";
                    return Err(CasError::io(text, &path(), error));
                }
            }
        }
        Ok(hasher.finish())
    }

    /// Fails if somebody wrote to the file while it was read.
    fn check_unchanged(&self, read: usize, path: &dyn Fn() -> PathBuf) -> Result<()> {
        let now = self
            .file
            .metadata()
            .map_err(|error| CasError::io("the file can't be read", &path(), error))?;
        let version = |metadata: &Metadata| {
            (
                metadata.len(),
                (metadata.mtime(), metadata.mtime_nsec()),
                (metadata.ctime(), metadata.ctime_nsec()),
            )
        };
        if version(&now) == version(&self.metadata) && read as u64 == self.size() {
            return Ok(());
        }
        let error = CasError::new(ErrorKind::Mismatch, "the file changed while it was read");
        Err(error.with_path(&path()))
    }
}

impl Buffers {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Mutex::new(Free {
                buffers: Vec::new(),
                left: most,
                kept: false,
            }),
            changed: Condvar::new(),
        })
    }

    /// An empty one, if there is one now.
    pub(super) fn try_take(self: &Arc<Self>) -> Option<Buffer> {
        let mut free = self.free.lock();
        (free.left > 0).then(|| self.one_of(&mut free))
    }

    /// An empty one, when there is one; `None` if none is given back for a while: the
    /// store may keep what it is given. Blocks.
    pub(super) fn take(self: &Arc<Self>) -> Option<Buffer> {
        let mut free = self.free.lock();
        while free.left == 0 {
            if free.kept || self.changed.wait_for(&mut free, PATIENCE).timed_out() {
                free.kept = true;
                return None;
            }
        }
        Some(self.one_of(&mut free))
    }

    fn one_of(self: &Arc<Self>, free: &mut Free) -> Buffer {
        free.left -= 1;
        let data = free.buffers.pop();
        Buffer {
            data: data.unwrap_or_else(|| Vec::with_capacity(BUFFER)),
            home: Arc::clone(self),
        }
    }
}

impl Buffer {
    pub(super) fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether a file of this size can be kept in it. One byte must be left, to see
    /// that a file doesn't go on.
    pub(super) fn has_room(&self, size: u64) -> bool {
        size < (self.data.capacity() - self.data.len()) as u64
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut data = std::mem::take(&mut self.data);
        data.clear();
        let mut free = self.home.free.lock();
        free.buffers.push(data);
        free.left += 1;
        free.kept = false;
        self.home.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    fn opened(folder: &Path, content: &[u8]) -> (PathBuf, Opened) {
        let path = folder.join("file");
        std::fs::write(&path, content).unwrap();
        let folder = File::open(folder).unwrap();
        (
            path.clone(),
            open(&folder, b"file", &|| path.clone()).unwrap(),
        )
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let buffers = Buffers::new(1);
        for change in ["none", "shorter", "longer", "much longer", "other"] {
            let (path, file) = opened(folder.path(), &[7; 1000]);
            let write = |content: &[u8]| std::fs::write(&path, content).unwrap();
            match change {
                "shorter" => write(&[7; 999]),
                "longer" => write(&[7; 1001]),
                "much longer" => write(&vec![7; 2 * BUFFER]),
                "other" => {
                    write(&[8; 1000]);
                    // The clock of the file system may not have moved.
                    let later = SystemTime::now() + Duration::from_secs(1);
                    let file = File::options().write(true).open(&path).unwrap();
                    file.set_modified(later).unwrap();
                }
                _ => {}
            }
            let mut buffer = buffers.take().unwrap();
            let outcome = file.keep(&mut buffer, &|| path.clone());
            if change == "none" {
                assert_eq!(outcome.unwrap(), zako_digest::hash::bytes(&[7; 1000]));
                assert_eq!(buffer.as_ref(), [7; 1000]);
            } else {
                let error = outcome.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Mismatch, "{change}");
                assert_eq!(error.path(), Some(&*path));
            }
        }
    }

    #[test]
    fn buffers_are_waited_for_and_used_again() {
        let buffers = Buffers::new(2);
        let (one, two) = (buffers.take().unwrap(), buffers.take().unwrap());
        assert!(one.has_room(BUFFER as u64 - 1) && !one.has_room(BUFFER as u64));
        let place = two.data.as_ptr() as usize;
        let waiting = std::thread::spawn({
            let buffers = Arc::clone(&buffers);
            move || buffers.take().unwrap().data.as_ptr() as usize
        });
        assert!(buffers.try_take().is_none());
        drop(two);
        assert_eq!(waiting.join().unwrap(), place);
        drop(one);
        assert_eq!(buffers.free.lock().left, 2);
    }
}
