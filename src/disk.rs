//! The disk under a folder.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::quantity::MaxSize;

/// Figures of a file system, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) total: u64,
    /// What this user may still fill.
    pub(crate) free: u64,
    /// Its kind as `mount` calls it, or a number if it is a rare one.
    pub(crate) kind: String,
}

/// The disk that has `folder`.
pub(crate) fn of(folder: &Path) -> io::Result<Disk> {
    let figures = rustix::fs::statvfs(folder)?;
    Ok(Disk {
        total: figures.f_frsize.saturating_mul(figures.f_blocks),
        free: figures.f_frsize.saturating_mul(figures.f_bavail),
        kind: kind(folder)?,
    })
}

/// The most bytes that a store in `data` may use.
///
/// A share counts what the store uses already as free, so that it stays the same
/// from one start to the next while the store fills.
pub(crate) fn cap(max_size: MaxSize, data: &Path, disk: &Disk) -> u64 {
    match max_size {
        MaxSize::Bytes(size) => size.0,
        MaxSize::Percent(percent) => {
            let could_use = u128::from(disk.free) + u128::from(used_by(data));
            // A share of two u64 that came from one disk.
            u64::try_from(could_use * u128::from(percent) / 100).unwrap_or(u64::MAX)
        }
    }
}

/// Disk in use under `folder`; 0 for what can't be read.
pub(crate) fn used_by(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => used_by(&entry.path()),
            // POSIX counts blocks of 512 bytes whatever the file system's are.
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

#[cfg(target_os = "linux")]
fn kind(folder: &Path) -> io::Result<String> {
    let magic = rustix::fs::statfs(folder)?.f_type;
    Ok(match magic & 0xffff_ffff {
        0xef53 => "ext4".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x9123_683e => "btrfs".to_owned(),
        0x2fc1_2fc1 => "zfs".to_owned(),
        0x0102_1994 => "tmpfs".to_owned(),
        0x8584_58f6 => "ramfs".to_owned(),
        0x794c_7630 => "overlay".to_owned(),
        0xf2f5_2010 => "f2fs".to_owned(),
        0x6969 => "nfs".to_owned(),
        0xff53_4d42 | 0xfe53_4d42 => "cifs".to_owned(),
        0x6573_5546 => "fuse".to_owned(),
        magic => format!("type {magic:#x}"),
    })
}

#[cfg(not(target_os = "linux"))]
fn kind(_folder: &Path) -> io::Result<String> {
    Ok("of an unknown kind".to_owned())
}
