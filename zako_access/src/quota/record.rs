//! What was stored in the last day, as it is kept across restarts.

use serde::{Deserialize, Serialize};

use super::key::Key;
use super::window::Window;

const VERSION: u32 = 1;

/// Why a record can't be gone on with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// It is damaged.
    #[error("the record of what was stored is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
    /// Another version wrote it.
    #[error("the record of what was stored has version {0}, not {VERSION}")]
    Version(u32),
}

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    stored: Vec<(String, Window)>,
}

/// The record of these windows at this time.
pub(super) fn write(mut stored: Vec<(String, Window)>, now: u64) -> Vec<u8> {
    stored.retain_mut(|(_, window)| !window.is_empty(now));
    stored.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let version = VERSION;
    // Numbers and texts are always JSON.
    serde_json::to_vec(&Record { version, stored }).unwrap_or_default()
}

/// The windows of a record. Keys of no known kind are left out.
pub(super) fn read(record: &[u8]) -> Result<Vec<(Key, Window)>, RecordError> {
    let record: Record = serde_json::from_slice(record)?;
    if record.version != VERSION {
        return Err(RecordError::Version(record.version));
    }
    let stored = record.stored.into_iter();
    Ok(stored
        .filter_map(|(key, window)| Some((key.parse().ok()?, window)))
        .collect())
}
