//! Reading blobs back.
//!
//! What is in the page cache is read where the caller runs; only what has to come
//! from the disk is read by a blocking thread.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, Stream};
use tracing::Instrument;
use zako_digest::hash::Hasher;

use super::index::{Found, Place};
use super::io::{BackendFile, read_exact_at};
use super::large::disk_bytes;
use super::options::VerifyOnRead;
use super::pool::{BufferPool, STEP};
use super::record::HEADER_LEN;
use super::shared::Shared;
use super::steps::blocking;
use super::{LocalStore, segment::Segment};
use crate::cas::{Blob, CasError, Cursor, ErrorKind, FileExtent, Result};
use crate::observe::trace::{self, Parts};
use crate::{BlobRange, Digest};

/// Opens a part of a blob.
pub(super) async fn open(store: &LocalStore, digest: &Digest, range: BlobRange) -> Result<Blob> {
    let shared = &store.shared;
    let bytes = range.resolve(digest.size()).map_err(|error| {
        CasError::new(ErrorKind::InvalidRange, error.to_string()).with_digest(*digest)
    });
    // A blob may move between the look-up and the read; then it is looked up again.
    let find = || {
        let looking = trace::step!("index lookup", zako.blobs = 1_i64);
        looking.in_scope(|| shared.index.find(digest))
    };
    while let Some(found) = find() {
        let bytes = bytes.clone()?;
        let opened = match found.place {
            Place::Record { segment, offset } => match shared.segments.by_id(segment) {
                Some(segment) => {
                    Some(open_record(store, digest, bytes, &found, &segment, offset).await?)
                }
                None => None,
            },
            Place::File { number } => open_file(store, digest, bytes, &found, number).await?,
        };
        if let Some(blob) = opened {
            shared.index.count_use(digest);
            return Ok(blob);
        }
        if shared.index.find(digest).map(|again| again.place) == Some(found.place) {
            return Err(vanished(store, digest, found.place).await);
        }
    }
    Err(CasError::not_found(*digest))
}

async fn open_record(
    store: &LocalStore,
    digest: &Digest,
    bytes: std::ops::Range<u64>,
    found: &Found,
    segment: &Arc<Segment>,
    offset: u32,
) -> Result<Blob> {
    let shared = &store.shared;
    let payload = u64::from(offset) + HEADER_LEN as u64;
    let extent = segment.file.file().map(|file| FileExtent {
        file: Arc::clone(file),
        offset: payload + bytes.start,
    });
    let verify = must_verify(shared, found);
    // Hashing needs all of it; it is at most a few MiB.
    let read = if verify {
        0..digest.size()
    } else {
        bytes.clone()
    };
    let length = (read.end - read.start) as usize;
    let reading = trace::step!("disk read", zako.bytes = length as i64);
    let data = read_at(&shared.pool, &segment.file, payload + read.start, length);
    let data = data.instrument(reading).await;
    let mut data = match data {
        Ok(data) => data,
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(damaged(store, digest, found.place, Bytes::new()).await);
        }
        Err(error) => {
            return Err(CasError::io("reading a blob", &segment.path, error).with_digest(*digest));
        }
    };
    if verify {
        let hashing = trace::step!("hash", zako.bytes = length as i64);
        let actual = hashing.in_scope(|| zako_digest::hash::bytes(&data));
        drop(hashing);
        if actual != *digest {
            return Err(damaged(store, digest, found.place, data).await);
        }
        shared.index.set_verified(digest, found.place);
        // In range, since `bytes` was resolved against the size.
        data = data.slice(bytes.start as usize..bytes.end as usize);
    }
    let blob = Blob::from_bytes(*digest, bytes, data);
    Ok(match extent {
        Some(extent) => blob.with_extent(extent),
        None => blob,
    })
}

/// `None` if the file isn't there any more.
async fn open_file(
    store: &LocalStore,
    digest: &Digest,
    bytes: std::ops::Range<u64>,
    found: &Found,
    number: u32,
) -> Result<Option<Blob>> {
    let (shared, name) = (Arc::clone(&store.shared), *digest);
    let Some(file) = blocking(move || shared.large.open(&name)).await?? else {
        return Ok(None);
    };
    let extent = file.file().map(|file| FileExtent {
        file: Arc::clone(file),
        offset: bytes.start,
    });
    let whole = bytes == (0..digest.size());
    let cursor = Cursor::new(bytes.start);
    let hasher = (whole && must_verify(&store.shared, found)).then(Hasher::new);
    let raw = hasher.is_none();
    let reader = FileReader {
        store: store.clone(),
        digest: *digest,
        place: Place::File { number },
        file,
        next: cursor.clone(),
        end: bytes.end,
        hasher,
        reading: Parts::default(),
        hashing: Parts::default(),
    };
    let blob = Blob::from_stream(*digest, bytes, reader.into_stream());
    Ok(Some(match extent {
        Some(extent) if raw => blob.with_raw_extent(extent, cursor),
        Some(extent) => blob.with_extent(extent),
        None => blob,
    }))
}

pub(super) fn must_verify(shared: &Shared, found: &Found) -> bool {
    match shared.options.verify_on_read {
        VerifyOnRead::Never => false,
        VerifyOnRead::First => !found.verified,
        VerifyOnRead::Always => true,
    }
}

/// Reads a large blob's file step by step.
struct FileReader {
    store: LocalStore,
    digest: Digest,
    place: Place,
    file: Arc<dyn BackendFile>,
    next: Cursor,
    end: u64,
    /// There if the whole blob is read and has to be verified.
    hasher: Option<Hasher>,
    reading: Parts,
    hashing: Parts,
}

impl FileReader {
    fn into_stream(self) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
        stream::try_unfold(self, |mut reader| async move {
            Ok(reader.step().await?.map(|step| (step, reader)))
        })
    }

    async fn step(&mut self) -> Result<Option<Bytes>> {
        let next = self.next.offset();
        let length = self.end.saturating_sub(next).min(STEP as u64);
        if length == 0 {
            return Ok(None);
        }
        let pool = &self.store.shared.pool;
        let began = self.reading.begin(trace::parts!("disk read"));
        let data = read_at(pool, &self.file, next, length as usize).await;
        self.reading.end(began, length);
        let data = match data {
            Ok(data) => data,
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Err(damaged(&self.store, &self.digest, self.place, Bytes::new()).await);
            }
            Err(error) => {
                let path = self.store.shared.large.path(&self.digest);
                let error = CasError::io("reading a blob", &path, error);
                return Err(error.with_digest(self.digest));
            }
        };
        self.next.advance(length);
        if let Some(hasher) = &mut self.hasher {
            let began = self.hashing.begin(trace::parts!("hash"));
            hasher.update(&data);
            self.hashing.end(began, length);
            // The last step is given out only if all were right.
            if next + length == self.end {
                if hasher.finish() != self.digest {
                    return Err(damaged(&self.store, &self.digest, self.place, data).await);
                }
                let index = &self.store.shared.index;
                index.set_verified(&self.digest, self.place);
            }
        }
        Ok(Some(data))
    }
}

/// Reads just these bytes; an early end of the file is `UnexpectedEof`.
pub(super) async fn read_at(
    pool: &Arc<BufferPool>,
    file: &Arc<dyn BackendFile>,
    offset: u64,
    length: usize,
) -> std::io::Result<Bytes> {
    let mut buffer = pool.take(length);
    let mut have = 0;
    while have < length {
        match file.read_now(&mut buffer[have..], offset + have as u64)? {
            Some(read) if read > 0 => have += read,
            // Some kernels answer 0 in the middle of a file; whether this is its end,
            // the waiting read tells.
            Some(_) | None => {
                let file = Arc::clone(file);
                let read = move || {
                    read_exact_at(&*file, &mut buffer[have..], offset + have as u64)?;
                    Ok(buffer.freeze())
                };
                return blocking(read).await.map_err(std::io::Error::other)?;
            }
        }
    }
    Ok(buffer.freeze())
}

/// Puts a damaged blob into quarantine; the error to give.
async fn damaged(store: &LocalStore, digest: &Digest, place: Place, data: Bytes) -> CasError {
    let error = CasError::new(
        ErrorKind::Corrupt,
        "the stored bytes are damaged; they are in quarantine now",
    )
    .with_digest(*digest);
    tracing::error!(%digest, "a stored blob is damaged");
    match store.quarantine(digest, place, data).await {
        Ok(()) => error,
        Err(failure) => error.with_source(failure),
    }
}

/// Somebody else removed the file or the segment of a blob.
async fn vanished(store: &LocalStore, digest: &Digest, place: Place) -> CasError {
    tracing::error!(%digest, "the file of a stored blob is gone");
    if store.shared.forget(digest, place)
        && let Place::File { .. } = place
    {
        store.shared.space.free(disk_bytes(digest.size()));
    }
    CasError::new(
        ErrorKind::Corrupt,
        "the file of the stored blob was removed by somebody else",
    )
    .with_digest(*digest)
}
