//! The chunks that a blob consists of, and which of them a range of it takes.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use zako_core::{Digest, Hash};

/// The most chunks of a blob: at 512 KiB each, those of 128 GiB.
pub(super) const MAX_CHUNKS: usize = 1 << 18;

const MAGIC: [u8; 4] = *b"ZKC1";
const HEAD: usize = MAGIC.len() + 4 + ENTRY;
const ENTRY: usize = Hash::LEN + 8;

/// A blob as its chunks, in their order.
#[derive(Debug)]
pub(super) struct ChunkList {
    whole: Digest,
    /// The number of the function that cut it, as in the API; 0 if nobody knows.
    function: i32,
    chunks: Vec<Digest>,
    /// Where each chunk begins.
    offsets: Vec<u64>,
    by_digest: OnceLock<HashMap<Digest, u64>>,
}

impl ChunkList {
    /// The list of a blob; `None` if the chunks' sizes don't add up to the blob's, or
    /// there are too many.
    pub(super) fn new(whole: Digest, function: i32, chunks: Vec<Digest>) -> Option<Self> {
        if chunks.len() > MAX_CHUNKS {
            return None;
        }
        let (mut offsets, mut end) = (Vec::with_capacity(chunks.len()), 0u64);
        for chunk in &chunks {
            offsets.push(end);
            end = end.checked_add(chunk.size())?;
        }
        (end == whole.size()).then(|| Self {
            whole,
            function,
            chunks,
            offsets,
            by_digest: OnceLock::new(),
        })
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` if it is something else.
    pub(super) fn decode(mut data: Bytes) -> Option<Self> {
        if data.len() < HEAD || !(data.len() - HEAD).is_multiple_of(ENTRY) {
            return None;
        }
        if data.split_to(MAGIC.len()) != MAGIC[..] {
            return None;
        }
        let function = data.get_i32_le();
        let whole = entry(&mut data);
        let mut chunks = Vec::with_capacity(data.len() / ENTRY);
        while data.has_remaining() {
            chunks.push(entry(&mut data));
        }
        Self::new(whole, function, chunks)
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut data = BytesMut::with_capacity(HEAD + ENTRY * self.chunks.len());
        data.put_slice(&MAGIC);
        data.put_i32_le(self.function);
        for digest in std::iter::once(&self.whole).chain(&self.chunks) {
            data.put_slice(digest.hash().as_bytes());
            data.put_u64_le(digest.size());
        }
        data.freeze()
    }

    /// The blob.
    pub(super) fn whole(&self) -> Digest {
        self.whole
    }

    pub(super) fn function(&self) -> i32 {
        self.function
    }

    pub(super) fn chunks(&self) -> &[Digest] {
        &self.chunks
    }

    /// Where this chunk begins in the blob, if it is one of its chunks.
    pub(super) fn offset_of(&self, chunk: &Digest) -> Option<u64> {
        let places = || {
            self.chunks
                .iter()
                .copied()
                .zip(self.offsets.iter().copied())
        };
        let by_digest = self.by_digest.get_or_init(|| places().collect());
        by_digest.get(chunk).copied()
    }

    /// The first of the chunks that `range` of the blob takes.
    pub(super) fn first_in(&self, range: &Range<u64>) -> usize {
        self.offsets
            .partition_point(|offset| *offset <= range.start)
            .saturating_sub(1)
    }

    /// What `range` of the blob takes of the chunk at this place; `None` behind its last.
    pub(super) fn part(&self, at: usize, range: &Range<u64>) -> Option<(Digest, Range<u64>)> {
        let (chunk, offset) = (*self.chunks.get(at)?, *self.offsets.get(at)?);
        if offset >= range.end {
            return None;
        }
        let from = range.start.saturating_sub(offset).min(chunk.size());
        let to = (range.end - offset).min(chunk.size());
        Some((chunk, from..to))
    }
}

fn entry(data: &mut Bytes) -> Digest {
    let mut hash = [0; Hash::LEN];
    data.copy_to_slice(&mut hash);
    Digest::new(Hash::from_bytes(hash), data.get_u64_le())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(chunks: &[Vec<u8>]) -> (Vec<u8>, ChunkList) {
        let whole = chunks.concat();
        let digests = chunks.iter().map(|chunk| zako_digest::hash::bytes(chunk));
        let list = ChunkList::new(zako_digest::hash::bytes(&whole), 1, digests.collect());
        (whole, list.unwrap())
    }

    proptest! {
        #[test]
        fn any_range_is_put_together_from_chunks(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..12),
            start in 0usize..100,
            end in 0usize..100,
        ) {
            let (whole, list) = list(&chunks);
            let start = start.min(whole.len());
            let end = end.clamp(start, whole.len());
            let range = start as u64..end as u64;
            let mut read = Vec::new();
            let mut at = list.first_in(&range);
            while let Some((chunk, part)) = list.part(at, &range) {
                prop_assert_eq!(chunk, zako_digest::hash::bytes(&chunks[at]));
                read.extend_from_slice(&chunks[at][part.start as usize..part.end as usize]);
                at += 1;
            }
            prop_assert_eq!(&read, &whole[start..end]);
        }

        #[test]
        fn a_list_is_read_as_it_was_written(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..9), 0..12),
            cut in 1usize..50,
        ) {
            let (_, list) = list(&chunks);
            let data = list.encode();
            let read = ChunkList::decode(data.clone()).unwrap();
            prop_assert_eq!(read.whole(), list.whole());
            prop_assert_eq!(read.chunks(), list.chunks());
            prop_assert_eq!(read.function(), 1);
            prop_assert!(ChunkList::decode(data.slice(..data.len() - cut.min(data.len()))).is_none());
        }

        #[test]
        fn a_chunk_is_found_where_it_lies(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..9), 1..12),
        ) {
            let (whole, list) = list(&chunks);
            for chunk in &chunks {
                let at = list.offset_of(&zako_digest::hash::bytes(chunk)).unwrap() as usize;
                prop_assert_eq!(&whole[at..at + chunk.len()], &chunk[..]);
            }
        }
    }

    #[test]
    fn sizes_that_do_not_add_up_are_no_list() {
        let chunk = zako_digest::hash::bytes(b"abc");
        let whole = zako_digest::hash::bytes(b"abcabc");
        assert!(ChunkList::new(whole, 0, vec![chunk]).is_none());
        assert!(ChunkList::new(whole, 0, vec![chunk; 2]).is_some());
        let endless = Digest::new(*chunk.hash(), u64::MAX);
        assert!(ChunkList::new(whole, 0, vec![endless, endless]).is_none());
    }
}
