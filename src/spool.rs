//! Stdin, taken in whole before its digest is known.

use std::io::{self, Read, Write};
use std::path::Path;

use bytes::Bytes;
use tempfile::NamedTempFile;
use zako_core::Digest;
use zako_digest::hash::Hasher;

use crate::failure::{Exit, Failure};

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

/// Reads all of stdin and hashes it. Dropped, it leaves nothing behind.
///
/// # Errors
/// Reading fails, or there is no room in the folder for temporary files.
pub(crate) async fn stdin() -> Result<(Digest, Spooled), Failure> {
    spool(io::stdin).await
}

/// Reads what `open` gives. It is opened twice, and gives on where it was left.
async fn spool<R: Read>(
    open: impl Fn() -> R + Copy + Send + 'static,
) -> Result<(Digest, Spooled), Failure> {
    let (mut hasher, data) = off_thread(move || {
        let mut data = Vec::new();
        let mut reader = open().take(IN_MEMORY as u64);
        reader
            .read_to_end(&mut data)
            .map_err(|error| reading(&error))?;
        let mut hasher = Hasher::new();
        hasher.update_parallel(&data);
        Ok((hasher, data))
    })
    .await?;
    if data.len() < IN_MEMORY {
        return Ok((hasher.finish(), Spooled::Memory(data.into())));
    }

    let file = tempfile::Builder::new()
        .prefix("zako-put-")
        .tempfile()
        .map_err(|error| writing(&error))?;
    // This keeps the name, and removes the file, while a thread that can't be
    // stopped writes to it.
    let mut handle = file.reopen().map_err(|error| writing(&error))?;
    let digest = off_thread(move || {
        let mut data = data;
        let mut reader = open();
        while !data.is_empty() {
            handle.write_all(&data).map_err(|error| writing(&error))?;
            data.clear();
            (&mut reader)
                .take(STEP as u64)
                .read_to_end(&mut data)
                .map_err(|error| reading(&error))?;
            hasher.update_parallel(&data);
        }
        Ok(hasher.finish())
    })
    .await?;
    Ok((digest, Spooled::File(file)))
}

/// Runs what blocks beside the runtime, so that a signal can end the verb.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Failure::new(Exit::Failed, error.to_string())))
}

fn reading(error: &io::Error) -> Failure {
    Failure::io("reading", Path::new("stdin"), error)
}

fn writing(error: &io::Error) -> Failure {
    Failure::io("keeping stdin in", &std::env::temp_dir(), error)
        .advise("Set TMPDIR to a folder with room for all of it.")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const LARGE: usize = IN_MEMORY + 3 * STEP + 1;

    /// Gives so many zeros in all, whoever reads.
    struct Zeros(&'static AtomicUsize);

    impl Read for Zeros {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let left = self.0.load(Ordering::Relaxed);
            let given = left.min(buffer.len()).min(100_000);
            buffer[..given].fill(0);
            self.0.store(left - given, Ordering::Relaxed);
            Ok(given)
        }
    }

    #[tokio::test]
    async fn small_stays_in_memory() {
        static LEFT: AtomicUsize = AtomicUsize::new(IN_MEMORY - 1);
        let (digest, spooled) = spool(|| Zeros(&LEFT)).await.unwrap();
        let bytes = vec![0; IN_MEMORY - 1];
        assert_eq!(digest, zako_digest::hash::bytes(&bytes));
        assert!(matches!(spooled, Spooled::Memory(data) if data == bytes));
    }

    #[tokio::test]
    async fn large_goes_to_a_file() {
        static LEFT: AtomicUsize = AtomicUsize::new(LARGE);
        let (digest, spooled) = spool(|| Zeros(&LEFT)).await.unwrap();
        let bytes = vec![0; LARGE];
        assert_eq!(digest, zako_digest::hash::bytes(&bytes));
        let Spooled::File(file) = spooled else {
            panic!("kept in memory");
        };
        assert!(std::fs::read(file.path()).unwrap() == bytes);
    }
}
