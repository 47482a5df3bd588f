//! What a golden store holds, as its manifest tells: a line each.
#![allow(dead_code, reason = "the generator writes, the test reads")]

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use zako_core::alias::{AliasKey, AliasKind};
use zako_core::cas::UploadKey;

/// The manifest's name in the folder of a format, and the store's.
pub(crate) const MANIFEST: &str = "manifest";
pub(crate) const STORE: &str = "store";

/// A line of the manifest. Bytes are told by the seed and the length of [`noise`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A blob that is there.
    Blob { seed: u64, length: usize },
    /// A blob that was deleted.
    Deleted { seed: u64, length: usize },
    /// A blob that was damaged, and is in quarantine.
    Quarantined { seed: u64, length: usize },
    /// The first bytes of an upload that was interrupted.
    Partial { seed: u64, length: usize, held: u64 },
    /// The same of one whose digest was not told; its key is that of the seed.
    Staged { seed: u64, length: usize, held: u64 },
    /// The alias of this number names the blob.
    Alias {
        number: u64,
        seed: u64,
        length: usize,
    },
    /// The alias of this number was removed.
    Removed { number: u64 },
}

/// The store's options that its layout follows from.
pub(crate) const MAX_BYTES: u64 = 16 << 20;
pub(crate) const SEGMENT_BYTES: u64 = 48 << 10;
pub(crate) const LARGE_FROM: u64 = 16 << 10;

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blob { seed, length } => write!(f, "blob {seed} {length}"),
            Self::Deleted { seed, length } => write!(f, "deleted {seed} {length}"),
            Self::Quarantined { seed, length } => write!(f, "quarantined {seed} {length}"),
            Self::Partial { seed, length, held } => write!(f, "partial {seed} {length} {held}"),
            Self::Staged { seed, length, held } => write!(f, "staged {seed} {length} {held}"),
            Self::Alias {
                number,
                seed,
                length,
            } => write!(f, "alias {number} {seed} {length}"),
            Self::Removed { number } => write!(f, "removed {number}"),
        }
    }
}

impl FromStr for Entry {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let wrong = || format!("no entry: {line:?}");
        let mut words = line.split_whitespace();
        let kind = words.next().ok_or_else(wrong)?;
        let numbers: Result<Vec<u64>, _> = words.map(str::parse).collect();
        let numbers = numbers.map_err(|_| wrong())?;
        Ok(match (kind, numbers[..].as_ref()) {
            ("blob", &[seed, length]) => Self::Blob {
                seed,
                length: length as usize,
            },
            ("deleted", &[seed, length]) => Self::Deleted {
                seed,
                length: length as usize,
            },
            ("quarantined", &[seed, length]) => Self::Quarantined {
                seed,
                length: length as usize,
            },
            ("partial", &[seed, length, held]) => Self::Partial {
                seed,
                length: length as usize,
                held,
            },
            ("staged", &[seed, length, held]) => Self::Staged {
                seed,
                length: length as usize,
                held,
            },
            ("alias", &[number, seed, length]) => Self::Alias {
                number,
                seed,
                length: length as usize,
            },
            ("removed", &[number]) => Self::Removed { number },
            _ => return Err(wrong()),
        })
    }
}

/// The bytes of a seed (splitmix64).
pub(crate) fn noise(seed: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    let mut state = seed.wrapping_mul(0xd134_2543_de82_ef95);
    for word in bytes.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mixed = (mixed ^ (mixed >> 31)).to_le_bytes();
        word.copy_from_slice(&mixed[..word.len()]);
    }
    bytes.into()
}

/// The key of an alias.
pub(crate) fn alias_key(number: u64) -> AliasKey {
    AliasKind::new("zako golden store 2026 alias").key(&[&number.to_le_bytes()])
}

/// The key of a staged upload.
pub(crate) fn upload_key(seed: u64) -> UploadKey {
    UploadKey::of_name(&seed.to_le_bytes())
}
