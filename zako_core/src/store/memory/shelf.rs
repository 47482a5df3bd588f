//! Blobs and partial uploads under one bound, with eviction.

use std::collections::{HashMap, VecDeque};

use tokio::time::Instant;

use super::PARTIAL_KEPT;
use super::chunks::Chunks;
use crate::Digest;
use crate::cas::{CasError, ErrorKind, GcReport, Result, Stored, Usage};

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
    partials: HashMap<Digest, Partial>,
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
    digest: Digest,
    number: u64,
    partial: bool,
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
    pub(super) fn check_size(&self, digest: &Digest) -> Result<()> {
        if digest.size().saturating_add(OVERHEAD) > self.max_bytes {
            return Err(CasError::new(
                ErrorKind::NoSpace,
                format!(
                    "the blob is larger than the memory store, which has {} bytes",
                    self.max_bytes
                ),
            )
            .with_digest(*digest));
        }
        Ok(())
    }

    /// Stores a blob whose digest was checked, and drops what was held of it.
    pub(super) fn insert(&mut self, digest: Digest, chunks: Chunks) -> Result<Stored> {
        if self.contains(&digest) {
            return Ok(Stored::Existing);
        }
        self.remove_partial(&digest);
        self.make_room(&digest, chunks.len() + OVERHEAD)?;
        self.used += chunks.len() + OVERHEAD;
        self.blob_bytes += chunks.len();
        let number = self.enqueue(digest, false);
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
        self.remove_partial(digest);
        let removed = self.remove_blob(digest);
        self.tidy();
        removed
    }

    /// What is held of an interrupted upload.
    pub(super) fn partial(&mut self, digest: &Digest) -> Option<&Chunks> {
        let partial = self.partials.get(digest)?;
        (partial.parked.elapsed() < PARTIAL_KEPT).then_some(&partial.chunks)
    }

    pub(super) fn remove_partial(&mut self, digest: &Digest) {
        if let Some(partial) = self.partials.remove(digest) {
            self.used -= partial.chunks.len() + OVERHEAD;
        }
    }

    /// Counts `bytes` more for the running upload of `digest`.
    pub(super) fn reserve(&mut self, digest: &Digest, bytes: u64) -> Result<()> {
        self.make_room(digest, bytes)?;
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
    pub(super) fn park(&mut self, digest: Digest, chunks: Chunks) -> u64 {
        if self.contains(&digest) {
            return digest.size();
        }
        let held = self.partial(&digest).map_or(0, Chunks::len);
        if held >= chunks.len() {
            return held;
        }
        self.remove_partial(&digest);
        // Another upload may have taken the room that this one released.
        if self.make_room(&digest, chunks.len() + OVERHEAD).is_err() {
            return 0;
        }
        let held = chunks.len();
        self.used += held + OVERHEAD;
        let number = self.enqueue(digest, true);
        let parked = Instant::now();
        self.partials.insert(
            digest,
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
        let expired: Vec<Digest> = self
            .partials
            .iter()
            .filter(|(_, partial)| partial.parked.elapsed() >= PARTIAL_KEPT)
            .map(|(digest, _)| *digest)
            .collect();
        for digest in expired {
            self.remove_partial(&digest);
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

    fn enqueue(&mut self, digest: Digest, partial: bool) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.queue.push_back(Queued {
            digest,
            number,
            partial,
        });
        self.nothing_before = None;
        self.tidy();
        number
    }

    /// Evicts until `bytes` more fit.
    fn make_room(&mut self, digest: &Digest, bytes: u64) -> Result<()> {
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
            if queued.partial {
                let current = self.partials.get(&queued.digest);
                if current.is_some_and(|partial| partial.number == queued.number) {
                    self.remove_partial(&queued.digest);
                }
                continue;
            }
            let Some(entry) = self
                .blobs
                .get_mut(&queued.digest)
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
                    self.remove_blob(&queued.digest);
                }
            }
        }
        if self.used.saturating_add(bytes) <= self.max_bytes {
            return Ok(());
        }
        if !hopeless {
            self.nothing_before = first_end;
        }
        Err(CasError::new(
            ErrorKind::NoSpace,
            "the memory store is full of leased blobs and running uploads",
        )
        .with_digest(*digest))
    }

    /// Drops the gone from the queue when they are most of it.
    fn tidy(&mut self) {
        if self.queue.len() <= 2 * (self.blobs.len() + self.partials.len()) + 64 {
            return;
        }
        let (blobs, partials) = (&self.blobs, &self.partials);
        let last = self.next_number.wrapping_sub(1);
        self.queue.retain(|queued| {
            let number = if queued.partial {
                partials.get(&queued.digest).map(|partial| partial.number)
            } else {
                blobs.get(&queued.digest).map(|entry| entry.number)
            };
            // The last one's entry may be about to be added.
            number == Some(queued.number) || queued.number == last
        });
    }
}
