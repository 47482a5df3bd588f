//! Bringing a stored folder back.

use std::ffi::OsStr;
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
/// read-only ones are no hindrance. An absent target appears when it is whole; after
/// an error nothing of it is left, and nothing half when the future is dropped.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] if `target` has something in it, a directory is not
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
    root: PathBuf,
    target: PathBuf,
    folders: Vec<(PathBuf, u32)>,
    begun: bool,
}

impl Site {
    fn choose(target: &Path) -> Result<Self> {
        let failed = |error| CasError::io("the target can't be used", target, error);
        let root = match std::fs::read_dir(target) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    let error =
                        CasError::new(ErrorKind::InvalidArgument, "the target folder isn't empty");
                    return Err(error.with_path(target));
                }
                target.to_owned()
            }
            // Nothing at all, not even a link that leads nowhere.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if std::fs::symlink_metadata(target).is_ok() {
                    return Err(failed(error));
                }
                let name = format!(".zako-{:016x}.part", rand::random::<u64>());
                match target.parent() {
                    Some(parent) => parent.join(name),
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
            root,
            target: target.to_owned(),
            folders: Vec::new(),
            begun: false,
        })
    }

    fn is_beside(&self) -> bool {
        self.root != self.target
    }

    /// Makes all folders, closed to others until they have their modes.
    fn begin(&mut self) -> Result<()> {
        if self.is_beside() {
            std::fs::create_dir(&self.root)
                .map_err(|error| cannot_make("folder", &self.target, error))?;
        }
        self.begun = true;
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
        // The deepest first: a closed folder keeps one from those below it.
        for (path, mode) in self.folders.iter().rev() {
            std::fs::set_permissions(path, Permissions::from_mode(*mode))
                .map_err(|error| cannot_make("folder's mode", path, error))?;
        }
        if self.is_beside() {
            std::fs::rename(&self.root, &self.target)
                .map_err(|error| cannot_make("target", &self.target, error))?;
        }
        self.begun = false;
        Ok(())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if !self.begun {
            return;
        }
        for (path, _) in &self.folders {
            // Some may be closed already; what can't be opened stays.
            let _ = std::fs::set_permissions(path, Permissions::from_mode(0o700));
        }
        let clear_all = || match self.is_beside() {
            true => std::fs::remove_dir_all(&self.root),
            false => clear(&self.root),
        };
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

fn clear(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
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
