//! Ways for a fuzzer to the codecs, which are nobody's business else. Each function
//! panics where a codec breaks its promise.

use std::fs::File;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::footer::{self, FooterEntry, TRAILER_LEN, Trailer};
use super::io::{Access, Backend, BackendFile, Entry, Lock};
use super::record::{
    ALIGN, HEADER_LEN, RecordHeader, RecordKind, SegmentHeader, Stream, record_len, u64_at,
};
use super::scan::{Scan, scan};
use super::segment::Segment;
use crate::Hash;

/// Where a footer may begin: past what 32 bits can address.
const MOST_START: u64 = 1 << 33;

/// What is a header of a segment or of a record encodes to the same bytes.
pub fn headers(data: &[u8]) {
    let Some(bytes) = data.first_chunk::<HEADER_LEN>() else {
        return;
    };
    // A checksum is never hit by chance, so the same is tried with the right one.
    for bytes in [*bytes, sealed(*bytes)] {
        if let Some(header) = SegmentHeader::decode(&bytes) {
            assert_eq!(header.encode(), bytes, "{header:?}");
        }
        let epoch = u64_at(&bytes, 8);
        if let Some(header) = RecordHeader::decode(&bytes, epoch) {
            assert_eq!(header.encode(), bytes, "{header:?}");
            assert_eq!(RecordHeader::decode(&bytes, !epoch), None);
            assert_eq!(header.digest().size(), u64::from(header.length));
        }
    }
}

/// What is a footer encodes to the same bytes, and lists records that lie where
/// records can lie.
pub fn footer(data: &[u8]) {
    let Some((body, trailer)) = data.split_last_chunk::<TRAILER_LEN>() else {
        return;
    };
    // No checksum is hit by chance: the same is tried with those that fit, and then
    // with the bytes that are always zero as they come.
    let fitting = fitting_trailer(
        body,
        u64_at(trailer, 16),
        u64_at(trailer, 24) & (MOST_START - 1),
    );
    let mut odd = fitting;
    odd[36..60].copy_from_slice(&trailer[36..60]);
    for trailer in [*trailer, sealed(*trailer), fitting, sealed(odd)] {
        let (epoch, start) = (u64_at(&trailer, 16), u64_at(&trailer, 24));
        if start > MOST_START {
            continue;
        }
        let length = start + data.len() as u64;
        let Some(decoded) = Trailer::decode(&trailer, epoch, length) else {
            continue;
        };
        assert_eq!(Trailer::decode(&trailer, epoch, length + 1), None);
        assert_eq!(Trailer::decode(&trailer, !epoch, length), None);
        let Some(entries) = decoded.decode_entries(body) else {
            continue;
        };
        let again = footer::encode(&entries, epoch, start);
        assert_eq!(again, [body, &trailer].concat(), "{entries:?}");
        for entry in entries {
            assert!(entry.offset as usize >= HEADER_LEN, "{entry:?}");
            assert!(payload_end(&entry) <= start, "{entry:?}");
            assert!(
                entry.kind == RecordKind::Blob || entry.length == 0,
                "{entry:?}"
            );
        }
    }
}

/// Reads a segment file with this content, and goes on as recovery does: what was
/// found is found again, with and without a footer.
pub fn segment_file(content: &[u8]) {
    let mut bytes = segment_header().encode().to_vec();
    bytes.extend_from_slice(content);
    // What resembles a record or a footer gets a right checksum: by chance none has.
    for at in (HEADER_LEN..bytes.len()).step_by(ALIGN as usize) {
        if let Some(header) = bytes[at..].first_chunk_mut::<HEADER_LEN>()
            && header.starts_with(b"ZREC")
        {
            header[8..16].copy_from_slice(&EPOCH.to_le_bytes());
            *header = sealed(*header);
        }
    }
    fit_footer(&mut bytes);
    recover(&open(bytes));
}

/// Makes the end of a segment the footer that it resembles.
fn fit_footer(bytes: &mut [u8]) {
    let (_, content) = bytes.split_at_mut(HEADER_LEN);
    let Some((body, trailer)) = content.split_last_chunk_mut::<TRAILER_LEN>() else {
        return;
    };
    let entries_len = usize::from(trailer[12]) * footer::ENTRY_LEN;
    if let Some(at) = body.len().checked_sub(entries_len)
        && trailer.starts_with(b"ZAKO")
    {
        let start = (HEADER_LEN + at) as u64;
        *trailer = fitting_trailer(&body[at..], EPOCH, start);
    }
}

/// The trailer behind entries that may be none.
fn fitting_trailer(entries: &[u8], epoch: u64, start: u64) -> [u8; TRAILER_LEN] {
    let mut trailer = [0; TRAILER_LEN];
    trailer.copy_from_slice(&footer::encode(&[], epoch, start));
    let count = (entries.len() / footer::ENTRY_LEN) as u32;
    trailer[12..16].copy_from_slice(&count.to_le_bytes());
    trailer[32..36].copy_from_slice(&crc32fast::hash(entries).to_le_bytes());
    sealed(trailer)
}

/// Reads a segment that `plan` describes: records whole, torn and damaged, and
/// bytes that are none. All whole records are found, in order, and no others.
pub fn damaged_segment(plan: &[u8]) {
    let mut written = Written {
        bytes: segment_header().encode().to_vec(),
        whole: Vec::new(),
        inner: Vec::new(),
    };
    let mut plan = plan;
    while let Some((step, rest)) = plan.split_first_chunk::<4>() {
        plan = rest;
        written.step(step);
    }
    if let [torn, ..] = plan {
        written.tear(usize::from(*torn));
    }
    assert_eq!(recover(&open(written.bytes)), written.whole);
}

const EPOCH: u64 = 0x0123_4567_89ab_cdef;

fn segment_header() -> SegmentHeader {
    SegmentHeader {
        id: 7,
        epoch: EPOCH,
        stream: Stream::Probation,
    }
}

/// A segment in the making, and the records that must be found in it.
struct Written {
    bytes: Vec<u8>,
    whole: Vec<FooterEntry>,
    /// Records in the payload of others, which count where the outer one is torn.
    inner: Vec<FooterEntry>,
}

impl Written {
    fn step(&mut self, step: &[u8; 4]) {
        let [what, fill, low, high] = *step;
        let length = usize::from(u16::from_le_bytes([low, high]) % 5_000);
        match what % 8 {
            // A tombstone.
            0 => self.record(RecordKind::Tombstone, &[], true),
            // A record of which the payload is another.
            1 => self.record(RecordKind::Blob, &vec![fill; length], false),
            // A damaged header.
            2 => {
                let at = self.bytes.len() + usize::from(fill) % HEADER_LEN;
                let bit = 1 << (high % 8);
                self.record(RecordKind::Blob, &vec![fill; length], true);
                self.bytes[at] ^= bit;
                self.whole.pop();
            }
            // Bytes of no meaning.
            3 => {
                let garbage = vec![fill; length.next_multiple_of(16)];
                self.bytes.extend(garbage);
            }
            // A record in the payload of another.
            4 => {
                let inner = RecordHeader {
                    kind: RecordKind::Tombstone,
                    epoch: EPOCH,
                    sequence: 1,
                    // Other bytes than the payload's: its entry in the footer must
                    // not make a torn payload whole again.
                    hash: Hash::from_bytes([!fill; 32]),
                    length: 0,
                };
                self.inner
                    .push(entry(&inner, self.bytes.len() + HEADER_LEN));
                let payload = [&inner.encode()[..], &vec![fill; length]].concat();
                self.record(RecordKind::Blob, &payload, true);
            }
            _ => self.record(RecordKind::Blob, &vec![fill; length], true),
        }
    }

    /// Appends a record; one that is not `whole` names another payload.
    fn record(&mut self, kind: RecordKind, payload: &[u8], whole: bool) {
        let mut hash = *zako_digest::hash::bytes(payload).hash().as_bytes();
        if !whole {
            hash[0] ^= 1;
        }
        let header = RecordHeader {
            kind,
            epoch: EPOCH,
            sequence: self.bytes.len() as u64,
            hash: Hash::from_bytes(hash),
            length: payload.len() as u32,
        };
        if whole {
            self.whole.push(entry(&header, self.bytes.len()));
        }
        let end = self.bytes.len() + record_len(payload.len() as u64) as usize;
        self.bytes.extend_from_slice(&header.encode());
        self.bytes.extend_from_slice(payload);
        self.bytes.resize(end, 0);
    }

    /// Loses the last bytes, as a crash does.
    fn tear(&mut self, torn: usize) {
        let length = self.bytes.len().saturating_sub(torn).max(HEADER_LEN);
        self.bytes.truncate(length);
        let is_whole = |entry: &FooterEntry| payload_end(entry) <= length as u64;
        self.whole.retain(is_whole);
        let kept = self.whole.last().map_or(0, payload_end);
        let inner = self.inner.iter().filter(|entry| is_whole(entry));
        self.whole
            .extend(inner.filter(|entry| u64::from(entry.offset) >= kept));
    }
}

fn entry(header: &RecordHeader, offset: usize) -> FooterEntry {
    FooterEntry {
        kind: header.kind,
        hash: header.hash,
        sequence: header.sequence,
        offset: offset as u32,
        length: header.length,
    }
}

fn payload_end(entry: &FooterEntry) -> u64 {
    u64::from(entry.offset) + HEADER_LEN as u64 + u64::from(entry.length)
}

/// Opens a segment file that has a header.
fn open(bytes: Vec<u8>) -> Arc<Segment> {
    let backend = OneFile(Arc::new(MemoryFile(Mutex::new(bytes))));
    match Segment::open(&backend, Path::new("00000007.seg")) {
        Ok(Some(segment)) => segment,
        other => panic!("the header was not read: {other:?}"),
    }
}

/// Does with a segment what opening a store does; the records found.
fn recover(segment: &Segment) -> Vec<FooterEntry> {
    let scanned = must(scan(segment));
    let length = must_io(segment.file.length());
    for entry in &scanned.entries {
        let end = payload_end(entry);
        assert!(end <= length && end <= scanned.end, "{entry:?}");
    }
    if let Some((entries, end)) = must(segment.read_footer()) {
        assert!(end <= length);
        return entries;
    }
    let Scan { entries, end, .. } = scanned;
    must_io(segment.file.set_len(end));
    let length = must(segment.write_footer(&entries, end));
    assert_eq!(must_io(segment.file.length()), length);
    assert_eq!(must(segment.read_footer()), Some((entries.clone(), end)));
    let again = must(scan(segment));
    assert_eq!((again.entries, again.end), (entries.clone(), end));
    entries
}

/// With the checksum in its place.
fn sealed(mut bytes: [u8; HEADER_LEN]) -> [u8; HEADER_LEN] {
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn must<T>(result: crate::cas::Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("memory does not fail: {error}"),
    }
}

fn must_io<T>(result: io::Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("memory does not fail: {error}"),
    }
}

/// A file system with one file.
#[derive(Debug)]
struct OneFile(Arc<MemoryFile>);

#[derive(Debug)]
struct MemoryFile(Mutex<Vec<u8>>);

impl Backend for OneFile {
    fn open(&self, _: &Path, _: Access) -> io::Result<Arc<dyn BackendFile>> {
        Ok(Arc::clone(&self.0) as Arc<dyn BackendFile>)
    }

    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn create(&self, _: &Path) -> io::Result<Arc<dyn BackendFile>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn list(&self, _: &Path) -> io::Result<Vec<Entry>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn lock(&self, _: &Path, _: &str) -> io::Result<Option<Box<dyn Lock>>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn available_bytes(&self, _: &Path) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl BackendFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.0.lock();
        let from = bytes.get(offset as usize..).unwrap_or_default();
        let length = from.len().min(buffer.len());
        buffer[..length].copy_from_slice(&from[..length]);
        Ok(length)
    }

    fn read_now(&self, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.read_at(buffer, offset).map(Some)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut bytes = self.0.lock();
        let mut at = offset as usize;
        for buffer in buffers {
            let end = at + buffer.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[at..end].copy_from_slice(buffer);
            at = end;
        }
        Ok(at - offset as usize)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn start_writeback(&self, _: u64, _: u64) {}

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.lock().resize(length as usize, 0);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.lock().len() as u64)
    }

    fn file(&self) -> Option<&Arc<File>> {
        None
    }
}
