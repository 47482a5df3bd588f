//! Segment files: what is on disk of them, and the table of all.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::RwLock;

use super::footer::{self, ENTRY_LEN, FooterEntry, TRAILER_LEN, Trailer};
use super::io::{Access, Backend, BackendFile, read_exact_at, write_all_at};
use super::record::{HEADER_LEN, SegmentHeader, Stream};
use crate::cas::{CasError, Result};

/// One segment file. Whoever holds it can read from it, even after it was removed.
pub(super) struct Segment {
    pub(super) id: u32,
    pub(super) epoch: u64,
    pub(super) stream: Stream,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn BackendFile>,
    /// Bytes of the file, as counted in the store's space.
    length: AtomicU64,
    /// Bytes of records that the index points to.
    live: AtomicU64,
    sealed: AtomicBool,
    /// The lowest sequence number of a record in it.
    first_sequence: AtomicU64,
    /// Bytes of tombstones that were still in use when somebody looked.
    tombstones: AtomicU64,
    /// It may have whole records that neither the index points to nor a tombstone
    /// voids: those of evicted blobs, and second copies.
    strays: AtomicBool,
}

/// All segments, by number.
#[derive(Debug)]
pub(super) struct SegmentTable {
    dir: PathBuf,
    backend: Arc<dyn Backend>,
    segments: RwLock<HashMap<u32, Arc<Segment>>>,
    next: AtomicU32,
}

/// The bytes of a footer that are read at once: whole entries.
const FOOTER_STEP: usize = 1024 * ENTRY_LEN;

impl Segment {
    fn new(
        header: SegmentHeader,
        path: PathBuf,
        file: Arc<dyn BackendFile>,
        length: u64,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: header.id,
            epoch: header.epoch,
            stream: header.stream,
            path,
            file,
            length: AtomicU64::new(length),
            live: AtomicU64::new(0),
            sealed: AtomicBool::new(false),
            first_sequence: AtomicU64::new(u64::MAX),
            tombstones: AtomicU64::new(0),
            strays: AtomicBool::new(false),
        })
    }

    /// Opens a segment file; `None` if it has no header of a segment.
    pub(super) fn open(backend: &dyn Backend, path: &Path) -> Result<Option<Arc<Self>>> {
        let wrap = |error| CasError::io("opening a segment", path, error);
        let file = backend.open(path, Access::ReadWrite).map_err(wrap)?;
        let length = file.length().map_err(wrap)?;
        if length < HEADER_LEN as u64 {
            return Ok(None);
        }
        let mut bytes = [0; HEADER_LEN];
        read_exact_at(&*file, &mut bytes, 0).map_err(wrap)?;
        Ok(SegmentHeader::decode(&bytes)
            .map(|header| Self::new(header, path.to_owned(), file, length)))
    }

    /// The entries of a sealed segment and the end of its records; `None` if it
    /// has no whole footer.
    pub(super) fn read_footer(&self) -> Result<Option<(Vec<FooterEntry>, u64)>> {
        let Some(trailer) = self.read_trailer()? else {
            return Ok(None);
        };
        // Trailers have a checksum, and list at most MOST_RECORDS.
        let mut entries = Vec::with_capacity(trailer.count as usize);
        let whole = self.read_entries(&trailer, |entry| entries.push(entry))?;
        Ok(whole.then_some((entries, trailer.start)))
    }

    /// The end of a footer; `None` if the segment doesn't end in one.
    pub(super) fn read_trailer(&self) -> Result<Option<Trailer>> {
        let wrap = |error| CasError::io("reading a segment's footer", &self.path, error);
        let length = self.file.length().map_err(wrap)?;
        let Some(trailer_at) = length.checked_sub(TRAILER_LEN as u64) else {
            return Ok(None);
        };
        let mut trailer = [0; TRAILER_LEN];
        read_exact_at(&*self.file, &mut trailer, trailer_at).map_err(wrap)?;
        Ok(Trailer::decode(&trailer, self.epoch, length))
    }

    /// Reads the entries of a footer piece by piece, so that it takes no memory.
    ///
    /// Whether the footer is whole. If not, what `each` was given is not to be
    /// believed.
    pub(super) fn read_entries(
        &self,
        trailer: &Trailer,
        mut each: impl FnMut(FooterEntry),
    ) -> Result<bool> {
        let wrap = |error| CasError::io("reading a segment's footer", &self.path, error);
        let mut buffer = vec![0; trailer.entries_len().min(FOOTER_STEP)];
        let mut entries = trailer.entries();
        let (mut at, mut left) = (trailer.start, trailer.entries_len());
        while left > 0 {
            let piece = &mut buffer[..left.min(FOOTER_STEP)];
            read_exact_at(&*self.file, piece, at).map_err(wrap)?;
            for entry in entries.next(piece) {
                match entry {
                    Some(entry) => each(entry),
                    None => return Ok(false),
                }
            }
            at += piece.len() as u64;
            left -= piece.len();
        }
        Ok(entries.are_whole())
    }

    /// Writes the footer behind the records and makes all of it durable; the new
    /// length of the file.
    pub(super) fn write_footer(&self, entries: &[FooterEntry], end: u64) -> Result<u64> {
        let bytes = footer::encode(entries, self.epoch, end);
        let wrap = |error| CasError::io("sealing a segment", &self.path, error);
        write_all_at(&*self.file, &mut [std::io::IoSlice::new(&bytes)], end).map_err(wrap)?;
        self.file.sync_data().map_err(wrap)?;
        Ok(end + bytes.len() as u64)
    }

    /// Bytes of the file.
    pub(super) fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }

    pub(super) fn set_length(&self, length: u64) {
        self.length.store(length, Ordering::Relaxed);
    }

    /// Bytes of records that the index points to.
    pub(super) fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// The index points to `bytes` more of this segment.
    pub(super) fn add_live(&self, bytes: u64) {
        self.live.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The index points to `bytes` less of this segment.
    pub(super) fn sub_live(&self, bytes: u64) {
        let before = self.live.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "segment {}: {bytes} of {before}", self.id);
    }

    /// Whether nothing will be appended any more.
    pub(super) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    pub(super) fn set_sealed(&self, sealed: bool) {
        self.sealed.store(sealed, Ordering::Release);
    }

    /// A record with this sequence number is in it.
    pub(super) fn note_sequence(&self, sequence: u64) {
        self.first_sequence.fetch_min(sequence, Ordering::Relaxed);
    }

    /// The records noted so far were none.
    pub(super) fn forget_sequences(&self) {
        self.first_sequence.store(u64::MAX, Ordering::Relaxed);
    }

    /// Bytes that would have to be moved to free it, as far as is known.
    pub(super) fn in_use(&self) -> u64 {
        self.live() + self.tombstones.load(Ordering::Relaxed)
    }

    /// So many bytes of its tombstones are in use.
    pub(super) fn set_tombstones(&self, bytes: u64) {
        self.tombstones.store(bytes, Ordering::Relaxed);
    }

    /// From now on it may have strays, until it is removed.
    pub(super) fn note_strays(&self) {
        self.strays.store(true, Ordering::Release);
    }

    /// Whether it may have a record older than this sequence number.
    pub(super) fn has_older(&self, sequence: u64) -> bool {
        self.first_sequence.load(Ordering::Relaxed) < sequence
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({})", self.path.display())
    }
}

impl SegmentTable {
    pub(super) fn new(dir: PathBuf, backend: Arc<dyn Backend>) -> Self {
        Self {
            dir,
            backend,
            segments: RwLock::default(),
            next: AtomicU32::new(1),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn by_id(&self, id: u32) -> Option<Arc<Segment>> {
        self.segments.read().get(&id).cloned()
    }

    /// Whether a blob that the index doesn't have may be found when the store is
    /// opened again.
    pub(super) fn have_strays(&self) -> bool {
        let segments = self.segments.read();
        segments
            .values()
            .any(|segment| segment.strays.load(Ordering::Acquire))
    }

    pub(super) fn all(&self) -> Vec<Arc<Segment>> {
        self.segments.read().values().cloned().collect()
    }

    /// Takes up a segment that was found on disk.
    pub(super) fn add(&self, segment: Arc<Segment>) {
        self.next
            .fetch_max(segment.id.saturating_add(1), Ordering::Relaxed);
        self.segments.write().insert(segment.id, segment);
    }

    /// Begins a segment: a durable file with a header.
    pub(super) fn create(&self, stream: Stream) -> Result<Arc<Segment>> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{id:08x}.seg"));
        let wrap = |error| CasError::io("beginning a segment", &path, error);
        let header = SegmentHeader {
            id,
            epoch: rand::random(),
            stream,
        };
        let file = self.backend.create(&path).map_err(wrap)?;
        // The header is durable before anything is appended: from then on a segment
        // without one is damaged, and not just begun.
        let written = write_all_at(&*file, &mut [std::io::IoSlice::new(&header.encode())], 0)
            .and_then(|()| file.sync_data())
            .and_then(|()| self.backend.sync_dir(&self.dir));
        if let Err(error) = written {
            let _ = self.backend.remove(&path);
            return Err(wrap(error));
        }
        let segment = Segment::new(header, path, file, HEADER_LEN as u64);
        self.add(Arc::clone(&segment));
        Ok(segment)
    }

    /// Removes a segment and its file. Readers that hold it go on.
    ///
    /// The removal is durable when the segment leaves the table: from then on
    /// tombstones of its records may be dropped, and it must not come back.
    pub(super) fn remove(&self, segment: &Segment) -> Result<()> {
        match self.backend.remove(&segment.path) {
            // An earlier try got this far.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
        .and_then(|()| self.backend.sync_dir(&self.dir))
        .map_err(|error| CasError::io("removing a segment", &segment.path, error))?;
        self.segments.write().remove(&segment.id);
        Ok(())
    }
}
