//! The files under the paths that a user names.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ignore::{WalkBuilder, WalkState};

use crate::failure::{Exit, Failure};

/// What a walk found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Files, sorted by path within each path that was named.
    pub(crate) files: Vec<PathBuf>,
    /// What could not be read.
    pub(crate) failures: Vec<Failure>,
    /// Entries under a folder that are neither file nor folder: symbolic links,
    /// sockets, devices.
    pub(crate) skipped: u64,
}

/// Lists `roots`: a file is itself, a folder all files under it, hidden ones too.
/// Folders are walked by several threads. A link is followed when it is named, not
/// when it is found under a folder.
pub(crate) fn walk(roots: &[PathBuf]) -> Found {
    let mut found = Found::default();
    for root in roots {
        match std::fs::metadata(root) {
            Err(error) => found.failures.push(Failure::io("reading", root, &error)),
            Ok(meta) if meta.is_dir() => folder(root, &mut found),
            // A named pipe or a device can be hashed; who reads twice must refuse it.
            Ok(_) => found.files.push(root.clone()),
        }
    }
    found
}

fn folder(root: &Path, found: &mut Found) {
    let all = Mutex::new(Found::default());
    WalkBuilder::new(root)
        .standard_filters(false)
        .follow_links(false)
        .threads(
            std::thread::available_parallelism()
                .map_or(2, usize::from)
                .min(8),
        )
        .build_parallel()
        .run(|| {
            let mut mine = Batch {
                found: Found::default(),
                all: &all,
            };
            Box::new(move |entry| {
                match entry {
                    Ok(entry) => match entry.file_type() {
                        Some(kind) if kind.is_file() => mine.found.files.push(entry.into_path()),
                        Some(kind) if kind.is_dir() => {}
                        _ if entry.depth() == 0 => {}
                        _ => mine.found.skipped += 1,
                    },
                    Err(error) => mine.found.failures.push(walk_failure(&error)),
                }
                WalkState::Continue
            })
        });
    let mut all = all
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    all.files.sort_unstable();
    found.files.append(&mut all.files);
    found.failures.append(&mut all.failures);
    found.skipped += all.skipped;
}

/// What one thread found; handed over when the thread is done.
struct Batch<'a> {
    found: Found,
    all: &'a Mutex<Found>,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let mut all = self
            .all
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        all.files.append(&mut self.found.files);
        all.failures.append(&mut self.found.failures);
        all.skipped += self.found.skipped;
    }
}

fn walk_failure(error: &ignore::Error) -> Failure {
    let exit = error.io_error().map_or(Exit::Failed, Exit::of_io);
    // The error's text has the path.
    Failure::new(exit, format!("reading {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_give_all_their_files_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("b/.hidden/empty")).unwrap();
        for name in ["z", "b/2", "b/.hidden/1", ".gitignore"] {
            std::fs::write(root.join(name), "*").unwrap();
        }
        std::os::unix::fs::symlink("z", root.join("link")).unwrap();
        let found = walk(&[root.to_owned()]);
        assert!(found.failures.is_empty());
        assert_eq!(found.skipped, 1);
        let names: Vec<_> = found
            .files
            .iter()
            .map(|path| path.strip_prefix(root).unwrap().to_str().unwrap())
            .collect();
        assert_eq!(names, [".gitignore", "b/.hidden/1", "b/2", "z"]);

        let found = walk(&[root.join("link"), root.join("absent")]);
        assert_eq!(found.files, [root.join("link")]);
        assert_eq!(found.failures[0].exit(), Exit::Missing);
    }
}
