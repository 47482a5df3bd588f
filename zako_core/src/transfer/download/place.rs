//! Writing files beside their targets, and moving them there.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::NamedTempFile;
use zako_digest::hash::Hasher;

use super::{Target, Want};
use crate::Digest;
use crate::cas::{CasError, ErrorKind, Result};

/// A file that is being written. Removed when it is dropped.
pub(super) struct Draft {
    file: NamedTempFile,
    hasher: Hasher,
}

impl Draft {
    pub(super) fn begin(target: &Target) -> Result<Self> {
        Ok(Self {
            file: temporary(target)?,
            hasher: Hasher::new(),
        })
    }

    pub(super) fn write(&mut self, data: &[u8]) -> Result<()> {
        self.hasher.update(data);
        self.file
            .write_all(data)
            .map_err(|error| cannot_write(self.file.path(), error))
    }

    /// Checks the digest and moves the file to its target, copies to the others.
    pub(super) fn place(self, want: &Want) -> Result<()> {
        check(want.digest, self.hasher.finish())?;
        let Some((first, others)) = want.targets.split_first() else {
            return Ok(());
        };
        for target in others {
            let mut copy = temporary(target)?;
            let mut original = self
                .file
                .reopen()
                .map_err(|error| cannot_write(self.file.path(), error))?;
            // On Linux the kernel copies, or shares the blocks.
            std::io::copy(&mut original, copy.as_file_mut())
                .map_err(|error| cannot_write(&target.path, error))?;
            settle(copy, target)?;
        }
        settle(self.file, first)
    }
}

/// Writes a blob that is in memory to all its targets.
pub(super) fn place_whole(want: &Want, data: &[u8]) -> Result<()> {
    check(want.digest, zako_digest::hash::bytes(data))?;
    for target in &want.targets {
        let mut file = temporary(target)?;
        file.write_all(data)
            .map_err(|error| cannot_write(&target.path, error))?;
        settle(file, target)?;
    }
    Ok(())
}

fn check(expected: Digest, actual: Digest) -> Result<()> {
    if expected == actual {
        return Ok(());
    }
    let text = format!("the store gave the bytes of {actual}");
    Err(CasError::new(ErrorKind::Corrupt, text).with_digest(expected))
}

fn temporary(target: &Target) -> Result<NamedTempFile> {
    let folder = match target.path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    // With a mode, nobody else reads it before it has its own.
    let mode = if target.mode.is_some() { 0o600 } else { 0o666 };
    tempfile::Builder::new()
        .prefix(".zako-")
        .suffix(".part")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder)
        .map_err(|error| cannot_write(&target.path, error))
}

fn settle(file: NamedTempFile, target: &Target) -> Result<()> {
    if let Some(mode) = target.mode {
        file.as_file()
            .set_permissions(Permissions::from_mode(mode))
            .map_err(|error| cannot_write(&target.path, error))?;
    }
    file.persist(&target.path)
        .map_err(|error| cannot_write(&target.path, error.error))?;
    Ok(())
}

fn cannot_write(path: &Path, error: std::io::Error) -> CasError {
    CasError::io("the file can't be written", path, error)
}
