//! Free pages of memory that the machine has at hand.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::time::Instant;

use crate::Outcome;

/// The size of one write.
const STEP: usize = 1 << 20;

/// What is written beside the blobs, at most: trees, databases, tables.
const BESIDE: u64 = 256 << 20;

/// How often the pages are written to, at most.
const PASSES: usize = 5;

/// Fills the page cache with a file, until that gets no faster, and removes it before it
/// gets to the disk: what is written next gets the same pages again. A virtual machine
/// may give free pages back to its host within a second or two, and then takes ten times
/// as long for each new one, so that whoever writes first would pay for it.
pub(crate) fn take(folder: &Path, bytes: u64) -> Outcome<()> {
    let mut file = tempfile::tempfile_in(folder)?;
    let step = vec![1; STEP];
    let mut last = f64::INFINITY;
    for _ in 0..PASSES {
        let start = Instant::now();
        fill(&mut file, &step, bytes + BESIDE)?;
        let time = start.elapsed().as_secs_f64();
        if time > last * 0.8 {
            break;
        }
        last = time;
    }
    Ok(())
}

fn fill(file: &mut File, step: &[u8], bytes: u64) -> Outcome<()> {
    // Other pages than those of the pass before would be as cold as before.
    file.set_len(0)?;
    file.rewind()?;
    for _ in 0..bytes.div_ceil(step.len() as u64) {
        file.write_all(step)?;
    }
    Ok(())
}
