//! Reading a folder and all below it.

use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::{LeftOut, TreeOptions, too_much};
use crate::cas::{CasError, ErrorKind, Result};

/// A folder and all below it. A folder's number is higher than its parent's; the
/// root's is 0.
#[derive(Default)]
pub(super) struct Walked {
    pub(super) folders: Vec<Vec<Found>>,
    pub(super) left_out: Vec<LeftOut>,
    pub(super) entries: u64,
}

/// A name in a folder.
pub(super) struct Found {
    pub(super) name: OsString,
    pub(super) kind: Kind,
}

/// What has the name.
pub(super) enum Kind {
    File { path: PathBuf, mode: u32 },
    Folder { number: usize, mode: u32 },
    Symlink { target: Bytes },
}

/// Reads `root` on several threads. Blocks.
pub(super) fn walk(root: &Path, options: &TreeOptions) -> Result<Walked> {
    let failed = |error| CasError::io("the folder can't be read", root, error);
    if !std::fs::metadata(root).map_err(failed)?.is_dir() {
        let error = CasError::new(ErrorKind::InvalidArgument, "not a folder");
        return Err(error.with_path(root));
    }
    let walk = Walk {
        options,
        state: Mutex::new(State {
            open: vec![Open {
                path: root.to_owned(),
                number: 0,
                depth: 1,
            }],
            busy: 0,
            walked: Walked {
                folders: vec![Vec::new()],
                ..Walked::default()
            },
            failure: None,
        }),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for _ in 1..options.threads.max(1) {
            scope.spawn(|| walk.work());
        }
        walk.work();
    });
    let mut state = walk.state.into_inner();
    state.walked.left_out.sort_by(|a, b| a.path.cmp(&b.path));
    state.failure.map_or(Ok(state.walked), Err)
}

struct Walk<'a> {
    options: &'a TreeOptions,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Not read yet.
    open: Vec<Open>,
    /// Threads that may still open more.
    busy: usize,
    walked: Walked,
    failure: Option<CasError>,
}

struct Open {
    path: PathBuf,
    number: usize,
    depth: usize,
}

/// An entry before it has its place.
enum Read {
    Found(Found),
    Folder { name: OsString, mode: u32 },
    Other(LeftOut),
}

impl Walk<'_> {
    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            if state.failure.is_some() {
                return;
            }
            let Some(open) = state.open.pop() else {
                if state.busy == 0 {
                    return;
                }
                self.changed.wait(&mut state);
                continue;
            };
            state.busy += 1;
            drop(state);
            let read = read_folder(&open.path, self.options.max_entries);
            state = self.state.lock();
            state.busy -= 1;
            let added = read.and_then(|entries| state.add(&open, entries, self.options));
            if let Err(error) = added {
                state.failure.get_or_insert(error);
            }
            self.changed.notify_all();
        }
    }
}

impl State {
    fn add(&mut self, parent: &Open, entries: Vec<Read>, options: &TreeOptions) -> Result<()> {
        let walked = &mut self.walked;
        walked.entries += entries.len() as u64;
        if walked.entries > options.max_entries {
            return Err(too_much("entries", options.max_entries));
        }
        if !entries.is_empty() && parent.depth > options.max_depth {
            let error = too_much("levels", options.max_depth as u64);
            return Err(error.with_path(&parent.path));
        }
        let mut founds = Vec::with_capacity(entries.len());
        for entry in entries {
            match entry {
                Read::Found(found) => founds.push(found),
                Read::Other(left_out) => walked.left_out.push(left_out),
                Read::Folder { name, mode } => {
                    let number = walked.folders.len();
                    walked.folders.push(Vec::new());
                    self.open.push(Open {
                        path: parent.path.join(&name),
                        number,
                        depth: parent.depth + 1,
                    });
                    let kind = Kind::Folder { number, mode };
                    founds.push(Found { name, kind });
                }
            }
        }
        walked.folders[parent.number] = founds;
        Ok(())
    }
}

fn read_folder(folder: &Path, max_entries: u64) -> Result<Vec<Read>> {
    let failed = |error| CasError::io("the folder can't be read", folder, error);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entries.len() as u64 == max_entries {
            return Err(too_much("entries", max_entries).with_path(folder));
        }
        let name = entry.file_name();
        let path = folder.join(&name);
        let metadata = entry
            .metadata()
            .map_err(|error| CasError::io("the entry can't be read", &path, error))?;
        entries.push(read_entry(name, path, &metadata)?);
    }
    Ok(entries)
}

fn read_entry(name: OsString, path: PathBuf, metadata: &Metadata) -> Result<Read> {
    let mode = metadata.mode() & 0o7777;
    let kind = metadata.file_type();
    let what = if kind.is_file() {
        let kind = Kind::File { path, mode };
        return Ok(Read::Found(Found { name, kind }));
    } else if kind.is_dir() {
        return Ok(Read::Folder { name, mode });
    } else if kind.is_symlink() {
        let target = std::fs::read_link(&path)
            .map_err(|error| CasError::io("the link can't be read", &path, error))?;
        let target = target.into_os_string().into_vec().into();
        let kind = Kind::Symlink { target };
        return Ok(Read::Found(Found { name, kind }));
    } else if kind.is_socket() {
        "socket"
    } else if kind.is_fifo() {
        "fifo"
    } else {
        "device"
    };
    Ok(Read::Other(LeftOut { path, what }))
}
