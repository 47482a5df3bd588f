//! The folder of the store and the disk it lies on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Check;
use crate::config::ServerConfig;
use crate::disk;
use crate::quantity::bytes;

/// With less than this, a store is full at once.
const WANTED_FREE: u64 = 1 << 30;

pub(super) fn checks(config: &ServerConfig) -> Vec<Check> {
    let data = &config.data.value.0;
    let mut checks = vec![folder(data)];
    let Some(place) = existing(data) else {
        return checks;
    };
    match disk::of(&place) {
        Ok(disk) => {
            checks.push(file_system(&disk));
            checks.push(space(data, config, &disk));
        }
        Err(error) => checks.push(Check::broken(
            "disk",
            format!("{}: {error}", place.display()),
            "Without its figures a store can't keep to a share of the disk: set --max-size.",
        )),
    }
    checks
}

/// Whether the folder is there and can be written to.
fn folder(data: &Path) -> Check {
    const NAME: &str = "data folder";
    let shown = data.display();
    match fs::metadata(data) {
        Ok(meta) if !meta.is_dir() => Check::broken(
            NAME,
            format!("{shown} is not a folder"),
            "Name a folder with --data DIR.",
        ),
        Ok(_) => match tempfile::tempfile_in(data) {
            Ok(_) => Check::ok(NAME, format!("{shown} is writable")),
            Err(error) => Check::broken(
                NAME,
                format!("{shown} can't be written to: {error}"),
                "Give this user the right to write there, or name another folder with --data DIR.",
            ),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => match existing(data) {
            Some(parent) => match tempfile::tempfile_in(&parent) {
                Ok(_) => Check::ok(NAME, format!("{shown} will be created by zako serve")),
                Err(error) => Check::broken(
                    NAME,
                    format!("{shown} can't be created in {}: {error}", parent.display()),
                    "Create it with rights for this user, or name another folder with --data DIR.",
                ),
            },
            None => Check::broken(
                NAME,
                format!("{shown} has no parent"),
                "Name a folder with --data DIR.",
            ),
        },
        Err(error) => Check::broken(
            NAME,
            format!("{shown}: {error}"),
            "Name a folder that this user may enter with --data DIR.",
        ),
    }
}

fn file_system(disk: &disk::Disk) -> Check {
    const NAME: &str = "file system";
    let kind = disk.kind.as_str();
    match kind {
        "tmpfs" | "ramfs" => Check::warning(
            NAME,
            format!("{kind}: the store is gone after a restart of the machine"),
            "Name a folder on a disk with --data DIR, unless that is meant.",
        ),
        "nfs" | "cifs" | "fuse" => Check::warning(
            NAME,
            format!("{kind}: locks and syncs depend on another machine"),
            "A local disk is safer and faster.",
        ),
        _ => Check::ok(NAME, kind),
    }
}

fn space(data: &Path, config: &ServerConfig, disk: &disk::Disk) -> Check {
    const NAME: &str = "disk space";
    let cap = disk::cap(config.max_size.value, data, disk);
    let found = format!(
        "{} of {} free, the store may use {}",
        bytes(disk.free),
        bytes(disk.total),
        bytes(cap)
    );
    let used = disk::used_by(data);
    if disk.free < WANTED_FREE {
        Check::warning(
            NAME,
            found,
            "Free some space, or name a folder on another disk with --data DIR.",
        )
    } else if cap > disk.free.saturating_add(used) {
        Check::warning(
            NAME,
            format!("{found}: more than there is"),
            "Lower --max-size: the disk fills up before the store begins to evict.",
        )
    } else {
        Check::ok(NAME, found)
    }
}

/// `path`, or the nearest of its parents that exists.
fn existing(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors()
        .find(|path| path.is_dir())
        .map(Path::to_owned)
}
