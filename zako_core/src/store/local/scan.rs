//! Reading a segment record by record, where it has no footer: after a crash.

use std::path::Path;

use super::footer::{FooterEntry, MOST_RECORDS};
use super::io::{BackendFile, read_exact_at};
use super::record::{ALIGN, HEADER_LEN, RecordHeader, RecordKind, record_len};
use super::segment::Segment;
use crate::cas::{CasError, Result};

/// What a scan found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The records whose payload has the hash of its header.
    pub(super) entries: Vec<FooterEntry>,
    /// The end of the last of them.
    pub(super) end: u64,
    /// Whole records whose payload is something else: torn by the crash, or
    /// damaged since.
    pub(super) damaged: u64,
}

/// Reads all records of a segment and hashes them.
///
/// Where no record is, it looks for the next one at every multiple of 16: a
/// damaged header must not take those behind it along. A record that a payload
/// only pretends to be needs the segment's random epoch and would have to hash
/// right, and then it is what it says.
pub(super) fn scan(segment: &Segment) -> Result<Scan> {
    let length = segment
        .file
        .length()
        .map_err(|error| CasError::io("scanning a segment", &segment.path, error))?;
    let mut window = Window {
        file: &*segment.file,
        path: &segment.path,
        length,
        start: 0,
        bytes: Vec::new(),
    };
    let mut scan = Scan {
        end: HEADER_LEN as u64,
        ..Scan::default()
    };
    let mut at = scan.end;
    while at + HEADER_LEN as u64 <= length && scan.entries.len() < MOST_RECORDS {
        let mut header = [0; HEADER_LEN];
        header.copy_from_slice(window.read(at, HEADER_LEN)?);
        let Some(header) = RecordHeader::decode(&header, segment.epoch) else {
            at += ALIGN;
            continue;
        };
        let payload = u64::from(header.length);
        let payload_at = at + HEADER_LEN as u64;
        let whole = payload_at + payload <= length
            && match header.kind {
                RecordKind::Tombstone => true,
                RecordKind::Blob => {
                    let data = window.read(payload_at, header.length as usize)?;
                    zako_digest::hash::bytes(data) == header.digest()
                }
            };
        if !whole {
            scan.damaged += 1;
            // Its length may be right and the next record behind it, or it may
            // have overwritten nothing yet: look everywhere.
            at += ALIGN;
            continue;
        }
        scan.entries.push(FooterEntry {
            kind: header.kind,
            hash: header.hash,
            sequence: header.sequence,
            // Segments are at most 256 MiB.
            offset: at as u32,
            length: header.length,
        });
        at += record_len(payload);
        scan.end = at;
    }
    Ok(scan)
}

/// A part of the file in memory, moved forward as the scan goes.
struct Window<'a> {
    file: &'a dyn BackendFile,
    path: &'a Path,
    length: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    const STEP: usize = 4 << 20;

    /// The bytes at `at`, all of which lie in the file.
    fn read(&mut self, at: u64, length: usize) -> Result<&[u8]> {
        let end = self.start + self.bytes.len() as u64;
        if at < self.start || at + length as u64 > end {
            let step = length.max(Self::STEP) as u64;
            self.bytes.resize(step.min(self.length - at) as usize, 0);
            self.start = at;
            read_exact_at(self.file, &mut self.bytes, at)
                .map_err(|error| CasError::io("scanning a segment", self.path, error))?;
        }
        let from = (at - self.start) as usize;
        Ok(&self.bytes[from..from + length])
    }
}
