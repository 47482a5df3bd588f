//! Hashing: whole buffers, incrementally, files; on one thread or on many.
//!
//! BLAKE3 reaches its speed when it is fed at least 16 KiB at a time (the width
//! of the widest SIMD kernel); the readers here do so.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::{Digest, Hash};

/// The digest of `bytes`, on this thread.
pub fn bytes(bytes: &[u8]) -> Digest {
    Digest::new(
        Hash::from_bytes(*blake3::hash(bytes).as_bytes()),
        bytes.len() as u64,
    )
}

/// The digest of `bytes`, on all cores when there are enough of them to pay for
/// the hand-over (128 KiB).
#[cfg(feature = "rayon")]
pub fn bytes_parallel(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update_parallel(bytes);
    hasher.finish()
}

/// The digest of all that `reader` gives, on this thread.
///
/// # Errors
/// The first error of `reader` that is not an interruption.
pub fn reader(reader: impl Read) -> io::Result<Digest> {
    read_by(reader, READ_STEP)
}

/// The digest of a file's content, on this thread.
///
/// # Errors
/// Those of opening and reading the file.
pub fn file(path: &Path) -> io::Result<Digest> {
    let file = File::open(path)?;
    // Clearing a full step costs more than hashing a small file. One byte more
    // than the file has lets the read behind its end be the last.
    let length = file.metadata()?.len().saturating_add(1);
    let step = length.min(READ_STEP as u64) as usize;
    read_by(file, step)
}

fn read_by(mut reader: impl Read, step: usize) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; step];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => {
                hasher.update(&buffer[..read]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// An incremental hasher that also counts.
#[derive(Clone, Debug, Default)]
pub struct Hasher {
    blake3: blake3::Hasher,
}

/// Large enough for the widest SIMD kernel and to make the syscalls cheap, small
/// enough to stay in the L2 cache between the read and the hash.
const READ_STEP: usize = 128 * 1024;

#[cfg(feature = "rayon")]
const PARALLEL_FROM: usize = 128 * 1024;

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `bytes`, on this thread.
    pub fn update(&mut self, bytes: &[u8]) -> &mut Self {
        self.blake3.update(bytes);
        self
    }

    /// Adds `bytes`, on all cores when there are enough of them.
    #[cfg(feature = "rayon")]
    pub fn update_parallel(&mut self, bytes: &[u8]) -> &mut Self {
        if bytes.len() >= PARALLEL_FROM {
            self.blake3.update_rayon(bytes);
        } else {
            self.blake3.update(bytes);
        }
        self
    }

    /// The number of bytes added so far.
    pub fn count(&self) -> u64 {
        self.blake3.count()
    }

    /// The digest of all that was added so far.
    pub fn finish(&self) -> Digest {
        Digest::new(
            Hash::from_bytes(*self.blake3.finalize().as_bytes()),
            self.blake3.count(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// From the BLAKE3 reference's `test_vectors.json`: the input is 0, 1, …, 250, 0, …
    const VECTORS: [(usize, &str); 4] = [
        (
            0,
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        ),
        (
            1,
            "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
        ),
        (
            1024,
            "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
        ),
        (
            102_400,
            "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085",
        ),
    ];

    fn input(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at % 251) as u8).collect()
    }

    #[test]
    fn known_hashes() {
        for (length, hex) in VECTORS {
            let digest = bytes(&input(length));
            assert_eq!(digest.to_string(), format!("{hex}/{length}"));
        }
        assert_eq!(bytes(b""), Digest::EMPTY);
    }

    #[test]
    fn readers_and_files() {
        let data = input(300_001);
        assert_eq!(reader(&data[..]).unwrap(), bytes(&data));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, &data).unwrap();
        assert_eq!(file(&path).unwrap(), bytes(&data));
        assert!(file(&dir.path().join("absent")).is_err());
    }

    #[cfg(feature = "rayon")]
    #[test]
    fn all_cores_give_the_same_digest() {
        for length in [0, 1, 1024, 128 * 1024, 128 * 1024 + 1, 5_000_000] {
            let data = input(length);
            assert_eq!(bytes_parallel(&data), bytes(&data));
        }
    }

    proptest! {
        #[test]
        fn steps_do_not_matter(data: Vec<u8>, cuts in prop::collection::vec(0usize..64, 0..8)) {
            let mut hasher = Hasher::new();
            let mut rest = &data[..];
            for cut in cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                hasher.update(head);
                rest = tail;
            }
            hasher.update(rest);
            prop_assert_eq!(hasher.count(), data.len() as u64);
            prop_assert_eq!(hasher.finish(), bytes(&data));
        }
    }
}
