//! Stdin, taken in whole before its digest is known.

use std::io::{self, Read, Write};
use std::path::Path;

use bytes::Bytes;
use tempfile::NamedTempFile;
use zako_core::Digest;
use zako_digest::hash::Hasher;

use crate::failure::Failure;

/// What was read: in memory while it is small, else in a file that goes away with
/// this.
pub(crate) enum Spooled {
    Memory(Bytes),
    File(NamedTempFile),
}

/// The most that is kept in memory.
const IN_MEMORY: usize = 8 << 20;

/// Read at once, to hash it on all cores.
const STEP: usize = 1 << 20;

/// Reads all of stdin and hashes it.
///
/// # Errors
/// Reading fails, or there is no room in the folder for temporary files.
pub(crate) fn stdin() -> Result<(Digest, Spooled), Failure> {
    spool(io::stdin().lock())
}

fn spool(mut reader: impl Read) -> Result<(Digest, Spooled), Failure> {
    let reading = |error| Failure::io("reading", Path::new("stdin"), &error);
    let mut hasher = Hasher::new();
    let mut data = Vec::new();
    (&mut reader)
        .take(IN_MEMORY as u64)
        .read_to_end(&mut data)
        .map_err(reading)?;
    hasher.update_parallel(&data);
    if data.len() < IN_MEMORY {
        return Ok((hasher.finish(), Spooled::Memory(data.into())));
    }
    let folder = std::env::temp_dir();
    let writing = |error| {
        Failure::io("keeping stdin in", &folder, &error)
            .advise("Set TMPDIR to a folder with room for all of it.")
    };
    let mut file = tempfile::Builder::new()
        .prefix("zako-put-")
        .tempfile_in(&folder)
        .map_err(writing)?;
    file.write_all(&data).map_err(writing)?;
    loop {
        data.clear();
        let read = (&mut reader)
            .take(STEP as u64)
            .read_to_end(&mut data)
            .map_err(reading)?;
        if read == 0 {
            return Ok((hasher.finish(), Spooled::File(file)));
        }
        hasher.update_parallel(&data);
        file.write_all(&data).map_err(writing)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_stays_in_memory_and_large_goes_to_a_file() {
        let bytes = vec![3; IN_MEMORY - 1];
        let (digest, spooled) = spool(&bytes[..]).unwrap();
        assert_eq!(digest, zako_digest::hash::bytes(&bytes));
        assert!(matches!(spooled, Spooled::Memory(data) if data == bytes));

        let bytes = vec![4; IN_MEMORY + 3 * STEP + 1];
        let (digest, spooled) = spool(&bytes[..]).unwrap();
        assert_eq!(digest, zako_digest::hash::bytes(&bytes));
        let Spooled::File(file) = spooled else {
            panic!("kept in memory");
        };
        assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
    }
}
