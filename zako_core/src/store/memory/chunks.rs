//! The bytes of a blob, in steps of one size.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures::stream;
use zako_digest::hash::Hasher;

use crate::Digest;
use crate::cas::Blob;

/// The size of all chunks but the last, in bytes; so a range is found by division.
pub(super) const CHUNK: usize = 256 * 1024;

/// Bytes in chunks of [`CHUNK`]. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Chunks {
    chunks: Vec<Bytes>,
    length: u64,
}

impl Chunks {
    /// Takes `data` over if nobody else holds it, or copies it: a slice would keep
    /// all of its buffer, beyond what the store counts.
    pub(super) fn from_bytes(data: Bytes) -> Self {
        let length = data.len() as u64;
        let mut data = match data.try_into_mut() {
            Ok(own) => tight(own),
            Err(shared) => Bytes::copy_from_slice(&shared),
        };
        let mut chunks = Vec::with_capacity(data.len().div_ceil(CHUNK));
        while data.len() > CHUNK {
            chunks.push(data.split_to(CHUNK));
        }
        if !data.is_empty() {
            chunks.push(data);
        }
        Self { chunks, length }
    }

    /// The number of bytes.
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    /// The first `length` bytes, which there must be.
    pub(super) fn prefix(&self, length: u64) -> Self {
        Self {
            chunks: self.slices(0..length),
            length,
        }
    }

    /// Adds `data`, copied; `tail` gathers the last chunk until it is full.
    pub(super) fn append(&mut self, tail: &mut BytesMut, mut data: &[u8]) {
        self.length += data.len() as u64;
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(CHUNK - tail.len()));
            tail.extend_from_slice(now);
            data = later;
            if tail.len() == CHUNK {
                self.seal(tail);
            }
        }
    }

    /// Takes a last chunk that isn't full back, to go on with it.
    pub(super) fn reopen(&mut self) -> BytesMut {
        match self.chunks.pop_if(|last| last.len() < CHUNK) {
            Some(last) => BytesMut::from(&last[..]),
            None => BytesMut::new(),
        }
    }

    /// Ends the last chunk.
    pub(super) fn seal(&mut self, tail: &mut BytesMut) {
        if !tail.is_empty() {
            self.chunks.push(tight(tail.split()));
        }
    }

    /// The digest of all bytes.
    pub(super) async fn hash(&self) -> Digest {
        let mut hasher = Hasher::new();
        self.show(|chunk| {
            hasher.update(chunk);
        })
        .await;
        hasher.finish()
    }

    /// Shows all bytes in order, without holding up the runtime's thread for long.
    pub(super) async fn show(&self, mut each: impl FnMut(&[u8])) {
        for chunk in &self.chunks {
            each(chunk);
            tokio::task::yield_now().await;
        }
    }

    /// The part `range` of the blob `digest`, which these are the bytes of.
    pub(super) fn open(&self, digest: Digest, range: Range<u64>) -> Blob {
        let mut slices = self.slices(range.clone());
        if slices.len() <= 1 {
            return Blob::from_bytes(digest, range, slices.pop().unwrap_or_default());
        }
        Blob::from_stream(digest, range, stream::iter(slices.into_iter().map(Ok)))
    }

    fn slices(&self, range: Range<u64>) -> Vec<Bytes> {
        let size = CHUNK as u64;
        let first = range.start / size;
        let last = range.end.div_ceil(size);
        let mut slices = Vec::new();
        for at in first..last {
            // The numbers lie in the blob, which is in memory.
            let chunk = &self.chunks[at as usize];
            let base = at * size;
            let start = range.start.saturating_sub(base) as usize;
            let end = (range.end - base).min(chunk.len() as u64) as usize;
            if start < end {
                slices.push(chunk.slice(start..end));
            }
        }
        slices
    }
}

/// The bytes, without the room that a buffer may have behind them.
fn tight(data: BytesMut) -> Bytes {
    if data.capacity() - data.len() <= data.len() / 8 + 64 {
        return data.freeze();
    }
    Bytes::copy_from_slice(&data)
}

/// The digest of `data`, without holding up the runtime's thread for long.
pub(super) async fn hash(data: &[u8]) -> Digest {
    let mut hasher = Hasher::new();
    for step in data.chunks(CHUNK) {
        hasher.update(step);
        if step.len() == CHUNK {
            tokio::task::yield_now().await;
        }
    }
    hasher.finish()
}
