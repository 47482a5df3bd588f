//! Bringing a stored folder back.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::TreeOptions;
use super::fetch::{Plan, plan};
use crate::Digest;
use crate::cas::{Cas, CasError, ErrorKind, Result};
use crate::transfer::{Progress, download};

/// A restored folder.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// Regular files written.
    pub files: u64,
    /// The sum of their sizes, in bytes.
    pub file_bytes: u64,
    /// Folders made, the root not counted.
    pub folders: u64,
    /// Symbolic links made.
    pub symlinks: u64,
    /// Bytes of files fetched: each content once.
    pub fetched_bytes: u64,
}

/// Restores the tree `digest` to `target`, which must be absent or an empty folder.
///
/// Nothing is written outside of `target`, whatever the tree says: names are
/// checked, and links are made after all else. Folders get their modes last, so
/// read-only ones are no hindrance. All is built in a folder `.zako-….part`, beside
/// an absent target or in an empty one, and moved when it is whole; after an error
/// nothing of it is left, and nothing half when the future is dropped. What others
/// put into the target meanwhile stays as it is.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] if `target` has something in it, also when it got
/// there before the restore was done; if a directory is not
/// canonical, or a limit of the options is reached; [`ErrorKind::NotFound`] if the
/// store lacks a part; those of [`download`] and of the file system.
pub async fn restore_tree(
    cas: &Arc<dyn Cas>,
    digest: Digest,
    target: &Path,
    options: &TreeOptions,
    progress: &dyn Progress,
) -> Result<RestoreReport> {
    let site = Site::choose(target)?;
    let Plan {
        folders,
        files,
        symlinks,
        bytes,
    } = plan(&**cas, digest, &site.root, options).await?;
    let mut report = RestoreReport {
        files: files.len() as u64,
        file_bytes: bytes,
        folders: folders.len() as u64,
        symlinks: symlinks.len() as u64,
        fetched_bytes: 0,
    };

    let mut site = site;
    site.folders = folders;
    let site = blocking(move || {
        site.begin()?;
        Ok(site)
    })
    .await?;
    // An error drops the site, and with it what is there.
    let fetched = download(cas, files, &options.transfer, progress).await?;
    report.fetched_bytes = fetched.bytes;
    blocking(move || site.finish(&symlinks)).await?;
    Ok(report)
}

/// How often, and how long apart, a folder is cleared that someone still writes to.
const CLEAR_TRIES: u32 = 10;
const CLEAR_PAUSE: Duration = Duration::from_millis(5);

/// Where a tree is built: beside an absent target, or in an empty folder. Cleared
/// when it is dropped before it is finished.
struct Site {
    /// The folder `.zako-….part`.
    root: PathBuf,
    target: PathBuf,
    /// Whether the target is a folder, which has `root` in it.
    inside: bool,
    folders: Vec<(PathBuf, u32)>,
    begun: bool,
}

impl Site {
    fn choose(target: &Path) -> Result<Self> {
        let failed = |error| CasError::io("the target can't be used", target, error);
        let (parent, inside) = match std::fs::read_dir(target) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(not_empty(target));
                }
                (target, true)
            }
            // Nothing at all, not even a link that leads nowhere.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if std::fs::symlink_metadata(target).is_ok() {
                    return Err(failed(error));
                }
                match target.parent() {
                    Some(parent) => (parent, false),
                    None => return Err(failed(error)),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                let error = CasError::new(ErrorKind::InvalidArgument, "the target is not a folder");
                return Err(error.with_path(target));
            }
            Err(error) => return Err(failed(error)),
        };
        Ok(Self {
            root: parent.join(format!(".zako-{:016x}.part", rand::random::<u64>())),
            target: target.to_owned(),
            inside,
            folders: Vec::new(),
            begun: false,
        })
    }

    /// Makes all folders, closed to others until they have their modes.
    fn begin(&mut self) -> Result<()> {
        std::fs::create_dir(&self.root)
            .map_err(|error| cannot_make("folder", &self.target, error))?;
        self.begun = true;
        // Another restore may have found it empty too.
        self.check_alone()?;
        for (path, _) in &self.folders {
            DirBuilder::new()
                .mode(0o700)
                .create(path)
                .map_err(|error| cannot_make("folder", path, error))?;
        }
        Ok(())
    }

    fn finish(mut self, symlinks: &[(PathBuf, Bytes)]) -> Result<()> {
        for (path, target) in symlinks {
            std::os::unix::fs::symlink(OsStr::from_bytes(target), path)
                .map_err(|error| cannot_make("link", path, error))?;
        }
        let mut moved = Vec::new();
        let outcome = self.place(&mut moved);
        match outcome {
            Ok(()) => self.begun = false,
            Err(_) => self.take_back(&moved),
        }
        outcome
    }

    fn place(&mut self, moved: &mut Vec<OsString>) -> Result<()> {
        if self.inside {
            self.check_alone()?;
            // With their modes still to come: a closed folder can't be moved.
            self.move_up(moved)?;
        }
        // The deepest first: a closed folder keeps one from those below it.
        for (path, mode) in self.folders.iter().rev() {
            std::fs::set_permissions(path, Permissions::from_mode(*mode))
                .map_err(|error| cannot_make("folder's mode", path, error))?;
        }
        if self.inside {
            std::fs::remove_dir(&self.root)
        } else {
            std::fs::rename(&self.root, &self.target)
        }
        .map_err(|error| cannot_make("target", &self.target, error))
    }

    /// # Errors
    /// Something else is in the target.
    fn check_alone(&self) -> Result<()> {
        if !self.inside {
            return Ok(());
        }
        let failed = |error| CasError::io("the target can't be read", &self.target, error);
        for entry in std::fs::read_dir(&self.target).map_err(failed)? {
            if entry.map_err(failed)?.path() != self.root {
                return Err(not_empty(&self.target));
            }
        }
        Ok(())
    }

    /// Moves what was built into the target.
    fn move_up(&mut self, moved: &mut Vec<OsString>) -> Result<()> {
        let failed = |error| cannot_make("target", &self.target, error);
        for entry in std::fs::read_dir(&self.root).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let to = self.target.join(&name);
            if std::fs::symlink_metadata(&to).is_ok() {
                return Err(not_empty(&self.target));
            }
            std::fs::rename(self.root.join(&name), to).map_err(failed)?;
            moved.push(name);
        }
        for (path, _) in &mut self.folders {
            if let Ok(below) = path.strip_prefix(&self.root) {
                *path = self.target.join(below);
            }
        }
        Ok(())
    }

    /// Moves what is in the target back to where it is cleared.
    fn take_back(&self, moved: &[OsString]) {
        if !moved.is_empty() {
            self.open_folders();
        }
        for name in moved {
            let from = self.target.join(name);
            if let Err(error) = std::fs::rename(&from, self.root.join(name)) {
                tracing::warn!(%error, path = %from.display(), "a broken restore is left");
            }
        }
    }

    /// So that they can be moved and cleared; some may be closed already. What
    /// can't be opened stays.
    fn open_folders(&self) {
        for (path, _) in &self.folders {
            let _ = std::fs::set_permissions(path, Permissions::from_mode(0o700));
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if !self.begun {
            return;
        }
        self.open_folders();
        let clear_all = || std::fs::remove_dir_all(&self.root);
        let mut cleared = clear_all();
        for _ in 0..CLEAR_TRIES {
            match &cleared {
                // A dropped download may just be finishing a last file.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    std::thread::sleep(CLEAR_PAUSE);
                    cleared = clear_all();
                }
                _ => break,
            }
        }
        if let Err(error) = cleared {
            tracing::warn!(%error, path = %self.root.display(), "a broken restore is left");
        }
    }
}

fn not_empty(target: &Path) -> CasError {
    CasError::new(ErrorKind::InvalidArgument, "the target folder isn't empty").with_path(target)
}

fn cannot_make(what: &str, path: &Path, error: io::Error) -> CasError {
    CasError::io(format!("the {what} can't be made"), path, error)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(CasError::new(ErrorKind::Internal, "the restore ended early").with_source(error))
        })
}
