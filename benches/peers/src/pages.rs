//! Free pages of memory that the machine has at hand.

use std::io::Write;
use std::path::Path;

use crate::Outcome;

/// The size of one write.
const STEP: usize = 1 << 20;

/// What is written beside the blobs, at most: trees, databases, tables.
const BESIDE: u64 = 256 << 20;

/// Fills the page cache with a file and removes it before it gets to the disk: what is
/// written next gets the same pages again. A virtual machine may give free pages back to
/// its host within a second or two, and then takes ten times as long for each new one.
pub(crate) fn take(folder: &Path, bytes: u64) -> Outcome<()> {
    let mut file = tempfile::tempfile_in(folder)?;
    let step = vec![1; STEP];
    for _ in 0..(bytes + BESIDE).div_ceil(STEP as u64) {
        file.write_all(&step)?;
    }
    Ok(())
}
