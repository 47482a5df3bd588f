//! Reading many small blobs: those whose records lie side by side by one read.

use bytes::Bytes;
use tracing::Instrument;

use super::LocalStore;
use super::index::{Found, Place};
use super::pool::STEP;
use super::read::{must_verify, open, read_at};
use super::record::HEADER_LEN;
use crate::cas::Result;
use crate::observe::trace;
use crate::{BlobRange, Digest};

/// A blob that was asked for and lies in a record.
struct Wanted {
    /// Its place among those that were asked for.
    at: usize,
    found: Found,
    segment: u32,
    /// Of the payload in the segment, and of its end.
    begin: u64,
    end: u64,
}

/// What lies between two blobs, a header at least, is read along if it is no longer
/// than this: that is cheaper than another system call.
const MOST_BETWEEN: u64 = 4 * 1024;

/// Reads blobs whole; one outcome each, in order.
///
/// What a run of records doesn't give, for whatever reason, is read by itself: that
/// tells the reason and does what has to be done.
pub(super) async fn fetch(store: &LocalStore, digests: &[Digest]) -> Vec<Result<Bytes>> {
    let mut fetched: Vec<Option<Bytes>> = vec![None; digests.len()];
    let looking = trace::step!("index lookup", zako.blobs = digests.len() as i64);
    let wanted = looking.in_scope(|| in_records(store, digests));
    drop(looking);
    let mut rest = &wanted[..];
    while !rest.is_empty() {
        let (run, behind) = rest.split_at(run_len(rest));
        read_run(store, digests, run, &mut fetched).await;
        rest = behind;
        // Other tasks are not to wait until all is read and hashed.
        tokio::task::yield_now().await;
    }
    let mut outcomes = Vec::with_capacity(digests.len());
    for (digest, fetched) in digests.iter().zip(fetched) {
        outcomes.push(match fetched {
            Some(data) => Ok(data),
            None => match open(store, digest, BlobRange::FULL).await {
                Ok(blob) => blob.bytes().await,
                Err(error) => Err(error),
            },
        });
    }
    outcomes
}

/// The blobs that lie in records, in the order of the disk.
fn in_records(store: &LocalStore, digests: &[Digest]) -> Vec<Wanted> {
    let index = &store.shared.index;
    let wanted = digests.iter().enumerate().filter_map(|(at, digest)| {
        let found = index.find(digest)?;
        let Place::Record { segment, offset } = found.place else {
            return None;
        };
        let begin = u64::from(offset) + HEADER_LEN as u64;
        Some(Wanted {
            at,
            found,
            segment,
            begin,
            end: begin + digest.size(),
        })
    });
    let mut wanted: Vec<_> = wanted.collect();
    wanted.sort_unstable_by_key(|one| (one.segment, one.begin));
    wanted
}

/// How many of these, from the first on, are read at once.
fn run_len(wanted: &[Wanted]) -> usize {
    let Some(first) = wanted.first() else {
        return 0;
    };
    let mut end = first.end;
    let follows = |next: &&Wanted| {
        let fits = next.segment == first.segment
            && next.begin <= end + MOST_BETWEEN
            && next.end.max(end) - first.begin <= STEP as u64;
        end = end.max(next.end);
        fits
    };
    1 + wanted[1..].iter().take_while(follows).count()
}

/// Reads a run, as far as it is there and right.
async fn read_run(
    store: &LocalStore,
    digests: &[Digest],
    run: &[Wanted],
    fetched: &mut [Option<Bytes>],
) {
    let shared = &store.shared;
    let (Some(first), Some(end)) = (run.first(), run.iter().map(|one| one.end).max()) else {
        return;
    };
    let Some(segment) = shared.segments.by_id(first.segment) else {
        return;
    };
    let length = (end - first.begin) as usize;
    let reading = trace::step!("disk read", zako.bytes = length as i64);
    let data = read_at(&shared.pool, &segment.file, first.begin, length);
    let Ok(data) = data.instrument(reading).await else {
        return;
    };
    for one in run {
        let digest = &digests[one.at];
        let data = data.slice((one.begin - first.begin) as usize..(one.end - first.begin) as usize);
        if must_verify(shared, &one.found) {
            if zako_digest::hash::bytes(&data) != *digest {
                continue;
            }
            shared.index.set_verified(digest, one.found.place);
        }
        shared.index.count_use(digest);
        // A tiny blob must not keep the buffer of a run for itself; less is copied than
        // is hashed or read between.
        let tiny = (data.len() as u64) < MOST_BETWEEN;
        fetched[one.at] = Some(match tiny {
            true => Bytes::copy_from_slice(&data),
            false => data,
        });
    }
}
