//! Freeing a segment: what goes is forgotten, what stays is moved first.

use std::sync::Arc;
use std::sync::mpsc::channel;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::appender::footprint;
use super::eviction::Unit;
use super::footer::FooterEntry;
use super::index::Place;
use super::io::read_exact_at;
use super::janitor::Janitor;
use super::job::Job;
use super::record::{HEADER_LEN, RecordKind, Stream};
use super::scan::scan;
use super::segment::Segment;
use super::shared::stopped;
use super::space::Purpose;
use crate::cas::{CasError, Result};
use crate::observe::EvictionReason;
use crate::{Digest, Hash};

/// What to do with the blobs of a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// Those that nobody used or leases go.
    Evict,
    /// All stay, elsewhere.
    Compact,
    /// As `Compact`, however full the segment is.
    Merge,
}

/// A live record of a segment under work.
struct Live {
    digest: Digest,
    place: Place,
    offset: u32,
    leased: bool,
}

/// Records are moved in steps of so many bytes.
const MOVE_STEP: u64 = 4 << 20;

impl Janitor {
    /// Frees a segment, moving what stays; the bytes moved, `None` if the segment
    /// stays as it is.
    pub(super) fn empty(
        &self,
        segment: &Arc<Segment>,
        stream: Stream,
        policy: Policy,
    ) -> Result<Option<u64>> {
        let again = || self.shared.enqueue(stream, Unit::Segment(segment.id));
        let outcome = self.try_empty(segment, stream, policy);
        if !matches!(outcome, Ok(Some(_))) {
            again();
        }
        outcome
    }

    fn try_empty(
        &self,
        segment: &Arc<Segment>,
        stream: Stream,
        policy: Policy,
    ) -> Result<Option<u64>> {
        let shared = &self.shared;
        let entries = match segment.read_footer()? {
            Some((entries, _)) => entries,
            None => scan(segment)?.entries,
        };
        let (stay, go) = self.sort(segment, &entries, policy);
        let staying = bytes_of(&stay);
        let leased = bytes_of(stay.iter().filter(|live| live.leased));
        if policy == Policy::Evict && is_passed_over(segment.length(), staying, leased) {
            for live in &stay {
                shared.index.age(&live.digest);
            }
            return Ok(None);
        }
        let tombstones = self.tombstones_in_use(segment, &entries);
        let carried = tombstones.len() as u64 * footprint(0);
        segment.set_tombstones(carried);
        if policy == Policy::Compact && staying + carried > segment.length() / 2 {
            // Full of what can't go yet; moving it would free little.
            return Ok(None);
        }
        // Before anything leaves the index: a delete that finds nothing must know.
        segment.note_strays();
        let mut stay = stay;
        let (mut gone, mut gone_bytes) = (0, 0);
        for live in go {
            let now = shared.now();
            if shared
                .index
                .evict(&live.digest, live.place, now, &shared.ledger)
            {
                shared.retire(&live.digest, live.place);
                gone += 1;
                gone_bytes += live.digest.size();
                if stream == Stream::Probation {
                    shared.ghosts.lock().add(&live.digest);
                }
            } else {
                // Leased since we looked, or gone; the move finds out.
                stay.push(live);
            }
        }
        shared.gave_up(EvictionReason::Capacity, gone, gone_bytes);
        let target = match policy {
            Policy::Evict => Stream::Main,
            Policy::Compact | Policy::Merge => stream,
        };
        stay.sort_by_key(|live| live.offset);
        let mut moved = 0;
        let mut rest = &stay[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let count = rest
                .iter()
                .take_while(|live| {
                    let fits = bytes < MOVE_STEP;
                    bytes += footprint(live.digest.size());
                    fits
                })
                .count();
            let (step, more) = rest.split_at(count);
            moved += self.move_records(segment, step, Vec::new(), target)?;
            rest = more;
        }
        self.move_records(segment, &[], tombstones, target)?;
        if segment.live() > 0 {
            // Something points here after all; the next round sees what.
            return Ok(None);
        }
        let length = segment.length();
        shared.segments.remove(segment)?;
        shared.space.free(length);
        Ok(Some(moved))
    }

    /// The live records of a segment: those that stay and those that go.
    fn sort(
        &self,
        segment: &Segment,
        entries: &[FooterEntry],
        policy: Policy,
    ) -> (Vec<Live>, Vec<Live>) {
        let now = self.shared.now();
        let (mut stay, mut go) = (Vec::new(), Vec::new());
        for entry in entries {
            if entry.kind != RecordKind::Blob {
                continue;
            }
            let place = Place::Record {
                segment: segment.id,
                offset: entry.offset,
            };
            let digest = entry.digest();
            let Some(found) = self.shared.index.find(&digest) else {
                continue;
            };
            if found.place != place {
                continue;
            }
            let live = Live {
                digest,
                place,
                offset: entry.offset,
                leased: found.leased_until > now,
            };
            if policy != Policy::Evict || found.uses > 0 || live.leased {
                stay.push(live);
            } else {
                go.push(live);
            }
        }
        (stay, go)
    }

    /// The tombstones of a segment that still void a record of another one.
    fn tombstones_in_use(&self, segment: &Segment, entries: &[FooterEntry]) -> Vec<(Hash, u64)> {
        let others = self.shared.segments.all();
        entries
            .iter()
            .filter(|entry| entry.kind == RecordKind::Tombstone)
            .filter(|entry| {
                others
                    .iter()
                    .any(|other| other.id != segment.id && other.has_older(entry.sequence))
            })
            .map(|entry| (entry.hash, entry.sequence))
            .collect()
    }

    /// Copies records to the other stream's segment; their bytes.
    fn move_records(
        &self,
        segment: &Segment,
        records: &[Live],
        tombstones: Vec<(Hash, u64)>,
        stream: Stream,
    ) -> Result<u64> {
        if records.is_empty() && tombstones.is_empty() {
            return Ok(0);
        }
        let shared = &self.shared;
        let mut blobs = Vec::with_capacity(records.len());
        let mut bytes = tombstones.len() as u64 * footprint(0);
        for live in records {
            let mut data = vec![0; live.digest.size() as usize];
            let at = u64::from(live.offset) + HEADER_LEN as u64;
            match read_exact_at(&*segment.file, &mut data, at) {
                Ok(()) => {}
                // A file that ends early has lost bytes.
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
                Err(error) => {
                    let error = CasError::io("moving a blob", &segment.path, error);
                    return Err(error.with_digest(live.digest));
                }
            }
            if zako_digest::hash::bytes(&data) != live.digest {
                tracing::error!(digest = %live.digest, "a stored blob is damaged");
                if self.bury(live)? {
                    shared.found_damaged(&live.digest);
                    shared.quarantine.keep(&live.digest, &data);
                }
                continue;
            }
            bytes += footprint(live.digest.size());
            blobs.push((live.digest, Bytes::from(data), live.place));
        }
        let Some(room) = shared.space.reserve(bytes, Purpose::Move) else {
            return Err(shared.full(bytes));
        };
        let (ack, outcome) = channel();
        self.send(Job::Move {
            blobs,
            tombstones,
            stream,
            room,
            ack,
        })?;
        outcome.recv().map_err(|_| stopped())??;
        Ok(bytes)
    }

    fn bury(&self, live: &Live) -> Result<bool> {
        let (ack, outcome) = oneshot::channel();
        self.send(Job::Delete {
            digest: live.digest,
            only_at: Some(live.place),
            ack,
        })?;
        outcome.blocking_recv().map_err(|_| stopped())?
    }
}

/// Whether eviction leaves a segment of this length as it is for now, where so many
/// bytes would have to be moved, those of leased blobs among them.
///
/// Half of it used is enough: nothing is copied, and what nobody uses again goes when
/// eviction comes back. Leases don't wear off by that, so they don't count: a store
/// of which much is leased must still find room. But where next to nothing would be
/// freed, a copy would be for nothing, whatever the reason.
fn is_passed_over(length: u64, staying: u64, leased: u64) -> bool {
    let used = staying.saturating_sub(leased);
    used > length / 2 || staying > length / 4 * 3
}

/// What moving these takes.
fn bytes_of<'a>(records: impl IntoIterator<Item = &'a Live>) -> u64 {
    let footprints = records.into_iter().map(|it| footprint(it.digest.size()));
    footprints.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_passed_over_when_half_of_it_is_used() {
        assert!(!is_passed_over(1000, 500, 0));
        assert!(is_passed_over(1000, 501, 0));
    }

    #[test]
    fn leased_bytes_count_only_when_nearly_all_stays() {
        assert!(!is_passed_over(1000, 750, 750));
        assert!(!is_passed_over(1000, 750, 250));
        assert!(is_passed_over(1000, 750, 249));
        assert!(is_passed_over(1000, 751, 751));
    }
}
