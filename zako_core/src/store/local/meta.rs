//! The file that makes a folder a store: what it is, and which version of it.

use std::io::IoSlice;
use std::path::Path;

use super::io::{Access, Backend, read_exact_at, write_all_at};
use super::record::{FORMAT_VERSION, u32_at};
use crate::cas::{CasError, ErrorKind, Result};
use crate::store::format::STORE;

/// The name of the file in the store's folder.
pub(super) const FILE_NAME: &str = "zako.store";

const MAGIC: [u8; 8] = *b"ZAKOSTOR";
const LEN: usize = 64;

/// Checks that this folder is a store that this version can open, or makes it one
/// if it is empty.
pub(super) fn open_or_create(backend: &dyn Backend, root: &Path) -> Result<()> {
    let path = root.join(FILE_NAME);
    let wrap = |error| CasError::io("reading the store's format", &path, error);
    let file = match backend.open(&path, Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return create(backend, root, &path);
        }
        Err(error) => return Err(wrap(error)),
    };
    let mut bytes = [0; LEN];
    match read_exact_at(&*file, &mut bytes, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(format_error("the file is too short to be a store's", &path));
        }
        Err(error) => return Err(wrap(error)),
    }
    if bytes[..8] != MAGIC {
        return Err(format_error("the file is not a store's", &path));
    }
    let version = u32_at(&bytes, 8);
    // The checksum is a version's own affair; the version number never moves.
    if !STORE.knows(version) {
        return Err(STORE.refuse(version).with_path(&path));
    }
    if u32_at(&bytes, 60) != crc32fast::hash(&bytes[..60]) {
        return Err(format_error("the store's format file is damaged", &path));
    }
    Ok(())
}

fn create(backend: &dyn Backend, root: &Path, path: &Path) -> Result<()> {
    let wrap = |error| CasError::io("making a store", root, error);
    // What a crash in the middle of this leaves, and what file systems put at
    // their roots.
    let expected = ["lock", "zako.store.new", "lost+found"];
    let strange = backend
        .list(root)
        .map_err(wrap)?
        .into_iter()
        .find(|entry| !expected.contains(&&*entry.name));
    if let Some(strange) = strange {
        return Err(CasError::new(
            ErrorKind::Format,
            format!(
                "the folder is no store and not empty (it has {:?}); give an empty or a new one",
                strange.name
            ),
        )
        .with_path(root));
    }
    let mut bytes = [0; LEN];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());

    let new = root.join("zako.store.new");
    let _ = backend.remove(&new);
    let file = backend.create(&new).map_err(wrap)?;
    write_all_at(&*file, &mut [IoSlice::new(&bytes)], 0).map_err(wrap)?;
    file.sync_data().map_err(wrap)?;
    backend.rename(&new, path).map_err(wrap)?;
    backend.sync_dir(root).map_err(wrap)
}

fn format_error(text: &str, path: &Path) -> CasError {
    CasError::new(ErrorKind::Format, text).with_path(path)
}
