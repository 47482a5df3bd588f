//! Which folder the demo takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::disk;
use crate::failure::Failure;

/// What a folder has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Contents {
    pub(super) files: u64,
    pub(super) folders: u64,
    pub(super) bytes: u64,
}

/// About a minute's work.
const MAX_BYTES: u64 = 1 << 30;
const MAX_FILES: u64 = 80_000;
/// Less is nothing to show.
const MIN_FILES: u64 = 20;

/// A real folder of this machine that is neither too small nor too large: of the
/// Rust toolchain, else the current one; else one that is made up under `scratch`.
///
/// # Errors
/// The made-up folder can't be written.
pub(super) fn choose(scratch: &Path) -> Result<(PathBuf, Contents), Failure> {
    // The store and the restored copy lie beside one another.
    let room = disk::of(scratch).map_or(u64::MAX, |disk| disk.free / 3);
    let limit = Contents {
        files: MAX_FILES,
        folders: MAX_FILES,
        bytes: MAX_BYTES.min(room),
    };
    for candidate in candidates() {
        if let Some(contents) = contents(&candidate, &limit)
            && contents.files >= MIN_FILES
        {
            return Ok((candidate, contents));
        }
    }
    let made = scratch.join("made-up");
    make_up(&made).map_err(|error| Failure::io("making up a folder at", &made, &error))?;
    let contents = contents(&made, &limit).unwrap_or_default();
    Ok((made, contents))
}

/// Counts what a folder has; `None` if it is more than `limit` or unreadable.
pub(super) fn contents(folder: &Path, limit: &Contents) -> Option<Contents> {
    let mut found = Contents::default();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).ok()? {
            let entry = entry.ok()?;
            let meta = entry.metadata().ok()?;
            if meta.is_dir() {
                found.folders += 1;
                folders.push(entry.path());
            } else if meta.is_file() {
                found.files += 1;
                found.bytes += meta.len();
            }
            if found.files > limit.files
                || found.folders > limit.folders
                || found.bytes > limit.bytes
            {
                return None;
            }
        }
    }
    Some(found)
}

impl Contents {
    /// No limit.
    pub(super) const ANY: Self = Self {
        files: u64::MAX,
        folders: u64::MAX,
        bytes: u64::MAX,
    };
}

fn candidates() -> Vec<PathBuf> {
    let mut candidates = Vec::new();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    if let Ok(output) = Command::new(rustc).args(["--print", "sysroot"]).output()
        && output.status.success()
    {
        let text = String::from_utf8_lossy(&output.stdout);
        let root = Path::new(text.trim_end());
        for part in ["", "share", "share/doc/rust/html/std", "lib/rustlib"] {
            candidates.push(root.join(part));
        }
    }
    candidates.push(PathBuf::from("."));
    candidates
}

/// Two thousand files of many sizes, a third of them equal to others.
fn make_up(folder: &Path) -> std::io::Result<()> {
    for at in 0..2000u64 {
        let seed = if at % 3 == 0 { at / 30 } else { at };
        let mut hasher = zako_digest::hash::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        let block = *hasher.finish().hash().as_bytes();
        let length = (seed * seed * 37) % 200_000 + 1;
        let bytes: Vec<u8> = block
            .iter()
            .copied()
            .cycle()
            .take(length as usize)
            .collect();
        let folder = folder.join((at % 40).to_string());
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(at.to_string()), bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_up_folder_is_worth_showing() {
        let dir = tempfile::tempdir().unwrap();
        make_up(dir.path()).unwrap();
        let found = contents(dir.path(), &Contents::ANY).unwrap();
        assert_eq!((found.files, found.folders), (2000, 40));
        assert!(found.bytes > 10 << 20);
        let small = Contents {
            files: 1999,
            ..Contents::ANY
        };
        assert!(contents(dir.path(), &small).is_none());
    }
}
