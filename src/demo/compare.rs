//! Whether two folders are the same, byte by byte.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Read at once from each of two files.
const STEP: usize = 256 * 1024;

/// Compares everything under two folders: names, kinds, permissions of files,
/// targets of links, and content. Gives the first path that differs, and how.
///
/// # Errors
/// Something can't be read.
pub(super) fn differing(left: &Path, right: &Path) -> io::Result<Option<String>> {
    let mut files = Vec::new();
    if let Some(difference) = shape(left, right, &mut files)? {
        return Ok(Some(difference));
    }
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut buffers = (vec![0; STEP], vec![0; STEP]);
                    while let Some((left, right)) = files.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        if !same_content(left, right, &mut buffers)? {
                            return Ok(Some(format!("{}: other bytes", left.display())));
                        }
                    }
                    Ok(None)
                })
            })
            .collect();
        let mut found = None;
        for worker in workers {
            let outcome: io::Result<Option<String>> = worker
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a thread of the comparison broke")));
            found = found.or(outcome?);
        }
        Ok(found)
    })
}

/// Compares all but contents, and collects the pairs of files.
fn shape(
    left: &Path,
    right: &Path,
    files: &mut Vec<(PathBuf, PathBuf)>,
) -> io::Result<Option<String>> {
    let names = names(left)?;
    if names != self::names(right)? {
        return Ok(Some(format!("{}: other names", left.display())));
    }
    for name in names {
        let (left, right) = (left.join(&name), right.join(&name));
        let (of_left, of_right) = (fs::symlink_metadata(&left)?, fs::symlink_metadata(&right)?);
        let differs = |how: &str| Ok(Some(format!("{}: {how}", left.display())));
        if of_left.file_type() != of_right.file_type() {
            return differs("of another kind");
        }
        if of_left.is_symlink() {
            if fs::read_link(&left)? != fs::read_link(&right)? {
                return differs("another target");
            }
            continue;
        }
        if mode(&of_left) != mode(&of_right) {
            return differs("other permissions");
        }
        if of_left.is_dir() {
            if let Some(difference) = shape(&left, &right, files)? {
                return Ok(Some(difference));
            }
        } else if of_left.len() != of_right.len() {
            return differs("another size");
        } else {
            files.push((left, right));
        }
    }
    Ok(None)
}

fn names(folder: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

fn mode(meta: &Metadata) -> u32 {
    meta.permissions().mode() & 0o7777
}

fn same_content(
    left: &Path,
    right: &Path,
    (of_left, of_right): &mut (Vec<u8>, Vec<u8>),
) -> io::Result<bool> {
    let (mut left, mut right) = (File::open(left)?, File::open(right)?);
    loop {
        let got = fill(&mut left, of_left)?;
        if got != fill(&mut right, of_right)? || of_left[..got] != of_right[..got] {
            return Ok(false);
        }
        if got < of_left.len() {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(read) => got += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/file"), vec![7; STEP + 1]).unwrap();
        symlink("sub/file", dir.path().join("link")).unwrap();
        dir
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        let left = folder();
        let check = |change: &dyn Fn(&Path), expected: &str| {
            let right = folder();
            change(right.path());
            let found = differing(left.path(), right.path()).unwrap();
            let found = found.unwrap_or_default();
            assert!(found.contains(expected), "{expected}: {found:?}");
        };
        assert_eq!(differing(left.path(), folder().path()).unwrap(), None);
        check(
            &|dir| fs::write(dir.join("more"), "").unwrap(),
            "other names",
        );
        check(
            &|dir| {
                let mut bytes = vec![7; STEP + 1];
                bytes[STEP] = 8;
                fs::write(dir.join("sub/file"), bytes).unwrap();
            },
            "other bytes",
        );
        check(
            &|dir| fs::write(dir.join("sub/file"), "7").unwrap(),
            "another size",
        );
        check(
            &|dir| {
                let mode = fs::Permissions::from_mode(0o600);
                fs::set_permissions(dir.join("sub/file"), mode).unwrap();
            },
            "other permissions",
        );
        check(
            &|dir| {
                fs::remove_file(dir.join("link")).unwrap();
                symlink("sub", dir.join("link")).unwrap();
            },
            "another target",
        );
        check(
            &|dir| {
                fs::remove_file(dir.join("link")).unwrap();
                fs::write(dir.join("link"), "").unwrap();
            },
            "another kind",
        );
    }
}
