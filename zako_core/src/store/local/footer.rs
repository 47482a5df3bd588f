//! The codec of a sealed segment's footer. The layout is in FORMAT.md.

use super::record::{
    ALIGN, FORMAT_VERSION, HEADER_LEN, MOST_PAYLOAD, RecordKind, is_zero, u32_at, u64_at,
};
use crate::{Digest, Hash};

/// The length of the trailer, the last bytes of a sealed segment.
pub(super) const TRAILER_LEN: usize = 64;

/// The length of one entry.
pub(super) const ENTRY_LEN: usize = 48;

/// A segment never has more records, so that a footer's memory is bounded.
pub(super) const MOST_RECORDS: usize = 1 << 18;

const TRAILER_MAGIC: [u8; 8] = *b"ZAKOFTR1";
const TOMBSTONE_BIT: u32 = 1 << 31;

/// One record of a segment, as its footer lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FooterEntry {
    pub(super) kind: RecordKind,
    pub(super) hash: Hash,
    pub(super) sequence: u64,
    /// Where the record's header lies in the segment, in bytes.
    pub(super) offset: u32,
    /// Of the payload, in bytes.
    pub(super) length: u32,
}

/// The last bytes of a sealed segment: where the entries are, and their checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    pub(super) epoch: u64,
    /// Where the entries begin: the end of the records.
    pub(super) start: u64,
    pub(super) count: u32,
    checksum: u32,
}

/// A footer's entries, read in pieces. Until all are read, none is to be believed.
pub(super) struct Entries<'a> {
    trailer: &'a Trailer,
    crc: crc32fast::Hasher,
    read: usize,
}

impl FooterEntry {
    /// The blob that a blob record is of.
    pub(super) fn digest(&self) -> Digest {
        Digest::new(self.hash, u64::from(self.length))
    }
}

/// The footer of a segment whose records end at `start`.
pub(super) fn encode(entries: &[FooterEntry], epoch: u64, start: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * ENTRY_LEN + TRAILER_LEN);
    for entry in entries {
        let tombstone = match entry.kind {
            RecordKind::Blob => 0,
            RecordKind::Tombstone => TOMBSTONE_BIT,
        };
        bytes.extend_from_slice(entry.hash.as_bytes());
        bytes.extend_from_slice(&entry.sequence.to_le_bytes());
        bytes.extend_from_slice(&entry.offset.to_le_bytes());
        bytes.extend_from_slice(&(entry.length | tombstone).to_le_bytes());
    }
    let checksum = crc32fast::hash(&bytes);
    let mut trailer = [0; TRAILER_LEN];
    trailer[0..8].copy_from_slice(&TRAILER_MAGIC);
    trailer[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    // At most MOST_RECORDS.
    trailer[12..16].copy_from_slice(&(entries.len() as u32).to_le_bytes());
    trailer[16..24].copy_from_slice(&epoch.to_le_bytes());
    trailer[24..32].copy_from_slice(&start.to_le_bytes());
    trailer[32..36].copy_from_slice(&checksum.to_le_bytes());
    let crc = crc32fast::hash(&trailer[..60]);
    trailer[60..].copy_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&trailer);
    bytes
}

impl Trailer {
    /// `None` if these are not the last bytes of a sealed segment with this epoch
    /// and length.
    pub(super) fn decode(bytes: &[u8; TRAILER_LEN], epoch: u64, file_len: u64) -> Option<Self> {
        if bytes[0..8] != TRAILER_MAGIC
            || u32_at(bytes, 60) != crc32fast::hash(&bytes[..60])
            || u32_at(bytes, 8) != FORMAT_VERSION
            || u64_at(bytes, 16) != epoch
            || !is_zero(&bytes[36..60])
        {
            return None;
        }
        let trailer = Self {
            epoch,
            start: u64_at(bytes, 24),
            count: u32_at(bytes, 12),
            checksum: u32_at(bytes, 32),
        };
        let end = trailer
            .start
            .checked_add(trailer.entries_len() as u64)?
            .checked_add(TRAILER_LEN as u64)?;
        (end == file_len && trailer.count as usize <= MOST_RECORDS).then_some(trailer)
    }

    /// The length of all entries, in bytes.
    pub(super) fn entries_len(&self) -> usize {
        self.count as usize * ENTRY_LEN
    }

    /// `None` if these are not the entries that the trailer was written for.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn decode_entries(&self, bytes: &[u8]) -> Option<Vec<FooterEntry>> {
        let mut entries = self.entries();
        let decoded = entries.next(bytes).collect();
        entries.are_whole().then_some(decoded).flatten()
    }

    /// A reading of the entries that the trailer was written for.
    pub(super) fn entries(&self) -> Entries<'_> {
        Entries {
            trailer: self,
            crc: crc32fast::Hasher::new(),
            read: 0,
        }
    }

    fn decode_entry(&self, bytes: &[u8]) -> Option<FooterEntry> {
        let mut hash = [0; Hash::LEN];
        hash.copy_from_slice(&bytes[..32]);
        let length = u32_at(bytes, 44);
        let entry = FooterEntry {
            kind: if length & TOMBSTONE_BIT == 0 {
                RecordKind::Blob
            } else {
                RecordKind::Tombstone
            },
            hash: Hash::from_bytes(hash),
            sequence: u64_at(bytes, 32),
            offset: u32_at(bytes, 40),
            length: length & !TOMBSTONE_BIT,
        };
        let longest = match entry.kind {
            RecordKind::Blob => MOST_PAYLOAD - 1,
            RecordKind::Tombstone => 0,
        };
        let header = u64::from(entry.offset);
        let plausible = header.is_multiple_of(ALIGN)
            && header >= HEADER_LEN as u64
            && header + HEADER_LEN as u64 + u64::from(entry.length) <= self.start
            && entry.length <= longest;
        plausible.then_some(entry)
    }
}

impl Entries<'_> {
    /// The next entries, as many as these bytes have whole; `None` for one that can't be.
    pub(super) fn next(&mut self, bytes: &[u8]) -> impl Iterator<Item = Option<FooterEntry>> {
        self.crc.update(bytes);
        self.read += bytes.len();
        bytes.chunks(ENTRY_LEN).map(|bytes| match bytes.len() {
            ENTRY_LEN => self.trailer.decode_entry(bytes),
            _ => None,
        })
    }

    /// Whether all entries were read, and are those that were written.
    pub(super) fn are_whole(self) -> bool {
        self.read == self.trailer.entries_len() && self.crc.finalize() == self.trailer.checksum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries() -> impl Strategy<Value = Vec<FooterEntry>> {
        let entry = (
            any::<bool>(),
            any::<[u8; 32]>(),
            any::<u64>(),
            4..1u32 << 20,
            0..MOST_PAYLOAD,
        )
            .prop_map(|(blob, hash, sequence, place, length)| FooterEntry {
                kind: if blob {
                    RecordKind::Blob
                } else {
                    RecordKind::Tombstone
                },
                hash: Hash::from_bytes(hash),
                sequence,
                offset: place * 16,
                length: if blob { length } else { 0 },
            });
        prop::collection::vec(entry, 0..20)
    }

    fn decode(bytes: &[u8], epoch: u64, start: u64) -> Option<Vec<FooterEntry>> {
        let (body, trailer) = bytes.split_last_chunk::<TRAILER_LEN>()?;
        let trailer = Trailer::decode(trailer, epoch, start + bytes.len() as u64)?;
        trailer.decode_entries(body)
    }

    #[test]
    fn entries_lie_where_records_can_lie() {
        let entry = FooterEntry {
            kind: RecordKind::Blob,
            hash: Hash::from_bytes([1; 32]),
            sequence: 2,
            offset: 64,
            length: 64,
        };
        let read = |entry: FooterEntry| decode(&encode(&[entry], 3, 192), 3, 192);
        assert_eq!(read(entry), Some(vec![entry]));
        for (offset, length) in [(48, 64), (72, 16), (64, 65), (192, 0), (u32::MAX - 15, 0)] {
            let wrong = FooterEntry {
                offset,
                length,
                ..entry
            };
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
        let tombstone = FooterEntry {
            kind: RecordKind::Tombstone,
            ..entry
        };
        assert_eq!(read(tombstone), None);
    }

    #[test]
    fn bytes_without_a_meaning_are_zero() {
        for at in 36..60 {
            let mut bytes = encode(&[], 3, 192);
            bytes[at] = 1;
            let crc = crc32fast::hash(&bytes[..60]);
            bytes[60..].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(decode(&bytes, 3, 192), None, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn footers_round_trip(entries in entries(), epoch: u64) {
            let start = 1 << 28;
            let bytes = encode(&entries, epoch, start);
            prop_assert_eq!(decode(&bytes, epoch, start), Some(entries));
            prop_assert_eq!(decode(&bytes, epoch ^ 1, start), None);
            prop_assert_eq!(decode(&bytes, epoch, start + 16), None);
        }

        #[test]
        fn a_flipped_bit_is_noticed(
            entries in entries(), epoch: u64, at: prop::sample::Index, bit in 0..8u32,
        ) {
            let start = 1 << 28;
            let mut bytes = encode(&entries, epoch, start);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(decode(&bytes, epoch, start), None);
        }

        #[test]
        fn any_bytes_decode_without_panic(bytes: Vec<u8>, epoch: u64, start: u64) {
            if start < 1 << 40 {
                prop_assert_eq!(decode(&bytes, epoch, start), None);
            }
        }
    }
}
