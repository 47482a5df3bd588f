//! The codec of segment headers and records. The layout is in FORMAT.md.

use crate::{Digest, Hash};

/// The version of the whole on-disk format.
pub(super) const FORMAT_VERSION: u32 = crate::store::format::STORE.newest;

/// The length of a segment's header, and of a record's, in bytes.
pub(super) const HEADER_LEN: usize = 64;

/// Records begin at multiples of this.
pub(super) const ALIGN: u64 = 16;

/// Record payloads are shorter than this.
pub(super) const MOST_PAYLOAD: u32 = 1 << 24;

const SEGMENT_MAGIC: [u8; 8] = *b"ZAKOSEG1";
const RECORD_MAGIC: [u8; 4] = *b"ZREC";

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) id: u32,
    /// Random; each record repeats it, so that bytes left by another file are not
    /// taken for records.
    pub(super) epoch: u64,
    pub(super) stream: Stream,
}

/// The two streams of segments that eviction tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stream {
    /// New blobs.
    Probation,
    /// Blobs that were used again.
    Main,
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) kind: RecordKind,
    pub(super) epoch: u64,
    /// Counts up over the whole store: of two records of one blob, the later one
    /// tells how it is.
    pub(super) sequence: u64,
    pub(super) hash: Hash,
    /// Of the payload, in bytes.
    pub(super) length: u32,
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum RecordKind {
    /// The payload is the blob.
    Blob,
    /// Earlier records of the blob are void.
    Tombstone,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.stream.code().to_le_bytes());
        bytes[16..24].copy_from_slice(&u64::from(self.id).to_le_bytes());
        bytes[24..32].copy_from_slice(&self.epoch.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    /// `None` if these bytes are no segment header of this version.
    pub(super) fn decode(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
        if bytes[0..8] != SEGMENT_MAGIC
            || !is_sealed(bytes)
            || u32_at(bytes, 8) != FORMAT_VERSION
            || !is_zero(&bytes[32..60])
        {
            return None;
        }
        Some(Self {
            stream: Stream::from_code(u32_at(bytes, 12))?,
            id: u32::try_from(u64_at(bytes, 16)).ok()?,
            epoch: u64_at(bytes, 24),
        })
    }
}

impl Stream {
    fn code(self) -> u32 {
        match self {
            Self::Probation => 0,
            Self::Main => 1,
        }
    }

    fn from_code(code: u32) -> Option<Self> {
        match code {
            0 => Some(Self::Probation),
            1 => Some(Self::Main),
            _ => None,
        }
    }
}

impl RecordHeader {
    pub(super) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..4].copy_from_slice(&RECORD_MAGIC);
        bytes[4] = match self.kind {
            RecordKind::Blob => 1,
            RecordKind::Tombstone => 2,
        };
        bytes[8..16].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..56].copy_from_slice(self.hash.as_bytes());
        bytes[56..60].copy_from_slice(&self.length.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    /// `None` if these bytes are no record header of the segment with this epoch.
    pub(super) fn decode(bytes: &[u8; HEADER_LEN], epoch: u64) -> Option<Self> {
        // The cheap tests first: resynchronisation tries every 16th byte.
        if bytes[0..4] != RECORD_MAGIC || u64_at(bytes, 8) != epoch || !is_sealed(bytes) {
            return None;
        }
        if !is_zero(&bytes[5..8]) {
            return None;
        }
        let kind = match bytes[4] {
            1 => RecordKind::Blob,
            2 => RecordKind::Tombstone,
            _ => return None,
        };
        let mut hash = [0; Hash::LEN];
        hash.copy_from_slice(&bytes[24..56]);
        let length = u32_at(bytes, 56);
        let plausible = match kind {
            RecordKind::Blob => length < MOST_PAYLOAD,
            RecordKind::Tombstone => length == 0,
        };
        plausible.then_some(Self {
            kind,
            epoch,
            sequence: u64_at(bytes, 16),
            hash: Hash::from_bytes(hash),
            length,
        })
    }

    /// The blob that a blob record is of.
    pub(super) fn digest(&self) -> Digest {
        Digest::new(self.hash, u64::from(self.length))
    }
}

/// The bytes that a record with a payload of this length takes in a segment.
pub(super) const fn record_len(payload: u64) -> u64 {
    (HEADER_LEN as u64 + payload).next_multiple_of(ALIGN)
}

/// Puts the checksum of the first 60 bytes into the last four.
fn seal(bytes: &mut [u8; HEADER_LEN]) {
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
}

fn is_sealed(bytes: &[u8; HEADER_LEN]) -> bool {
    u32_at(bytes, 60) == crc32fast::hash(&bytes[..60])
}

/// Whether bytes without a meaning are as they are written. Others would be lost
/// when the record is moved.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// The number at `at`, which is below the callers' fixed header lengths.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

/// As [`u32_at`].
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds() -> impl Strategy<Value = RecordKind> {
        prop_oneof![Just(RecordKind::Blob), Just(RecordKind::Tombstone)]
    }

    proptest! {
        #[test]
        fn records_round_trip(
            kind in kinds(), epoch: u64, sequence: u64, hash: [u8; 32], length in 0..MOST_PAYLOAD,
        ) {
            let length = if kind == RecordKind::Blob { length } else { 0 };
            let header = RecordHeader {
                kind, epoch, sequence, hash: Hash::from_bytes(hash), length,
            };
            let bytes = header.encode();
            prop_assert_eq!(RecordHeader::decode(&bytes, epoch), Some(header));
            prop_assert_eq!(RecordHeader::decode(&bytes, epoch.wrapping_add(1)), None);
        }

        #[test]
        fn a_flipped_bit_is_noticed(
            epoch: u64, sequence: u64, hash: [u8; 32], length in 0..MOST_PAYLOAD,
            at in 0..HEADER_LEN, bit in 0..8u32,
        ) {
            let header = RecordHeader {
                kind: RecordKind::Blob, epoch, sequence, hash: Hash::from_bytes(hash), length,
            };
            let mut bytes = header.encode();
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(RecordHeader::decode(&bytes, epoch), None);

            let header = SegmentHeader { id: 7, epoch, stream: Stream::Main };
            let mut bytes = header.encode();
            prop_assert_eq!(SegmentHeader::decode(&bytes), Some(header));
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(SegmentHeader::decode(&bytes), None);
        }

        #[test]
        fn any_bytes_decode_without_panic(bytes: [u8; 32], epoch: u64) {
            let mut header = [0; HEADER_LEN];
            header[..32].copy_from_slice(&bytes);
            header[32..].copy_from_slice(&bytes);
            prop_assert_eq!(RecordHeader::decode(&header, epoch), None);
            prop_assert_eq!(SegmentHeader::decode(&header), None);
        }
    }

    #[test]
    fn bytes_without_a_meaning_are_zero() {
        let record = RecordHeader {
            kind: RecordKind::Blob,
            epoch: 5,
            sequence: 6,
            hash: Hash::from_bytes([7; 32]),
            length: 8,
        };
        let segment = SegmentHeader {
            id: 7,
            epoch: 5,
            stream: Stream::Main,
        };
        for at in 5..8 {
            let mut bytes = record.encode();
            bytes[at] = 1;
            seal(&mut bytes);
            assert_eq!(RecordHeader::decode(&bytes, 5), None, "byte {at}");
        }
        for at in 32..60 {
            let mut bytes = segment.encode();
            bytes[at] = 1;
            seal(&mut bytes);
            assert_eq!(SegmentHeader::decode(&bytes), None, "byte {at}");
        }
    }

    #[test]
    fn records_are_aligned() {
        assert_eq!(record_len(0), 64);
        assert_eq!(record_len(1), 80);
        assert_eq!(record_len(16), 80);
        assert_eq!(record_len(8192), 64 + 8192);
    }
}
