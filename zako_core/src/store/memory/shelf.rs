//! Blobs and partial uploads under one bound, with eviction.

use std::collections::{HashMap, VecDeque};

use tokio::time::Instant;

use super::PARTIAL_KEPT;
use super::chunks::Chunks;
use crate::Digest;
use crate::cas::{CasError, ErrorKind, GcReport, Result, Stored, Usage};
use crate::store::upload_name::UploadName;

/// What an entry takes beside its bytes, about.
pub(super) const OVERHEAD: u64 = 192;

/// All that a memory store holds.
pub(super) struct Shelf {
    max_bytes: u64,
    /// Bytes and overhead of blobs, partials and running uploads.
    used: u64,
    blob_bytes: u64,
    writer_bytes: u64,
    blobs: HashMap<Digest, Entry>,
    partials: HashMap<UploadName, Partial>,
    /// Second chance: the oldest is in front; one whose number is not its
    /// entry's is gone already.
    queue: VecDeque<Queued>,
    next_number: u64,
    /// Set when all was found leased: until then there is nothing to look for.
    nothing_before: Option<Instant>,
}

struct Entry {
    chunks: Chunks,
    number: u64,
    used: bool,
    leased_until: Option<Instant>,
}

struct Partial {
    chunks: Chunks,
    number: u64,
    parked: Instant,
}

struct Queued {
    what: Queueable,
    number: u64,
}

#[derive(Clone, Copy)]
enum Queueable {
    Blob(Digest),
    Partial(UploadName),
}

impl Shelf {
    pub(super) fn new(max_bytes: u64) -> Self {
        Self {
            max_bytes,
            used: 0,
            blob_bytes: 0,
            writer_bytes: 0,
            blobs: HashMap::new(),
            partials: HashMap::new(),
            queue: VecDeque::new(),
            next_number: 0,
            nothing_before: None,
        }
    }

    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.blobs.contains_key(digest)
    }

    pub(super) fn digests(&self) -> Vec<Digest> {
        self.blobs.keys().copied().collect()
    }

    /// The bytes of a blob; counts as a use of it.
    pub(super) fn read(&mut self, digest: &Digest) -> Option<Chunks> {
        let entry = self.blobs.get_mut(digest)?;
        entry.used = true;
        Some(entry.chunks.clone())
    }

    /// The bytes of a blob.
    pub(super) fn peek(&self, digest: &Digest) -> Option<Chunks> {
        Some(self.blobs.get(digest)?.chunks.clone())
    }

    /// The end of a blob's lease, if it has one; `None` if the blob is absent.
    pub(super) fn lease_end(&self, digest: &Digest) -> Option<Option<Instant>> {
        Some(self.blobs.get(digest)?.leased_until)
    }

    /// Leases a blob, if `until` says so; whether it is present.
    pub(super) fn lease(&mut self, digest: &Digest, until: Option<Instant>) -> bool {
        let Some(entry) = self.blobs.get_mut(digest) else {
            return false;
        };
        entry.leased_until = entry.leased_until.max(until);
        true
    }

    /// Whether a blob of this size can be here at all.
    pub(super) fn check_size(&self, name: &UploadName, size: u64) -> Result<()> {
        if size.saturating_add(OVERHEAD) > self.max_bytes {
            return Err(name.mark(CasError::new(
                ErrorKind::NoSpace,
                format!(
                    "the blob is larger than the memory store, which has {} bytes",
                    self.max_bytes
                ),
            )));
        }
        Ok(())
    }

    /// Stores a blob whose digest was checked, and drops what was held of it.
    pub(super) fn insert(&mut self, digest: Digest, chunks: Chunks) -> Result<Stored> {
        if self.contains(&digest) {
            return Ok(Stored::Existing);
        }
        self.remove_partial(&digest.into());
        self.make_room(&digest.into(), chunks.len() + OVERHEAD)?;
        self.used += chunks.len() + OVERHEAD;
        self.blob_bytes += chunks.len();
        let number = self.enqueue(Queueable::Blob(digest));
        self.blobs.insert(
            digest,
            Entry {
                chunks,
                number,
                used: false,
                leased_until: None,
            },
        );
        Ok(Stored::New)
    }

    /// Drops a blob and what is held of it; whether the blob was there.
    pub(super) fn remove(&mut self, digest: &Digest) -> bool {
        self.remove_partial(&(*digest).into());
        let removed = self.remove_blob(digest);
        self.tidy();
        removed
    }

    /// What is held of an interrupted upload.
    pub(super) fn partial(&self, name: &UploadName) -> Option<&Chunks> {
        let partial = self.partials.get(name)?;
        (partial.parked.elapsed() < PARTIAL_KEPT).then_some(&partial.chunks)
    }

    pub(super) fn remove_partial(&mut self, name: &UploadName) {
        if let Some(partial) = self.partials.remove(name) {
            self.used -= partial.chunks.len() + OVERHEAD;
        }
    }

    /// Counts `bytes` more for the running upload of this name.
    pub(super) fn reserve(&mut self, name: &UploadName, bytes: u64) -> Result<()> {
        self.make_room(name, bytes)?;
        self.used += bytes;
        self.writer_bytes += bytes;
        Ok(())
    }

    /// Takes back what [`reserve`](Self::reserve) counted.
    pub(super) fn release(&mut self, bytes: u64) {
        self.used -= bytes;
        self.writer_bytes -= bytes;
    }

    /// Keeps an upload for a resumption, after its release; how many bytes are
    /// held then. Another one's longer part stays.
    pub(super) fn park(&mut self, name: UploadName, chunks: Chunks) -> u64 {
        if let UploadName::Blob(digest) = &name
            && self.contains(digest)
        {
            return digest.size();
        }
        let held = self.partial(&name).map_or(0, Chunks::len);
        if held >= chunks.len() {
            return held;
        }
        self.remove_partial(&name);
        // Another upload may have taken the room that this one released.
        if self.make_room(&name, chunks.len() + OVERHEAD).is_err() {
            return 0;
        }
        let held = chunks.len();
        self.used += held + OVERHEAD;
        let number = self.enqueue(Queueable::Partial(name));
        let parked = Instant::now();
        self.partials.insert(
            name,
            Partial {
                chunks,
                number,
                parked,
            },
        );
        held
    }

    pub(super) fn expire_partials(&mut self) -> GcReport {
        let (used, count) = (self.used, self.partials.len());
        let expired: Vec<UploadName> = self
            .partials
            .iter()
            .filter(|(_, partial)| partial.parked.elapsed() >= PARTIAL_KEPT)
            .map(|(name, _)| *name)
            .collect();
        for name in expired {
            self.remove_partial(&name);
        }
        self.tidy();
        GcReport {
            bytes_freed: used - self.used,
            partials_expired: (count - self.partials.len()) as u64,
            ..GcReport::default()
        }
    }

    pub(super) fn usage(&self) -> Usage {
        let now = Instant::now();
        let leased = |entry: &&Entry| entry.leased_until.is_some_and(|end| end > now);
        let parked: u64 = self.partials.values().map(|p| p.chunks.len()).sum();
        Usage {
            blobs: self.blobs.len() as u64,
            blob_bytes: self.blob_bytes,
            disk_bytes: self.used,
            disk_cap_bytes: self.max_bytes,
            leased_bytes: self
                .blobs
                .values()
                .filter(leased)
                .map(|entry| entry.chunks.len())
                .sum(),
            partial_bytes: parked + self.writer_bytes,
            durability: "none",
            ..Usage::default()
        }
    }

    /// How many blobs and partial uploads there are, and how long the queue is.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.blobs.len() + self.partials.len(), self.queue.len())
    }

    fn remove_blob(&mut self, digest: &Digest) -> bool {
        let Some(entry) = self.blobs.remove(digest) else {
            return false;
        };
        self.used -= entry.chunks.len() + OVERHEAD;
        self.blob_bytes -= entry.chunks.len();
        true
    }

    fn enqueue(&mut self, what: Queueable) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.queue.push_back(Queued { what, number });
        self.nothing_before = None;
        self.tidy();
        number
    }

    /// Evicts until `bytes` more fit.
    fn make_room(&mut self, name: &UploadName, bytes: u64) -> Result<()> {
        if self.used.saturating_add(bytes) <= self.max_bytes {
            return Ok(());
        }
        let now = Instant::now();
        let hopeless = self.nothing_before.is_some_and(|until| now < until);
        // Twice round: the first time may only take the marks of use away.
        let mut turns = if hopeless { 0 } else { 2 * self.queue.len() };
        let mut first_end: Option<Instant> = None;
        while turns > 0 && self.used.saturating_add(bytes) > self.max_bytes {
            turns -= 1;
            let Some(queued) = self.queue.pop_front() else {
                break;
            };
            let digest = match queued.what {
                Queueable::Blob(digest) => digest,
                Queueable::Partial(name) => {
                    let current = self.partials.get(&name);
                    if current.is_some_and(|partial| partial.number == queued.number) {
                        self.remove_partial(&name);
                    }
                    continue;
                }
            };
            let Some(entry) = self
                .blobs
                .get_mut(&digest)
                .filter(|entry| entry.number == queued.number)
            else {
                continue;
            };
            match entry.leased_until.filter(|end| *end > now) {
                Some(end) => {
                    first_end = Some(first_end.map_or(end, |first| first.min(end)));
                    self.queue.push_back(queued);
                }
                None if entry.used => {
                    entry.used = false;
                    self.queue.push_back(queued);
                }
                None => {
                    self.remove_blob(&digest);
                }
            }
        }
        if self.used.saturating_add(bytes) <= self.max_bytes {
            return Ok(());
        }
        if !hopeless {
            self.nothing_before = first_end;
        }
        Err(name.mark(CasError::new(
            ErrorKind::NoSpace,
            "the memory store is full of leased blobs and running uploads",
        )))
    }

    /// Drops the gone from the queue when they are most of it.
    fn tidy(&mut self) {
        if self.queue.len() <= 2 * (self.blobs.len() + self.partials.len()) + 64 {
            return;
        }
        let (blobs, partials) = (&self.blobs, &self.partials);
        let last = self.next_number.wrapping_sub(1);
        self.queue.retain(|queued| {
            let number = match &queued.what {
                Queueable::Blob(digest) => blobs.get(digest).map(|entry| entry.number),
                Queueable::Partial(name) => partials.get(name).map(|partial| partial.number),
            };
            // The last one's entry may be about to be added.
            number == Some(queued.number) || queued.number == last
        });
    }
}
