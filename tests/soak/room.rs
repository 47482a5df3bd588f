//! Whether the disk under the stores has room. A full one is no fault of the servers', and
//! what fails because of it must not be taken for one.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// What a run ends with that found the disk full.
pub(crate) const EXIT: i32 = 3;

/// What the run writes besides its stores: logs, tables of names, what is about to replace
/// something.
const BESIDE: u64 = 512 << 20;

/// How little may be left while it runs: what all workers can write from one look to the
/// next.
const LEAST: u64 = 256 << 20;

/// From one look to the next.
const EVERY: Duration = Duration::from_millis(500);

/// The disk is, or is about to be, full.
#[derive(Debug)]
pub(crate) enum Full {
    Room {
        free: u64,
        needed: u64,
    },
    /// Something could not be written for the lack of it.
    Said,
}

/// Whether there is room for stores of these bytes together.
pub(crate) fn to_begin(folder: &Path, stores: u64) -> Result<(), Full> {
    enough(free(folder), stores + BESIDE)
}

/// Waits until there is no room to go on.
pub(crate) async fn is_over(folder: &Path) -> Full {
    loop {
        if let Err(full) = to_go_on(folder) {
            return full;
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Whether a full disk is why something failed, of which these are the words.
pub(crate) fn is_to_blame<'a>(
    folder: &Path,
    words: impl IntoIterator<Item = &'a str>,
) -> Result<(), Full> {
    const SIGNS: [&str; 3] = ["os error 28", "No space left on device", "StorageFull"];
    to_go_on(folder)?;
    let mut words = words.into_iter();
    match words.any(|words| SIGNS.iter().any(|sign| words.contains(sign))) {
        true => Err(Full::Said),
        false => Ok(()),
    }
}

fn to_go_on(folder: &Path) -> Result<(), Full> {
    enough(free(folder), LEAST)
}

/// Ends the process, and says why. The stores go: they prove nothing, and fill the disk.
pub(crate) fn end(folder: &Path, full: &Full) -> ! {
    let _ = std::fs::remove_dir_all(folder);
    // Stderr may be on that disk.
    let _ = writeln!(
        std::io::stderr(),
        "soak ENDED, the DISK IS FULL: {full} under {}; this says nothing about the servers",
        folder.display()
    );
    std::process::exit(EXIT);
}

fn enough(free: u64, needed: u64) -> Result<(), Full> {
    match free < needed {
        true => Err(Full::Room { free, needed }),
        false => Ok(()),
    }
}

/// What this user may still fill, in bytes; none if nobody knows.
fn free(folder: &Path) -> u64 {
    let figures = rustix::fs::statvfs(folder);
    figures.map_or(0, |it| it.f_frsize.saturating_mul(it.f_bavail))
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Room { free, needed } => {
                let (free, needed) = (free >> 20, needed >> 20);
                write!(f, "{free} MiB are free, {needed} MiB are needed")
            }
            Self::Said => f.write_str("there was no space left for a moment"),
        }
    }
}
