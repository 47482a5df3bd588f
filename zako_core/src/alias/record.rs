//! The codec of a log's header and records. The layout is in FORMAT.md.

use super::{Alias, AliasKey};
use crate::store::format::ALIASES;
use crate::{Digest, Hash};

/// The length of a log's header, in bytes.
pub(super) const HEADER_LEN: usize = 64;

/// The length of a record, in bytes.
pub(super) const RECORD_LEN: usize = 96;

/// The largest blob that can have an alias, in bytes.
pub(super) const MOST_SIZE: u64 = (1 << 48) - 2;

const FORMAT_VERSION: u32 = ALIASES.newest;
const MAGIC: [u8; 8] = *b"ZAKOALI1";
const ALIAS: u8 = 1;
const REMOVAL: u8 = 2;

/// What the first bytes of a log say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    Whole { epoch: u64 },
    OtherVersion(u32),
    Damaged,
}

/// What a record says: what its key names from here on, if anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) key: AliasKey,
    pub(super) alias: Option<Alias>,
}

impl Header {
    pub(super) fn encode(epoch: u64) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&epoch.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HEADER_LEN]) -> Self {
        if bytes[..8] != MAGIC {
            return Self::Damaged;
        }
        // The checksum is a version's own affair; the version number never moves.
        let version = u32_at(bytes, 8);
        if !ALIASES.knows(version) {
            return Self::OtherVersion(version);
        }
        if u32_at(bytes, 60) != crc32fast::hash(&bytes[..60]) {
            return Self::Damaged;
        }
        Self::Whole {
            epoch: u64_at(bytes, 16),
        }
    }
}

impl Record {
    /// Appends the record to `bytes`.
    pub(super) fn encode(&self, epoch: u64, bytes: &mut Vec<u8>) {
        let mut record = [0; RECORD_LEN];
        record[4] = REMOVAL;
        record[8..16].copy_from_slice(&epoch.to_le_bytes());
        record[16..48].copy_from_slice(&self.key.0);
        if let Some(alias) = &self.alias {
            record[4] = ALIAS;
            record[48..80].copy_from_slice(alias.digest.hash().as_bytes());
            record[80..88].copy_from_slice(&alias.digest.size().to_le_bytes());
            let expires = alias.expires.unwrap_or(0);
            record[88..].copy_from_slice(&expires.to_le_bytes());
        }
        let crc = crc32fast::hash(&record[4..]);
        record[..4].copy_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&record);
    }

    /// `None` if these bytes are no record of this epoch.
    pub(super) fn decode(bytes: &[u8; RECORD_LEN], epoch: u64) -> Option<Self> {
        if u64_at(bytes, 8) != epoch
            || u32_at(bytes, 0) != crc32fast::hash(&bytes[4..])
            || bytes[5..8] != [0; 3]
        {
            return None;
        }
        let mut key = [0; 32];
        key.copy_from_slice(&bytes[16..48]);
        let mut hash = [0; Hash::LEN];
        hash.copy_from_slice(&bytes[48..80]);
        let (size, expires) = (u64_at(bytes, 80), u64_at(bytes, 88));
        let alias = match bytes[4] {
            ALIAS if size <= MOST_SIZE && u32::try_from(expires).is_ok() => Some(Alias {
                digest: Digest::new(Hash::from_bytes(hash), size),
                expires: (expires > 0).then_some(expires),
            }),
            REMOVAL if bytes[48..].iter().all(|byte| *byte == 0) => None,
            _ => return None,
        };
        Some(Self {
            key: AliasKey(key),
            alias,
        })
    }

    /// The epoch that these bytes have, if their checksum is right.
    pub(super) fn epoch(bytes: &[u8; RECORD_LEN]) -> Option<u64> {
        (u32_at(bytes, 0) == crc32fast::hash(&bytes[4..])).then(|| u64_at(bytes, 8))
    }
}

/// The number at `at`, which is below the callers' fixed lengths.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records() -> impl Strategy<Value = Record> {
        let alias =
            (any::<[u8; 32]>(), 0..=MOST_SIZE, any::<u32>()).prop_map(|(hash, size, expires)| {
                Alias {
                    digest: Digest::new(Hash::from_bytes(hash), size),
                    expires: (expires > 0).then_some(u64::from(expires)),
                }
            });
        (any::<[u8; 32]>(), prop::option::of(alias)).prop_map(|(key, alias)| Record {
            key: AliasKey(key),
            alias,
        })
    }

    fn encoded(record: &Record, epoch: u64) -> [u8; RECORD_LEN] {
        let mut bytes = Vec::new();
        record.encode(epoch, &mut bytes);
        bytes.try_into().unwrap()
    }

    fn seal(bytes: &mut [u8; RECORD_LEN]) {
        let crc = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
    }

    #[test]
    fn a_header_says_what_it_is() {
        let mut bytes = Header::encode(7);
        assert_eq!(Header::decode(&bytes), Header::Whole { epoch: 7 });
        bytes[17] ^= 1;
        assert_eq!(Header::decode(&bytes), Header::Damaged);
        bytes[8] = 2;
        assert_eq!(Header::decode(&bytes), Header::OtherVersion(2));
        bytes[0] = 0;
        assert_eq!(Header::decode(&bytes), Header::Damaged);
    }

    #[test]
    fn what_no_version_writes_is_no_record() {
        let record = Record {
            key: AliasKey([1; 32]),
            alias: Some(Alias {
                digest: Digest::new(Hash::from_bytes([2; 32]), 3),
                expires: None,
            }),
        };
        let removal = Record {
            alias: None,
            ..record
        };
        // A strange kind, padding, a size and a time that are too large; a removal with
        // a digest.
        for (record, at, byte) in [
            (record, 4, 0),
            (record, 4, 3),
            (record, 7, 1),
            (record, 86, 1),
            (record, 92, 1),
            (removal, 48, 1),
            (removal, 88, 1),
        ] {
            let mut bytes = encoded(&record, 5);
            assert_eq!(Record::decode(&bytes, 5), Some(record));
            bytes[at] = byte;
            seal(&mut bytes);
            assert_eq!(Record::decode(&bytes, 5), None, "{at} {byte}");
        }
    }

    proptest! {
        #[test]
        fn records_round_trip(record in records(), epoch: u64) {
            let bytes = encoded(&record, epoch);
            prop_assert_eq!(Record::decode(&bytes, epoch), Some(record));
            prop_assert_eq!(Record::epoch(&bytes), Some(epoch));
            prop_assert_eq!(Record::decode(&bytes, epoch ^ 1), None);
        }

        #[test]
        fn a_flipped_bit_is_noticed(
            record in records(), epoch: u64, at in 0..RECORD_LEN, bit in 0..8u32,
        ) {
            let mut bytes = encoded(&record, epoch);
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(Record::decode(&bytes, epoch), None);
        }

        #[test]
        fn any_bytes_decode_without_panic(mut bytes in any::<[[u8; 32]; 3]>(), epoch: u64) {
            let mut bytes: [u8; RECORD_LEN] = bytes.as_flattened_mut().try_into().unwrap();
            bytes[8..16].copy_from_slice(&epoch.to_le_bytes());
            seal(&mut bytes);
            if let Some(record) = Record::decode(&bytes, epoch) {
                prop_assert_eq!(encoded(&record, epoch), bytes);
            }
        }
    }
}
