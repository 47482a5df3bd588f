//! A file system in memory that loses its power, and that fails on demand.
//!
//! What was not synced is lost, kept, torn at a sector, or reordered, by a seeded
//! choice: a file's writes since its last `sync_data`, and a folder's changed names
//! since its last `sync_dir`.

#![allow(unreachable_pub, reason = "several tests have this module")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use zako_core::store::local::io::{Access, Backend, BackendFile, Entry, Lock};

const SECTOR: usize = 512;

/// The file system. Clones are the same one.
#[derive(Clone, Debug)]
pub struct SimFs {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    files: BTreeMap<u64, Inode>,
    next_inode: u64,
    /// The names as processes see them, and as they are on disk.
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names that are not on disk yet, in their order.
    pending_names: Vec<(PathBuf, Option<u64>)>,
    dirs: Vec<PathBuf>,
    locks: Vec<PathBuf>,
    clock: u64,
    /// Calls that change something, so far.
    changes: u64,
    /// The power goes out at this one.
    power_off_at: Option<u64>,
    dead: bool,
    faults: Vec<Fault>,
    capacity: u64,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// Changes that are not on disk yet, in their order.
    pending: Vec<Change>,
    modified: u64,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

/// What shall go wrong.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which calls.
    pub call: Call,
    /// On files whose path contains this.
    pub path: &'static str,
    /// After so many such calls.
    pub after: u64,
    /// For so many calls.
    pub times: u64,
    /// The error.
    pub errno: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Read,
    Write,
    /// A write that takes half of its bytes, without an error.
    ShortWrite,
    Sync,
    Create,
    Rename,
    Remove,
}

pub const EIO: i32 = 5;
pub const ENOSPC: i32 = 28;

impl SimFs {
    pub fn new() -> Self {
        let state = State {
            files: BTreeMap::new(),
            next_inode: 1,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            dirs: Vec::new(),
            locks: Vec::new(),
            clock: 0,
            changes: 0,
            power_off_at: None,
            dead: false,
            faults: Vec::new(),
            capacity: u64::MAX,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The power goes out at the `change`th call from now that changes something:
    /// that one and all later ones fail.
    pub fn power_off_after(&self, changes: u64) {
        let mut state = self.lock();
        state.power_off_at = Some(state.changes + changes);
    }

    /// The power goes out now.
    pub fn power_off(&self) {
        self.lock().dead = true;
    }

    /// What a machine finds that starts with this disk.
    pub fn restart(&self, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let state = self.lock();
        let mut names = state.durable_names.clone();
        // Names of one folder reach the disk in their order, or not at all.
        let kept = rng.random_range(0..=state.pending_names.len());
        for (path, inode) in &state.pending_names[..kept] {
            match inode {
                Some(inode) => names.insert(path.clone(), *inode),
                None => names.remove(path),
            };
        }
        let files = names
            .values()
            .map(|inode| {
                let found = &state.files[inode];
                let bytes = found.after_power_loss(&mut rng);
                let modified = found.modified;
                let inode_now = Inode {
                    durable: bytes.clone(),
                    bytes,
                    pending: Vec::new(),
                    modified,
                };
                (*inode, inode_now)
            })
            .collect();
        let after = Self::new();
        {
            let mut new = after.lock();
            new.files = files;
            new.next_inode = state.next_inode;
            new.durable_names = names.clone();
            new.names = names;
            new.dirs = state.dirs.clone();
            new.clock = state.clock;
            new.capacity = state.capacity;
        }
        after
    }

    /// What a process finds that starts after another was killed: all that was
    /// written, synced or not.
    pub fn after_kill(&self) -> Self {
        let state = self.lock();
        let after = Self::new();
        {
            let mut new = after.lock();
            new.files = state.files.clone();
            new.next_inode = state.next_inode;
            new.names = state.names.clone();
            new.durable_names = state.durable_names.clone();
            new.pending_names = state.pending_names.clone();
            new.dirs = state.dirs.clone();
            new.clock = state.clock;
            new.capacity = state.capacity;
        }
        after
    }

    pub fn fail(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    pub fn heal(&self) {
        self.lock().faults.clear();
    }

    /// Bytes of all files below a folder.
    pub fn bytes_below(&self, path: &Path) -> u64 {
        let state = self.lock();
        let below = state
            .names
            .iter()
            .filter(|(name, _)| name.starts_with(path));
        below
            .map(|(_, inode)| state.files[inode].bytes.len() as u64)
            .sum()
    }

    /// The files below a folder.
    pub fn files_below(&self, path: &Path) -> Vec<PathBuf> {
        let state = self.lock();
        let below = state.names.keys().filter(|name| name.starts_with(path));
        below.cloned().collect()
    }

    /// Changes a file behind everybody's back.
    pub fn edit(&self, path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        let inode = state.names[path];
        let file = state.files.get_mut(&inode).unwrap();
        edit(&mut file.bytes);
        file.durable = file.bytes.clone();
        file.pending.clear();
    }

    /// Whether the power is out. What a process says after that, nobody hears.
    pub fn is_dead(&self) -> bool {
        self.lock().dead
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Inode {
    fn after_power_loss(&self, rng: &mut StdRng) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let mut changes: Vec<Change> = self
            .pending
            .iter()
            .filter(|_| rng.random_bool(0.7))
            .cloned()
            .collect();
        if rng.random_bool(0.5) {
            changes.shuffle(rng);
        }
        for change in changes {
            match change {
                Change::Length(length) => bytes.resize(length, 0),
                Change::Write(offset, data) => {
                    // Sectors are whole; a write of several may be torn between any.
                    for (at, sector) in data.chunks(SECTOR).enumerate() {
                        if rng.random_bool(0.9) {
                            put(&mut bytes, offset + at * SECTOR, sector);
                        }
                    }
                }
            }
        }
        bytes
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if bytes.len() < offset + data.len() {
        bytes.resize(offset + data.len(), 0);
    }
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

impl State {
    fn check(&mut self, call: Call, path: &Path) -> io::Result<()> {
        if self.dead {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        if call != Call::Read && call != Call::ShortWrite {
            self.changes += 1;
            if self.power_off_at.is_some_and(|at| self.changes >= at) {
                self.dead = true;
                return Err(io::Error::from_raw_os_error(EIO));
            }
        }
        for fault in &mut self.faults {
            if fault.call == call && path.to_string_lossy().contains(fault.path) {
                if fault.after > 0 {
                    fault.after -= 1;
                } else if fault.times > 0 {
                    fault.times -= 1;
                    return Err(io::Error::from_raw_os_error(fault.errno));
                }
            }
        }
        Ok(())
    }

    fn inode(&self, path: &Path) -> io::Result<u64> {
        let found = self.names.get(path).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename_entry(&mut self, path: &Path, inode: Option<u64>) {
        match inode {
            Some(inode) => self.names.insert(path.to_owned(), inode),
            None => self.names.remove(path),
        };
        self.pending_names.push((path.to_owned(), inode));
    }
}

impl Backend for SimFs {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        if !state.dirs.iter().any(|dir| dir == path) {
            state.dirs.push(path.to_owned());
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn BackendFile>> {
        let mut state = self.lock();
        state.check(Call::Create, path)?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.next_inode;
        state.next_inode += 1;
        state.files.insert(inode, Inode::default());
        state.rename_entry(path, Some(inode));
        Ok(self.file(path, inode))
    }

    fn open(&self, path: &Path, _: Access) -> io::Result<Arc<dyn BackendFile>> {
        let mut state = self.lock();
        state.check(Call::Read, path)?;
        let inode = state.inode(path)?;
        Ok(self.file(path, inode))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut state = self.lock();
        state.check(Call::Read, path)?;
        if !state.dirs.iter().any(|dir| dir == path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let files = state
            .names
            .iter()
            .filter(|(name, _)| name.parent() == Some(path));
        let files = files.map(|(name, inode)| {
            let file = &state.files[inode];
            Entry {
                name: name.file_name().unwrap().to_str().unwrap().to_owned(),
                length: file.bytes.len() as u64,
                modified: SystemTime::UNIX_EPOCH + Duration::from_secs(file.modified),
                is_dir: false,
            }
        });
        Ok(files.collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.check(Call::Rename, to)?;
        let inode = state.inode(from)?;
        // The new name first: a crash between the two leaves both, never none.
        state.rename_entry(to, Some(inode));
        state.rename_entry(from, None);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.check(Call::Remove, path)?;
        state.inode(path)?;
        state.rename_entry(path, None);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.check(Call::Sync, path)?;
        let pending = std::mem::take(&mut state.pending_names);
        for (name, inode) in pending {
            if name.parent() != Some(path) {
                state.pending_names.push((name, inode));
                continue;
            }
            match inode {
                Some(inode) => state.durable_names.insert(name, inode),
                None => state.durable_names.remove(&name),
            };
        }
        Ok(())
    }

    fn lock(&self, path: &Path, _: &str) -> io::Result<Option<Box<dyn Lock>>> {
        let mut state = SimFs::lock(self);
        if state.locks.iter().any(|lock| lock == path) {
            return Ok(None);
        }
        state.locks.push(path.to_owned());
        Ok(Some(Box::new(SimLock {
            fs: self.clone(),
            path: path.to_owned(),
        })))
    }

    fn available_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(1 << 40)
    }
}

impl SimFs {
    fn file(&self, path: &Path, inode: u64) -> Arc<dyn BackendFile> {
        Arc::new(SimFile {
            fs: self.clone(),
            path: path.to_owned(),
            inode,
        })
    }
}

#[derive(Debug)]
struct SimLock {
    fs: SimFs,
    path: PathBuf,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.fs.lock();
        state.locks.retain(|lock| *lock != self.path);
    }
}

#[derive(Debug)]
struct SimFile {
    fs: SimFs,
    path: PathBuf,
    inode: u64,
}

impl SimFile {
    fn change<T>(&self, call: Call, change: impl FnOnce(&mut Inode) -> T) -> io::Result<T> {
        let mut state = self.fs.lock();
        state.check(call, &self.path)?;
        state.clock += 1;
        let clock = state.clock;
        let file = state.files.get_mut(&self.inode).unwrap();
        file.modified = clock;
        Ok(change(file))
    }
}

impl BackendFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.fs.lock();
        state.check(Call::Read, &self.path)?;
        let bytes = &state.files[&self.inode].bytes;
        let from = (offset as usize).min(bytes.len());
        let length = buffer.len().min(bytes.len() - from);
        buffer[..length].copy_from_slice(&bytes[from..from + length]);
        Ok(length)
    }

    fn read_now(&self, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        // Now and then it isn't in memory.
        if (offset / 16).is_multiple_of(3) {
            return Ok(None);
        }
        self.read_at(buffer, offset).map(Some)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut data: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.to_vec()).collect();
        if self.fs.lock().check(Call::ShortWrite, &self.path).is_err() && data.len() > 1 {
            data.truncate(data.len() / 2);
        }
        self.change(Call::Write, |file| {
            put(&mut file.bytes, offset as usize, &data);
            let length = data.len();
            file.pending.push(Change::Write(offset as usize, data));
            length
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let synced = self.change(Call::Sync, |file| {
            file.durable = file.bytes.clone();
            file.pending.clear();
        });
        if synced.is_err() {
            // As Linux does: the pages are clean now, whatever the disk has.
            let mut state = self.fs.lock();
            if !state.dead {
                let file = state.files.get_mut(&self.inode).unwrap();
                file.pending.clear();
            }
        }
        synced
    }

    fn start_writeback(&self, _: u64, _: u64) {}

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(Call::Write, |file| {
            file.bytes.resize(length as usize, 0);
            file.pending.push(Change::Length(length as usize));
        })
    }

    fn length(&self) -> io::Result<u64> {
        let state = self.fs.lock();
        Ok(state.files[&self.inode].bytes.len() as u64)
    }

    fn file(&self) -> Option<&Arc<File>> {
        None
    }
}
