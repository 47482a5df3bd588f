//! The real file system.
//!
//! This file has the crate's only `unsafe`: one system call that no safe wrapper
//! offers.
#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Access, Backend, BackendFile, Entry, Lock};

/// The file system of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

#[derive(Debug)]
struct DiskFile {
    file: Arc<File>,
}

/// The lock ends with the descriptor, also when the process is killed.
#[derive(Debug)]
struct DiskLock {
    _file: File,
}

impl Lock for DiskLock {}

/// Blobs are for the store's user alone; whoever may read them asks the server.
const FILE_MODE: u32 = 0o600;

/// Less than this behind a file's end may be the file system's own.
#[cfg(target_os = "linux")]
const SPARE: u64 = 64 << 10;

impl Backend for Disk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn BackendFile>> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create_new(true)
            .mode(FILE_MODE);
        Ok(Arc::new(DiskFile {
            file: Arc::new(options.open(path)?),
        }))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn BackendFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(access == Access::ReadWrite);
        Ok(Arc::new(DiskFile {
            file: Arc::new(options.open(path)?),
        }))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            entries.push(Entry {
                name,
                length: metadata.len(),
                modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                is_dir: metadata.is_dir(),
            });
        }
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn lock(&self, path: &Path, note: &str) -> io::Result<Option<Box<dyn Lock>>> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE);
        let file = options.open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        // The note tells a person who holds the lock; a full disk may swallow it.
        if file.set_len(0).is_ok() {
            let _ = file.write_at(note.as_bytes(), 0);
        }
        Ok(Some(Box::new(DiskLock { _file: file })))
    }

    fn available_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl BackendFile for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    #[cfg(target_os = "linux")]
    fn read_now(&self, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        use rustix::io::{Errno, ReadWriteFlags, preadv2};
        let mut buffers = [io::IoSliceMut::new(buffer)];
        match preadv2(&*self.file, &mut buffers, offset, ReadWriteFlags::NOWAIT) {
            Ok(read) => Ok(Some(read)),
            // Not in memory; or a file system that can't tell.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn read_now(&self, _buffer: &mut [u8], _offset: u64) -> io::Result<Option<usize>> {
        Ok(None)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        #[cfg(not(target_vendor = "apple"))]
        return Ok(rustix::io::pwritev(&*self.file, buffers, offset)?);
        #[cfg(target_vendor = "apple")]
        match buffers.iter().find(|buffer| !buffer.is_empty()) {
            Some(buffer) => self.file.write_at(buffer, offset),
            None => Ok(0),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn start_writeback(&self, offset: u64, length: u64) {
        #[cfg(target_os = "linux")]
        if let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) {
            use std::os::fd::AsRawFd;
            // A hint: whatever it answers, sync_data comes later and tells.
            // SAFETY: the call takes a descriptor, which `self.file` keeps open for
            // the call's time, and three numbers; it touches no memory of ours.
            let _ = unsafe {
                libc::sync_file_range(
                    self.file.as_raw_fd(),
                    offset,
                    length,
                    libc::SYNC_FILE_RANGE_WRITE,
                )
            };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (offset, length);
    }

    #[cfg(target_os = "linux")]
    fn preallocate(&self, offset: u64, length: u64) -> bool {
        use rustix::fs::{FallocateFlags, fallocate};
        fallocate(&*self.file, FallocateFlags::KEEP_SIZE, offset, length).is_ok()
    }

    #[cfg(target_os = "linux")]
    fn trim(&self) -> io::Result<()> {
        use std::os::unix::fs::MetadataExt;
        let metadata = self.file.metadata()?;
        if metadata.blocks() * 512 <= metadata.len() + SPARE {
            // Nothing to give back: a partial upload stays as old as it is.
            return Ok(());
        }
        // Cutting a file where it ends frees what lies behind.
        self.file.set_len(metadata.len())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn file(&self) -> Option<&Arc<File>> {
        Some(&self.file)
    }
}
