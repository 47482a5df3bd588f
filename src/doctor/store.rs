//! The folder of the store and the disk it lies on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use zako_core::store::Formats;

use super::Check;
use crate::config::ServerConfig;
use crate::disk;
use crate::quantity::bytes;

/// With less than this, a store is full at once.
const WANTED_FREE: u64 = 1 << 30;

pub(super) fn checks(config: &ServerConfig) -> Vec<Check> {
    let data = &config.data.value.0;
    let mut checks = vec![folder(data), format(data), lock(data)];
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
        Ok(_) if is_something_else(data) => Check::broken(
            NAME,
            format!("{shown} has other things in it and is no store"),
            "Name an empty or a new folder with --data DIR.",
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

fn is_something_else(data: &Path) -> bool {
    let mut names = fs::read_dir(data)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name()));
    !data.join("zako.store").exists() && names.any(|name| name != "lock" && name != "lost+found")
}

/// Whether this version opens what was written there.
fn format(data: &Path) -> Check {
    const NAME: &str = "store format";
    match Formats::of(data) {
        Ok(None) => Check::ok(NAME, "there is no store yet"),
        Ok(Some(found)) => match found.refusal() {
            None => Check::ok(NAME, found.to_string()),
            Some(refusal) => Check::broken(
                NAME,
                refusal,
                "Use the version of zako that wrote the store, or another --data folder.",
            ),
        },
        Err(error) => Check::broken(
            NAME,
            format!("{}: {error}", data.display()),
            "Run this as the user that owns the store.",
        ),
    }
}

/// Which process has the store open.
fn lock(data: &Path) -> Check {
    const NAME: &str = "store lock";
    let path = data.join("lock");
    let file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Check::ok(NAME, "there is no store yet");
        }
        Err(error) => {
            return Check::warning(
                NAME,
                format!("{}: {error}", path.display()),
                "Run this as the user that owns the store.",
            );
        }
    };
    // Shared and let go of at once: a server that starts meanwhile is not refused
    // for longer than this takes.
    match file.try_lock_shared() {
        Ok(()) => Check::ok(NAME, "free: no server runs on the store"),
        Err(fs::TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            Check::ok(NAME, format!("in use by {}", process(holder.trim())))
        }
        Err(fs::TryLockError::Error(error)) => Check::warning(
            NAME,
            format!("{}: {error}", path.display()),
            "The file system doesn't support locks: take care that only one server runs on it.",
        ),
    }
}

/// A process as a person knows it; `id` is what the lock's file says.
fn process(id: &str) -> String {
    let Ok(id) = id.parse::<u32>() else {
        return "another process".to_owned();
    };
    match fs::read_to_string(format!("/proc/{id}/comm")) {
        Ok(name) => format!("process {id} ({})", name.trim()),
        Err(_) => format!("process {id}"),
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
