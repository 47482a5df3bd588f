//! The seam between the store and the file system.
//!
//! All file I/O of the local store goes through a [`Backend`], so that a test can
//! put one under it that fails, or that forgets what was not synced as a machine
//! does that loses its power. [`Disk`] is the real one.

mod disk;

use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

pub use disk::Disk;

/// A file system, as much of one as the store needs.
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Makes a folder and those above it, if they aren't there.
    ///
    /// # Errors
    /// Those of the file system; so for all methods here.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Makes a new file, for reading and writing.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn BackendFile>>;

    /// Opens a file that is there.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn BackendFile>>;

    /// The files and folders in a folder, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;

    /// Gives a file another path, in place of what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Open ones stay readable.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Locks a file, making it if need be, for as long as what this returns lives;
    /// `None` if somebody else has the lock. `note` becomes the file's content.
    fn lock(&self, path: &Path, note: &str) -> io::Result<Option<Box<dyn Lock>>>;

    /// Bytes that can still be written to the file system of this folder.
    fn available_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// A lock on a file, which its drop gives back.
pub trait Lock: fmt::Debug + Send + Sync {}

/// An open file.
pub trait BackendFile: fmt::Debug + Send + Sync + 'static {
    /// Reads at `offset`; how many bytes, 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Reads what is in memory already, `None` if that would mean waiting for the
    /// disk.
    fn read_now(&self, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>>;

    /// Writes at `offset`; how many bytes of all buffers together.
    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;

    /// Makes the content durable.
    fn sync_data(&self) -> io::Result<()>;

    /// Asks the system to begin writing a part to disk, without waiting.
    fn start_writeback(&self, offset: u64, length: u64);

    /// Takes room on disk for bytes behind the file's end, whose length stays: then
    /// writing and syncing them changes less. A hint; `false` if it was not taken.
    fn preallocate(&self, offset: u64, length: u64) -> bool {
        let _ = (offset, length);
        false
    }

    /// Gives back what was preallocated behind the file's end.
    fn trim(&self) -> io::Result<()> {
        Ok(())
    }

    /// Cuts the file, or lengthens it with zeros.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// The file's length in bytes.
    fn length(&self) -> io::Result<u64>;

    /// The file behind it, if there is a real one.
    fn file(&self) -> Option<&Arc<File>>;
}

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For reading.
    Read,
    /// For reading and writing.
    ReadWrite,
}

/// What a folder has.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name; entries whose name is not UTF-8 are not the store's and are left out.
    pub name: String,
    /// The length in bytes.
    pub length: u64,
    /// When it was last written.
    pub modified: SystemTime,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// Fills `buffer` from `offset`.
pub(crate) fn read_exact_at(
    file: &dyn BackendFile,
    mut buffer: &mut [u8],
    mut offset: u64,
) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                buffer = &mut buffer[read..];
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all of `buffers` at `offset`, in as many calls as the system needs.
pub(crate) fn write_all_at(
    file: &dyn BackendFile,
    mut buffers: &mut [IoSlice<'_>],
    mut offset: u64,
) -> io::Result<()> {
    /// IOV_MAX on Linux and the BSDs.
    const MOST_BUFFERS: usize = 1024;
    IoSlice::advance_slices(&mut buffers, 0);
    while !buffers.is_empty() {
        let most = buffers.len().min(MOST_BUFFERS);
        match file.write_at(&buffers[..most], offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                IoSlice::advance_slices(&mut buffers, written);
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
