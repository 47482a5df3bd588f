//! Reading a folder and all below it, files included, on several threads.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use tokio::sync::mpsc;

use super::content::{self, BUFFER, Buffer, Buffers};
use super::folder::Folder;
use super::{Entry, LeftOut, Node, TreeOptions, too_much};
use crate::Digest;
use crate::cas::{CasError, ErrorKind, Result};
use crate::transfer::{Source, Upload};

/// What a walk found.
pub(super) struct Walked {
    /// Of the root's directory.
    pub(super) digest: Digest,
    pub(super) files: u64,
    pub(super) file_bytes: u64,
    /// The root not counted.
    pub(super) folders: u64,
    pub(super) symlinks: u64,
    pub(super) left_out: Vec<LeftOut>,
}

struct Walk<'a> {
    options: &'a TreeOptions,
    uploads: mpsc::Sender<Vec<Upload>>,
    buffers: Arc<Buffers>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The last is done first, so that what is begun ends before more is begun.
    jobs: Vec<Job>,
    /// Threads that may still add some.
    busy: usize,
    entries: u64,
    walked: Walked,
    failure: Option<CasError>,
}

enum Job {
    /// A folder's list is to be read. The root has no parent.
    Folder {
        path: PathBuf,
        depth: usize,
        parent: Option<(Arc<Folder>, Bytes)>,
    },
    /// Some of a folder's files are to be read.
    Files {
        folder: Arc<Folder>,
        open: Arc<File>,
        names: Vec<Bytes>,
    },
}

/// One thread's work.
struct Worker<'a> {
    walk: &'a Walk<'a>,
    /// For the upload, when they are some.
    ready: Vec<Upload>,
    /// Full buffers that have the content of some of these.
    full: usize,
    buffer: Option<Buffer>,
    /// The files in the buffer, and where each of them ends.
    kept: Vec<(Digest, usize)>,
    /// For files that are not kept.
    step: Vec<u8>,
}

/// The list of a folder.
#[derive(Default)]
struct List {
    files: Vec<Bytes>,
    folders: Vec<Bytes>,
    links: Vec<Entry>,
    left_out: Vec<LeftOut>,
}

/// Buffers of 256 KiB for files that are kept until the store has them: 64 MiB.
const BUFFERS: usize = 256;

/// Files that a thread reads one after the other.
const FILES: usize = 32;

/// Blobs and buffers that are handed to the upload at once: what is handed over is
/// asked for, and a question costs the same for few blobs as for many.
const GROUP: usize = 512;
const GROUP_BUFFERS: usize = 16;

/// Reads `root`, and gives out each blob of the tree as soon as it is known. Blocks.
pub(super) fn walk(
    root: &Path,
    options: &TreeOptions,
    uploads: mpsc::Sender<Vec<Upload>>,
) -> Result<Walked> {
    let failed = |error| CasError::io("the folder can't be read", root, error);
    if !std::fs::metadata(root).map_err(failed)?.is_dir() {
        let error = CasError::new(ErrorKind::InvalidArgument, "not a folder");
        return Err(error.with_path(root));
    }
    let walk = Walk {
        options,
        uploads,
        buffers: Buffers::new(BUFFERS),
        state: Mutex::new(State {
            jobs: vec![Job::Folder {
                path: root.to_owned(),
                depth: 1,
                parent: None,
            }],
            busy: 0,
            entries: 0,
            walked: Walked {
                digest: Digest::EMPTY,
                files: 0,
                file_bytes: 0,
                folders: 0,
                symlinks: 0,
                left_out: Vec::new(),
            },
            failure: None,
        }),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for _ in 1..options.threads.max(1) {
            scope.spawn(|| Worker::new(&walk).work());
        }
        Worker::new(&walk).work();
    });
    let mut state = walk.state.into_inner();
    state.walked.left_out.sort_by(|a, b| a.path.cmp(&b.path));
    state.failure.map_or(Ok(state.walked), Err)
}

impl<'a> Worker<'a> {
    fn new(walk: &'a Walk<'a>) -> Self {
        Self {
            walk,
            ready: Vec::new(),
            full: 0,
            buffer: None,
            kept: Vec::new(),
            step: Vec::new(),
        }
    }

    fn work(&mut self) {
        let mut state = self.walk.state.lock();
        loop {
            if state.failure.is_some() {
                return;
            }
            let job = state.jobs.pop();
            if job.is_none() && self.waiting() == 0 {
                if state.busy == 0 {
                    return;
                }
                self.walk.changed.wait(&mut state);
                continue;
            }
            state.busy += 1;
            drop(state);
            let outcome = match job {
                Some(Job::Folder {
                    path,
                    depth,
                    parent,
                }) => self.list(path, depth, parent),
                Some(Job::Files {
                    folder,
                    open,
                    names,
                }) => self.read(&folder, &open, names),
                None => self.hand_over(),
            };
            // Folders without files hand nothing over themselves.
            let outcome = outcome.and_then(|()| match self.waiting() >= GROUP {
                true => self.hand_over(),
                false => Ok(()),
            });
            state = self.walk.state.lock();
            state.busy -= 1;
            if let Err(error) = outcome {
                state.failure.get_or_insert(error);
            }
            if state.busy == 0 || state.failure.is_some() {
                self.walk.changed.notify_all();
            }
        }
    }

    /// Reads a folder's list.
    fn list(
        &mut self,
        path: PathBuf,
        depth: usize,
        parent: Option<(Arc<Folder>, Bytes)>,
    ) -> Result<()> {
        let failed = |error| CasError::io("the folder can't be read", &path, error);
        // The root may be a link; what a link below it points to is not in the tree.
        let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        flags.set(OFlags::NOFOLLOW, parent.is_some());
        let open = rustix::fs::openat(CWD, &path, flags, Mode::empty())
            .map_err(|error| failed(error.into()))?;
        let open = File::from(open);
        let mode = open.metadata().map_err(failed)?.mode() & 0o7777;
        let List {
            files,
            folders,
            links,
            left_out,
        } = list(&open, &path, self.walk.options.max_entries)?;
        let entries = files.len() + folders.len() + links.len() + left_out.len();
        if entries > 0 && depth > self.walk.options.max_depth {
            let error = too_much("levels", self.walk.options.max_depth as u64);
            return Err(error.with_path(&path));
        }

        let symlinks = links.len() as u64;
        let folder = Folder::new(path, mode, parent);
        folder.expect(folders.len() + files.len().div_ceil(FILES));
        let open = Arc::new(open);
        let inner = folders.into_iter().map(|name| Job::Folder {
            path: path_of(&folder, &name),
            depth: depth + 1,
            parent: Some((Arc::clone(&folder), name)),
        });
        let mut files = files.into_iter().peekable();
        let reads = std::iter::from_fn(|| {
            files.peek()?;
            Some(Job::Files {
                folder: Arc::clone(&folder),
                open: Arc::clone(&open),
                names: files.by_ref().take(FILES).collect(),
            })
        });
        {
            let mut state = self.walk.state.lock();
            state.entries += entries as u64;
            if state.entries > self.walk.options.max_entries {
                return Err(too_much("entries", self.walk.options.max_entries));
            }
            let before = state.jobs.len();
            // The files last, to be read while the folder is open anyway.
            state.jobs.extend(inner);
            state.jobs.extend(reads);
            if state.jobs.len() > before + 1 {
                self.walk.changed.notify_all();
            }
            state.walked.symlinks += symlinks;
            state.walked.left_out.extend(left_out);
            // The root doesn't count.
            state.walked.folders += u64::from(depth > 1);
        }
        self.add(&folder, links)
    }

    /// Reads files of a folder.
    fn read(&mut self, folder: &Arc<Folder>, open: &File, names: Vec<Bytes>) -> Result<()> {
        let mut entries = Vec::with_capacity(names.len());
        let mut bytes = 0;
        for name in names {
            let path = || path_of(folder, &name);
            let file = content::open(open, &name, &path)?;
            let (mode, size) = (file.mode(), file.size());
            let small = size <= self.walk.options.transfer.small_bytes && size < BUFFER as u64;
            let buffer = match small {
                true => self.buffer(size)?,
                false => None,
            };
            let digest = if let Some(buffer) = buffer {
                let digest = file.keep(buffer, &path)?;
                let end = buffer.len();
                self.kept.push((digest, end));
                digest
            } else {
                let digest = file.hash(&mut self.step, &path)?;
                let source = Source::File(path());
                self.ready.push(Upload { digest, source });
                digest
            };
            bytes += digest.size();
            if self.waiting() >= GROUP || self.full >= GROUP_BUFFERS {
                self.hand_over()?;
            }
            let node = Node::File { digest, mode };
            entries.push(Entry { name, node });
        }
        {
            let walked = &mut self.walk.state.lock().walked;
            walked.files += entries.len() as u64;
            walked.file_bytes += bytes;
        }
        self.add(folder, entries)
    }

    fn add(&mut self, folder: &Arc<Folder>, entries: Vec<Entry>) -> Result<()> {
        if let Some(root) = folder.add(entries, &mut self.ready)? {
            self.walk.state.lock().walked.digest = root;
        }
        Ok(())
    }

    /// Blobs that could be handed over.
    fn waiting(&self) -> usize {
        self.ready.len() + self.kept.len()
    }

    /// A buffer with room for a file of this size, if the store gives them back.
    fn buffer(&mut self, size: u64) -> Result<Option<&mut Buffer>> {
        let buffer = match self.buffer.take() {
            Some(buffer) if buffer.has_room(size) => buffer,
            full => {
                self.finish(full);
                match self.walk.buffers.try_take() {
                    Some(buffer) => buffer,
                    None => {
                        // What this thread holds back is a part of what is waited for.
                        self.hand_over()?;
                        match self.walk.buffers.take() {
                            Some(buffer) => buffer,
                            None => return Ok(None),
                        }
                    }
                }
            }
        };
        Ok(Some(self.buffer.insert(buffer)))
    }

    /// Makes ready what is kept in this buffer.
    fn finish(&mut self, buffer: Option<Buffer>) {
        let Some(buffer) = buffer else { return };
        let content = Bytes::from_owner(buffer);
        let mut from = 0;
        self.ready.extend(self.kept.drain(..).map(|(digest, end)| {
            let source = Source::Bytes(content.slice(from..end));
            from = end;
            Upload { digest, source }
        }));
        self.full += 1;
    }

    /// Gives to the upload what is ready.
    fn hand_over(&mut self) -> Result<()> {
        let buffer = self.buffer.take();
        self.finish(buffer);
        self.full = 0;
        let ready = std::mem::take(&mut self.ready);
        // The upload ended with an error, which is the one that counts.
        let ended = |_| CasError::new(ErrorKind::Internal, "the upload ended early");
        self.walk.uploads.blocking_send(ready).map_err(ended)
    }
}

fn path_of(folder: &Folder, name: &[u8]) -> PathBuf {
    folder.path.join(std::ffi::OsStr::from_bytes(name))
}

fn list(open: &File, path: &Path, max_entries: u64) -> Result<List> {
    let failed = |error| CasError::io("the folder can't be read", path, error);
    let mut list = List::default();
    let mut entries = 0;
    // A descriptor of its own, which the reading owns.
    let again = open.try_clone().map_err(failed)?;
    for entry in Dir::new(again).map_err(|error| failed(error.into()))? {
        let entry = entry.map_err(|error| failed(error.into()))?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if entries == max_entries {
            return Err(too_much("entries", max_entries).with_path(path));
        }
        entries += 1;
        let at = || path.join(std::ffi::OsStr::from_bytes(name));
        let mut kind = entry.file_type();
        if kind == FileType::Unknown {
            // Not all file systems tell.
            let stat = rustix::fs::statat(open, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| CasError::io("the entry can't be read", &at(), error.into()))?;
            kind = FileType::from_raw_mode(stat.st_mode);
        }
        let name = Bytes::copy_from_slice(name);
        let what = match kind {
            FileType::RegularFile => {
                list.files.push(name);
                continue;
            }
            FileType::Directory => {
                list.folders.push(name);
                continue;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(open, &name[..], Vec::new())
                    .map_err(|error| CasError::io("the link can't be read", &at(), error.into()))?;
                let target = target.into_bytes().into();
                let node = Node::Symlink { target };
                list.links.push(Entry { name, node });
                continue;
            }
            FileType::Socket => "socket",
            FileType::Fifo => "fifo",
            _ => "device",
        };
        list.left_out.push(LeftOut { path: at(), what });
    }
    Ok(list)
}
