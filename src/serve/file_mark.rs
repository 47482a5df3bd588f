//! Whether a file is still the same.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

/// What changes with a file, also when another one takes its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileMark(Option<Found>);

/// Its device, number, length and time.
type Found = (u64, u64, u64, SystemTime);

impl FileMark {
    /// Of the file that is there now, or of none.
    pub(super) fn of(path: &Path) -> Self {
        let found = std::fs::metadata(path).ok().and_then(|meta| {
            let changed = meta.modified().ok()?;
            Some((meta.dev(), meta.ino(), meta.len(), changed))
        });
        Self(found)
    }
}
