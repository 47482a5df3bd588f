//! Opening a store: the index is built anew from what is on disk.
//!
//! Sealed segments are known by their footers; the rest is scanned and re-hashed.
//! Nothing is believed that a crash could have left half done.
//!
//! [`prepare`] locks the folder and takes stock of what it must know at once;
//! [`contents`] rebuilds the index, while callers wait for it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::appender::Active;
use super::eviction::{Ghosts, Queues, Unit};
use super::footer::{ENTRY_LEN, FooterEntry, MOST_RECORDS, TRAILER_LEN, Trailer};
use super::index::{Index, MOST_BLOB, Place};
use super::io::Backend;
use super::large::{LargeFiles, disk_bytes};
use super::leases::LeaseLedger;
use super::meta;
use super::opening::Opening;
use super::options::{Sizes, StoreOptions};
use super::partial::Partials;
use super::quarantine::Quarantine;
use super::record::{RecordKind, Stream, record_len};
use super::scan::scan;
use super::segment::{Segment, SegmentTable};
use super::shared::{BACKLOG_KIB, Shared};
use super::space::Space;
use crate::cas::{CasError, ErrorKind, Result};
use crate::{Digest, Hash};

/// The segments that have room, to go on with.
pub(super) struct OpenSegments {
    pub(super) probation: Option<Active>,
    pub(super) main: Option<Active>,
}

/// A segment with what is known to be in it.
struct Loaded {
    segment: Arc<Segment>,
    listed: Listed,
    /// How many records it has.
    count: usize,
    /// The end of them.
    end: u64,
}

/// Where a segment's entries are.
enum Listed {
    /// In its footer, which was whole when it was read first.
    Footer(Trailer),
    /// In memory: a scan found them, and could not write a footer.
    Scanned(Vec<FooterEntry>),
}

/// What all segments together say.
#[derive(Default)]
struct Seen {
    /// The records of blobs.
    blobs: usize,
    last_sequence: u64,
    /// The latest tombstone of each blob that has one.
    tombstones: HashMap<Hash, u64>,
}

/// Ghosts that are remembered, at most.
const MOST_GHOSTS: usize = 1 << 17;

/// The bytes that those had, at most, in percent of the cap: about as many as the
/// main stream holds.
const GHOSTS_PERCENT: u64 = 90;

/// Locks the store in this folder, or makes one.
pub(super) fn prepare(root: &Path, options: StoreOptions) -> Result<Arc<Shared>> {
    let backend = Arc::clone(&options.backend);
    let wrap = |error| CasError::io("opening the store", root, error);
    backend.create_dir_all(root).map_err(wrap)?;
    let lock_path = root.join("lock");
    let note = format!("{}\n", std::process::id());
    let lock = backend
        .lock(&lock_path, &note)
        .map_err(|error| CasError::io("locking the store", &lock_path, error))?
        .ok_or_else(|| {
            CasError::new(
                ErrorKind::Locked,
                "another process has the store open; the file says its number",
            )
            .with_path(&lock_path)
        })?;
    meta::open_or_create(&*backend, root)?;

    let dir = |name: &str| -> Result<PathBuf> {
        let path = root.join(name);
        let wrap = |error| CasError::io("making a folder of the store", &path, error);
        backend.create_dir_all(&path).map_err(wrap)?;
        Ok(path)
    };
    let large = LargeFiles::new(dir("large")?, Arc::clone(&backend));
    let mut made = false;
    for folder in large.folders() {
        if backend.list(&folder).is_err() {
            backend
                .create_dir_all(&folder)
                .map_err(|error| CasError::io("making a folder of the store", &folder, error))?;
            made = true;
        }
    }
    if made {
        backend.sync_dir(&root.join("large")).map_err(wrap)?;
    }
    let segments = SegmentTable::new(dir("segments")?, Arc::clone(&backend));
    let (partial, quarantine) = (dir("partial")?, dir("quarantine")?);
    backend.sync_dir(root).map_err(wrap)?;

    let free_and_own = match options.max_bytes {
        Some(_) => 0,
        None => {
            let free = backend.available_bytes(root).map_err(wrap)?;
            free.saturating_add(own_bytes(&*backend, segments.dir(), &large)?)
        }
    };
    let sizes = Sizes::of(&options, free_and_own);
    let space = Space::new(sizes.cap, sizes.segment);
    let ghosts = Ghosts::new(MOST_GHOSTS).with_most_bytes(sizes.cap / 100 * GHOSTS_PERCENT);
    let quarantine = Quarantine::open(quarantine, Arc::clone(&backend), Arc::clone(&space))?;
    let partials = Partials::new(partial, Arc::clone(&backend), Arc::clone(&space));
    partials.recover()?;

    Ok(Arc::new(Shared {
        root: root.to_owned(),
        options,
        sizes,
        backend,
        index: Index::new(),
        ledger: LeaseLedger::new(),
        segments,
        large,
        partials,
        quarantine,
        space,
        queues: Mutex::new(Queues::default()),
        ghosts: Mutex::new(ghosts),
        pool: Arc::default(),
        backlog: Arc::new(Semaphore::new(BACKLOG_KIB)),
        held_for_steps: Arc::default(),
        sequence: AtomicU64::new(1),
        file_number: AtomicU32::new(1),
        closed: AtomicBool::new(false),
        opening: Opening::default(),
        scrubber: Mutex::default(),
        _lock: lock,
    }))
}

/// Bytes of the store's files, about: for the default cap only.
fn own_bytes(backend: &dyn Backend, segments: &Path, large: &LargeFiles) -> Result<u64> {
    let mut own = 0u64;
    for folder in large.folders().chain([segments.to_owned()]) {
        let entries = backend
            .list(&folder)
            .map_err(|error| CasError::io("listing the store", &folder, error))?;
        own += entries.iter().map(|entry| entry.length).sum::<u64>();
    }
    Ok(own)
}

/// Rebuilds the index from what is on disk.
pub(super) fn contents(shared: &Shared) -> Result<OpenSegments> {
    let mut units: Vec<(SystemTime, Stream, Unit)> = Vec::new();
    recover_large(shared, &mut units)?;

    // Twice through the footers, since a tombstone voids records of any segment;
    // to keep them in memory meanwhile would cost as much again as the index.
    let mut seen = Seen::default();
    let mut loaded = load_segments(shared, &mut units, &mut seen)?;
    shared
        .sequence
        .store(seen.last_sequence + 1, Ordering::Relaxed);
    shared.index.reserve(seen.blobs);
    for loaded in &loaded {
        index_segment(shared, loaded, &seen.tombstones)?;
        shared.opening.part();
    }
    drop(seen);

    shared
        .partials
        .discard_where(|digest| shared.index.contains(digest));

    let probation = take_open_segment(shared, &mut loaded, &mut units, Stream::Probation)?;
    let main = take_open_segment(shared, &mut loaded, &mut units, Stream::Main)?;
    for rest in &loaded {
        rest.segment.set_sealed(true);
    }
    units.sort_by_key(|(modified, ..)| *modified);
    for (_, stream, unit) in units {
        shared.enqueue(stream, unit);
    }
    Ok(OpenSegments { probation, main })
}

fn recover_large(shared: &Shared, units: &mut Vec<(SystemTime, Stream, Unit)>) -> Result<()> {
    for folder in shared.large.folders() {
        let entries = shared
            .backend
            .list(&folder)
            .map_err(|error| CasError::io("listing large blobs", &folder, error))?;
        if !entries.is_empty() {
            shared
                .backend
                .sync_dir(&folder)
                .map_err(|error| CasError::io("syncing large blobs", &folder, error))?;
        }
        for entry in entries {
            let path = folder.join(&entry.name);
            let digest = entry.name.parse::<Digest>().ok().filter(|digest| {
                digest.size() == entry.length
                    && digest.size() <= MOST_BLOB
                    && shared.large.path(digest) == path
            });
            let Some(digest) = digest else {
                tracing::warn!(path = %path.display(), "a file that is no blob is put into quarantine");
                shared.quarantine.take_stray(&path, entry.length)?;
                continue;
            };
            let number = shared.file_number.fetch_add(1, Ordering::Relaxed);
            shared.space.add(disk_bytes(digest.size()));
            shared.publish(&digest, Place::File { number });
            let unit = Unit::File { digest, number };
            units.push((entry.modified, Stream::Probation, unit));
        }
    }
    Ok(())
}

fn load_segments(
    shared: &Shared,
    units: &mut Vec<(SystemTime, Stream, Unit)>,
    seen: &mut Seen,
) -> Result<Vec<Loaded>> {
    let dir = shared.segments.dir();
    let files = shared
        .backend
        .list(dir)
        .map_err(|error| CasError::io("listing segments", dir, error))?;
    // A killed process may have left names that are not on disk yet; what is built
    // on them now must not lose them.
    shared
        .backend
        .sync_dir(dir)
        .map_err(|error| CasError::io("syncing the segments' folder", dir, error))?;
    let mut all = Vec::with_capacity(files.len());
    // Each is read twice.
    shared.opening.expect(2 * files.len() as u64);
    for file in files {
        shared.opening.part();
        let path = dir.join(&file.name);
        let Some(segment) = Segment::open(&*shared.backend, &path)? else {
            if file.length <= super::record::HEADER_LEN as u64 {
                // A crash came while it was begun; nothing can be in it.
                let _ = shared.backend.remove(&path);
            } else {
                tracing::warn!(path = %path.display(), "a file that is no segment is put into quarantine");
                shared.quarantine.take_stray(&path, file.length)?;
            }
            continue;
        };
        let loaded = load(segment, seen)?;
        let unit = Unit::Segment(loaded.segment.id);
        units.push((file.modified, loaded.segment.stream, unit));
        shared.segments.add(Arc::clone(&loaded.segment));
        all.push(loaded);
    }
    all.sort_by_key(|loaded| loaded.segment.id);
    Ok(all)
}

fn load(segment: Arc<Segment>, seen: &mut Seen) -> Result<Loaded> {
    if let Some(trailer) = segment.read_trailer()? {
        let mut its = Seen::default();
        if segment.read_entries(&trailer, |entry| its.note(&segment, &entry))? {
            seen.merge(its);
            return Ok(Loaded {
                count: trailer.count as usize,
                end: trailer.start,
                listed: Listed::Footer(trailer),
                segment,
            });
        }
        segment.forget_sequences();
    }
    let found = scan(&segment)?;
    if found.damaged > 0 {
        tracing::warn!(
            segment = segment.id,
            records = found.damaged,
            "a segment without a footer has records that are not whole"
        );
    }
    let wrap = |error| CasError::io("recovering a segment", &segment.path, error);
    if segment.file.length().map_err(wrap)? != found.end {
        segment.file.set_len(found.end).map_err(wrap)?;
    }
    // A process that was killed may have left room behind the end.
    segment.file.trim().map_err(wrap)?;
    // What was just read may be in memory only: a record that was written
    // and not synced when the process was killed.
    segment.file.sync_data().map_err(wrap)?;
    for entry in &found.entries {
        seen.note(&segment, entry);
    }
    // A footer makes the next opening fast. On a full disk the store has to
    // open all the same, to make room.
    let written = segment
        .write_footer(&found.entries, found.end)
        .inspect_err(|error| {
            tracing::warn!(%error, "a segment was left without a footer");
            let _ = segment.file.set_len(found.end);
        });
    let trailer = match written {
        Ok(_) => segment.read_trailer()?,
        Err(_) => None,
    };
    Ok(Loaded {
        count: found.entries.len(),
        end: found.end,
        listed: match trailer {
            Some(trailer) => Listed::Footer(trailer),
            None => Listed::Scanned(found.entries),
        },
        segment,
    })
}

impl Seen {
    fn note(&mut self, segment: &Segment, entry: &FooterEntry) {
        segment.note_sequence(entry.sequence);
        self.last_sequence = self.last_sequence.max(entry.sequence);
        match entry.kind {
            RecordKind::Blob => self.blobs += 1,
            RecordKind::Tombstone => self.bury(entry.hash, entry.sequence),
        }
    }

    fn bury(&mut self, hash: Hash, sequence: u64) {
        let latest = self.tombstones.entry(hash).or_default();
        *latest = sequence.max(*latest);
    }

    fn merge(&mut self, other: Self) {
        self.blobs += other.blobs;
        self.last_sequence = self.last_sequence.max(other.last_sequence);
        for (hash, sequence) in other.tombstones {
            self.bury(hash, sequence);
        }
    }
}

impl Loaded {
    /// Each of its entries.
    fn for_each(&self, mut each: impl FnMut(&FooterEntry)) -> Result<()> {
        match &self.listed {
            Listed::Scanned(entries) => entries.iter().for_each(each),
            Listed::Footer(trailer) => {
                if !self.segment.read_entries(trailer, |entry| each(&entry))? {
                    let text = "a footer was read twice and differed; opening again scans it";
                    let error = CasError::new(ErrorKind::Io, text);
                    return Err(error.with_path(&self.segment.path));
                }
            }
        }
        Ok(())
    }
}

fn index_segment(shared: &Shared, loaded: &Loaded, tombstones: &HashMap<Hash, u64>) -> Result<()> {
    let segment = &loaded.segment;
    // From where the records end, not from their lengths: damaged ones between them
    // take their place, too.
    let length = loaded.end + (loaded.count * ENTRY_LEN + TRAILER_LEN) as u64;
    loaded.for_each(|entry| {
        let buried = tombstones
            .get(&entry.hash)
            .is_some_and(|sequence| *sequence > entry.sequence);
        if entry.kind != RecordKind::Blob || buried {
            return;
        }
        let digest = entry.digest();
        let place = Place::Record {
            segment: segment.id,
            offset: entry.offset,
        };
        if shared.index.insert_absent(&digest, place) {
            segment.add_live(record_len(digest.size()));
        } else {
            // A second copy, left by a move that a crash interrupted: the same bytes.
            segment.note_strays();
        }
    })?;
    segment.set_length(length);
    shared.space.add(length);
    Ok(())
}

/// The newest segment of a stream, to append to, if it has room worth the while.
fn take_open_segment(
    shared: &Shared,
    loaded: &mut Vec<Loaded>,
    units: &mut Vec<(SystemTime, Stream, Unit)>,
    stream: Stream,
) -> Result<Option<Active>> {
    let newest = loaded
        .iter()
        .rposition(|loaded| loaded.segment.stream == stream);
    let Some(newest) = newest else {
        return Ok(None);
    };
    if loaded[newest].end > shared.sizes.segment / 2 || loaded[newest].count > MOST_RECORDS / 2 {
        return Ok(None);
    }
    let mut entries = Vec::with_capacity(loaded[newest].count);
    loaded[newest].for_each(|entry| entries.push(*entry))?;
    let Loaded { segment, end, .. } = loaded.remove(newest);
    // The footer goes first: what is appended must not be read as one.
    if let Err(error) = segment.file.set_len(end) {
        tracing::warn!(segment = segment.id, %error, "a segment can't be appended to");
        segment.set_sealed(true);
        return Ok(None);
    }
    let unit = Unit::Segment(segment.id);
    units.retain(|(_, _, other)| *other != unit);
    Ok(Some(Active::new(segment, entries, end)))
}
