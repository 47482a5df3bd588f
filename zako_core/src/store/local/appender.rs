//! Appending records to one stream's segment: staging, writing, syncing, sealing.
//!
//! What is staged is written by one call; the payloads are not copied. A failed
//! write is cut off again. After a failed sync the segment is poisoned: it is cut
//! to what was synced before, never written again, and another one is begun.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::eviction::Unit;
use super::footer::{ENTRY_LEN, FooterEntry, MOST_RECORDS, TRAILER_LEN};
use super::index::Place;
use super::io::write_all_at;
use super::record::{ALIGN, HEADER_LEN, RecordHeader, RecordKind, Stream, record_len};
use super::segment::Segment;
use super::shared::Shared;
use crate::cas::{CasError, Result};
use crate::{Digest, Hash};

/// Where a staged record will lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Staged {
    pub(super) segment: u32,
    pub(super) offset: u32,
}

/// A record to append.
pub(super) struct Record {
    pub(super) kind: RecordKind,
    pub(super) hash: Hash,
    pub(super) data: Bytes,
    /// A tombstone that is carried over keeps its number; others get the next one.
    pub(super) sequence: Option<u64>,
}

pub(super) struct Appender {
    shared: Arc<Shared>,
    stream: Stream,
    active: Option<Active>,
    /// Segments of this group whose staged records were not stored.
    failed: Vec<(u32, CasError)>,
    /// Segments that ended in this group. Eviction sees them when the group is
    /// published: before that, nothing in the index points to their records.
    ended: Vec<Arc<Segment>>,
}

/// The segment that is being appended to.
pub(super) struct Active {
    segment: Arc<Segment>,
    entries: Vec<FooterEntry>,
    /// The end of the records with the staged ones, with the written ones and with
    /// the synced ones, and how many they are.
    staged: Mark,
    written: Mark,
    synced: Mark,
    /// The end of what is preallocated.
    allocated: u64,
    /// Headers, padding and small payloads that are staged.
    scratch: Vec<u8>,
    pieces: Vec<Piece>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    end: u64,
    entries: usize,
}

enum Piece {
    Scratch(Range<usize>),
    Data(Bytes),
}

/// Payloads up to this are copied beside their header: cheaper than another piece
/// for the kernel to walk.
const COPY_BELOW: usize = 1024;

/// Segments are preallocated by this part of their size at a time: syncing them
/// costs a quarter less then. So much more than is counted may be on disk.
const PREALLOCATED_PART: u64 = 32;

/// What a segment takes on disk beside its records and their entries.
pub(super) const SEGMENT_OVERHEAD: u64 = (HEADER_LEN + TRAILER_LEN) as u64;

/// What a record takes on disk with its entry in the footer.
pub(super) const fn footprint(payload: u64) -> u64 {
    record_len(payload) + ENTRY_LEN as u64
}

impl Staged {
    pub(super) fn place(self) -> Place {
        Place::Record {
            segment: self.segment,
            offset: self.offset,
        }
    }
}

impl Appender {
    pub(super) fn new(shared: Arc<Shared>, stream: Stream, active: Option<Active>) -> Self {
        Self {
            shared,
            stream,
            active,
            failed: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// Stages a record. It is stored when [`write`](Self::write) and, to be
    /// durable, [`sync`](Self::sync) were called and [`failure`](Self::failure)
    /// has none for its segment.
    pub(super) fn stage(&mut self, record: Record) -> Result<Staged> {
        let length = record_len(record.data.len() as u64);
        if let Some(active) = &self.active
            && (active.staged.entries >= MOST_RECORDS
                || active.staged.end + length > self.shared.sizes.segment)
        {
            self.seal();
        }
        let active = match &mut self.active {
            Some(active) => active,
            None => {
                let created = self.shared.segments.create(self.stream);
                let segment = created.inspect_err(|error| self.shared.note_full(error))?;
                self.shared.space.add(SEGMENT_OVERHEAD);
                segment.set_length(SEGMENT_OVERHEAD);
                let end = HEADER_LEN as u64;
                self.active.insert(Active::new(segment, Vec::new(), end))
            }
        };
        let sequence = record
            .sequence
            .unwrap_or_else(|| self.shared.next_sequence());
        Ok(active.stage(record, sequence))
    }

    /// Writes what is staged.
    pub(super) fn write(&mut self) {
        let Some(active) = &mut self.active else {
            return;
        };
        let step = self.shared.sizes.segment / PREALLOCATED_PART;
        let Err(error) = active.write(step) else {
            return;
        };
        self.shared.note_full(&error);
        self.failed.push((active.segment.id, error));
        // Take the torn records off again; a segment that can't even be cut is
        // given up.
        active.roll_back(active.written);
        if active.segment.file.set_len(active.written.end).is_err() {
            self.poison();
        }
    }

    /// Makes durable what is written.
    pub(super) fn sync(&mut self) {
        let Some(active) = &mut self.active else {
            return;
        };
        if active.synced.end == active.written.end {
            return;
        }
        match active.segment.file.sync_data() {
            Ok(()) => active.synced = active.written,
            Err(error) => {
                let error = CasError::io("syncing a segment", &active.segment.path, error);
                self.shared.note_full(&error);
                self.failed.push((active.segment.id, error));
                self.poison();
            }
        }
    }

    /// Why what was staged in this segment since [`end_group`](Self::end_group) is
    /// not stored.
    pub(super) fn failure(&self, segment: u32) -> Option<&CasError> {
        self.failed
            .iter()
            .find(|(id, _)| *id == segment)
            .map(|(_, error)| error)
    }

    /// The group is published.
    pub(super) fn end_group(&mut self) {
        self.failed.clear();
        for segment in self.ended.drain(..) {
            segment.set_sealed(true);
            self.shared.enqueue(self.stream, Unit::Segment(segment.id));
        }
    }

    /// Ends the segment: writes and syncs what is staged, and the footer. The next
    /// record begins another.
    pub(super) fn seal(&mut self) {
        self.write();
        self.sync();
        let Some(active) = self.active.take() else {
            return;
        };
        let segment = &active.segment;
        // Before the footer is synced, and this with it.
        if active.allocated > active.written.end
            && let Err(error) = segment.file.trim()
        {
            tracing::warn!(%error, "a segment keeps room that it doesn't need");
        }
        if let Err(error) = segment.write_footer(&active.entries, active.written.end) {
            // Without a footer it is scanned when the store opens.
            tracing::warn!(%error, "a segment was left without a footer");
            let _ = segment.file.set_len(active.written.end);
        }
        self.ended.push(active.segment);
    }

    /// Gives up the segment: nothing behind what was synced is trusted.
    fn poison(&mut self) {
        let Some(active) = self.active.take() else {
            return;
        };
        let segment = &active.segment;
        tracing::error!(
            segment = segment.id,
            "a segment could not be synced; what was not durable in it is dropped"
        );
        for entry in &active.entries[active.synced.entries..] {
            let place = Place::Record {
                segment: segment.id,
                offset: entry.offset,
            };
            if entry.kind == RecordKind::Blob {
                self.shared.forget(&entry.digest(), place);
            }
        }
        // If this fails too, the records still have to pass their hash when the
        // store opens.
        let cut = segment.file.set_len(active.synced.end);
        if let Err(error) = cut.and_then(|()| segment.file.sync_data()) {
            tracing::error!(segment = segment.id, %error, "its end could not be cut off either");
        }
        // What was not published yet is still counted by its writers' reservations.
        let kept = SEGMENT_OVERHEAD + entries_footprint(&active.entries[..active.synced.entries]);
        let lost = segment.length().saturating_sub(kept);
        self.shared.space.free(lost);
        segment.set_length(segment.length() - lost);
        self.ended.push(active.segment);
    }
}

impl Active {
    /// Goes on with a segment whose records end at `end` and are synced.
    pub(super) fn new(segment: Arc<Segment>, entries: Vec<FooterEntry>, end: u64) -> Self {
        segment.set_sealed(false);
        let mark = Mark {
            end,
            entries: entries.len(),
        };
        Self {
            segment,
            entries,
            staged: mark,
            written: mark,
            synced: mark,
            allocated: 0,
            scratch: Vec::new(),
            pieces: Vec::new(),
        }
    }

    fn stage(&mut self, record: Record, sequence: u64) -> Staged {
        let Record {
            kind, hash, data, ..
        } = record;
        // Segments are at most 256 MiB, payloads below 16 MiB.
        let offset = self.staged.end as u32;
        let length = data.len() as u32;
        let header = RecordHeader {
            kind,
            epoch: self.segment.epoch,
            sequence,
            hash,
            length,
        };
        let begin = self.scratch.len();
        self.scratch.extend_from_slice(&header.encode());
        let padding = (data.len() as u64).next_multiple_of(ALIGN) as usize - data.len();
        if data.len() < COPY_BELOW {
            self.scratch.extend_from_slice(&data);
            self.scratch.resize(self.scratch.len() + padding, 0);
            self.push_scratch(begin);
        } else {
            self.push_scratch(begin);
            self.pieces.push(Piece::Data(data));
            let begin = self.scratch.len();
            self.scratch.resize(begin + padding, 0);
            self.push_scratch(begin);
        }
        self.entries.push(FooterEntry {
            kind,
            hash,
            sequence,
            offset,
            length,
        });
        self.segment.note_sequence(sequence);
        self.staged.end += record_len(u64::from(length));
        self.staged.entries += 1;
        Staged {
            segment: self.segment.id,
            offset,
        }
    }

    /// Adds the scratch bytes from `begin` on, to the piece before if that is
    /// scratch as well.
    fn push_scratch(&mut self, begin: usize) {
        let end = self.scratch.len();
        match self.pieces.last_mut() {
            Some(Piece::Scratch(range)) if range.end == begin => range.end = end,
            _ if begin == end => {}
            _ => self.pieces.push(Piece::Scratch(begin..end)),
        }
    }

    /// Writes what is staged; preallocates `step` bytes where that begins.
    fn write(&mut self, step: u64) -> Result<()> {
        if self.pieces.is_empty() {
            return Ok(());
        }
        if self.staged.end > self.allocated {
            let (begin, length) = (self.written.end, self.staged.end - self.written.end);
            // Without it the writes take their room, or tell that there is none.
            let taken = self.segment.file.preallocate(begin, length + step);
            self.allocated = if taken {
                self.staged.end + step
            } else {
                u64::MAX
            };
        }
        let mut slices: Vec<IoSlice<'_>> = self
            .pieces
            .iter()
            .map(|piece| match piece {
                Piece::Scratch(range) => IoSlice::new(&self.scratch[range.clone()]),
                Piece::Data(data) => IoSlice::new(data),
            })
            .collect();
        write_all_at(&*self.segment.file, &mut slices, self.written.end)
            .map_err(|error| CasError::io("appending to a segment", &self.segment.path, error))?;
        self.written = self.staged;
        self.pieces.clear();
        self.scratch.clear();
        // A rare large group must not keep its memory for ever.
        self.scratch.shrink_to(1 << 20);
        Ok(())
    }

    fn roll_back(&mut self, mark: Mark) {
        self.entries.truncate(mark.entries);
        self.staged = mark;
        // Its caller cuts the file.
        self.allocated = 0;
        self.pieces.clear();
        self.scratch.clear();
    }
}

fn entries_footprint(entries: &[FooterEntry]) -> u64 {
    entries
        .iter()
        .map(|entry| footprint(u64::from(entry.length)))
        .sum()
}

impl Record {
    /// A blob's record.
    pub(super) fn blob(digest: &Digest, data: Bytes) -> Self {
        Self {
            kind: RecordKind::Blob,
            hash: *digest.hash(),
            data,
            sequence: None,
        }
    }

    /// A record that voids earlier ones of the blob.
    pub(super) fn tombstone(hash: Hash, sequence: Option<u64>) -> Self {
        Self {
            kind: RecordKind::Tombstone,
            hash,
            data: Bytes::new(),
            sequence,
        }
    }
}
