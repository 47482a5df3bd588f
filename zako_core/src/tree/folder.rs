//! A folder whose entries come to be known one after the other.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Directory, Entry, MAX_DIRECTORY, Node};
use crate::Digest;
use crate::cas::{CasError, ErrorKind, Result};
use crate::transfer::{Source, Upload};

/// A folder that is being read.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    mode: u32,
    /// The folder that it is in, and its name there.
    parent: Option<(Arc<Folder>, Bytes)>,
    open: Mutex<Open>,
}

struct Open {
    entries: Vec<Entry>,
    /// Parts that [`Folder::add`] waits for.
    parts: usize,
}

impl Folder {
    /// A folder of one part: the list of its entries.
    pub(super) fn new(path: PathBuf, mode: u32, parent: Option<(Arc<Self>, Bytes)>) -> Arc<Self> {
        let open = Open {
            entries: Vec::new(),
            parts: 1,
        };
        Arc::new(Self {
            path,
            mode,
            parent,
            open: Mutex::new(open),
        })
    }

    /// So many more parts will be added.
    pub(super) fn expect(&self, parts: usize) {
        self.open.lock().parts += parts;
    }

    /// Adds a part. The last one gives the folder's directory, which is a part of its
    /// parent, and so on: all that end by this go to `ended`. The digest of the root
    /// if it is among them.
    pub(super) fn add(
        self: &Arc<Self>,
        mut part: Vec<Entry>,
        ended: &mut Vec<Upload>,
    ) -> Result<Option<Digest>> {
        let mut folder = Arc::clone(self);
        loop {
            let entries = {
                let mut open = folder.open.lock();
                open.entries.append(&mut part);
                open.parts -= 1;
                if open.parts > 0 {
                    return Ok(None);
                }
                std::mem::take(&mut open.entries)
            };
            let directory = Directory::new(entries);
            let blob = directory
                .map_err(|error| error.with_path(&folder.path))?
                .encode();
            if blob.len() as u64 > MAX_DIRECTORY {
                let text = "a folder has more entries than a directory can list";
                let error = CasError::new(ErrorKind::InvalidArgument, text);
                return Err(error.with_path(&folder.path));
            }
            let digest = zako_digest::hash::bytes(&blob);
            let source = Source::Bytes(blob);
            ended.push(Upload { digest, source });
            let Some((parent, name)) = &folder.parent else {
                return Ok(Some(digest));
            };
            let mode = folder.mode;
            part = vec![Entry {
                name: name.clone(),
                node: Node::Folder { digest, mode },
            }];
            folder = Arc::clone(parent);
        }
    }
}
