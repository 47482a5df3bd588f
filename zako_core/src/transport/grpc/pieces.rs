//! A message in the pieces in which it came.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;

use super::FrameError;
use super::frame::{self, HEAD_LEN};

/// The bytes of a message in the pieces in which they came, as a [`Buf`].
///
/// What generated code takes out of it as `Bytes` is shared with the piece that
/// it lies in, and copied only where it lies in several. So messages with bulk are
/// decoded by generated code and not copied.
#[derive(Debug, Default)]
pub struct Pieces {
    /// None of them is empty.
    pieces: VecDeque<Bytes>,
    /// Short pieces that came last.
    short: BytesMut,
    len: usize,
}

/// Shorter pieces but for the first are copied together: each may keep the buffer
/// alive that it was received in, which is as long as the longest frame.
const SHARED_FROM: usize = 64 * 1024;

impl Pieces {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes that are there.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds what came next.
    pub fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        let is_first = self.len == piece.len();
        if piece.is_empty() {
            return;
        }
        if piece.len() < SHARED_FROM && !is_first {
            self.push_short(&piece);
        } else {
            self.end_short();
            self.pieces.push_back(piece);
        }
    }

    /// Lets go of the buffer that a short first piece came in: the rest may be long in coming.
    pub fn keep(&mut self) {
        if let [Some(first), None] = [self.pieces.front(), self.pieces.get(1)]
            && first.len() < SHARED_FROM
            && self.short.is_empty()
        {
            self.short = BytesMut::from(&**first);
            self.pieces.clear();
        }
    }

    /// The same bytes once more, not copied.
    #[must_use]
    pub fn share(&mut self) -> Self {
        self.end_short();
        Self {
            pieces: self.pieces.clone(),
            short: BytesMut::new(),
            len: self.len,
        }
    }

    /// The pieces, one after the other.
    pub(crate) fn into_parts(mut self) -> VecDeque<Bytes> {
        self.end_short();
        self.pieces
    }

    /// Reads the one message of a unary call's whole body.
    ///
    /// # Errors
    /// A [`FrameError`] if it is anything else than one uncompressed message.
    pub fn unary<M: Message + Default>(self) -> Result<M, FrameError> {
        M::decode(self.unframed()?).map_err(|_| frame::NOT_DECODED)
    }

    /// The bytes of the one message of a unary call's whole body.
    ///
    /// # Errors
    /// A [`FrameError`] if it is anything else than one uncompressed message.
    pub fn unframed(mut self) -> Result<Self, FrameError> {
        self.end_short();
        if self.len < HEAD_LEN {
            return Err(FrameError::Truncated);
        }
        let mut head = [0; HEAD_LEN];
        self.copy_to_slice(&mut head);
        let length = frame::check_head(head)? as usize;
        if self.len < length {
            return Err(FrameError::Truncated);
        }
        if self.len > length {
            return Err(frame::MORE_THAN_ONE);
        }
        Ok(self)
    }

    /// Copies into blocks of one size: one buffer that grows would be copied again and again,
    /// and take twice what is in it.
    fn push_short(&mut self, mut piece: &[u8]) {
        let room = SHARED_FROM.saturating_sub(self.short.len());
        if piece.len() > room {
            let (now, later) = piece.split_at(room);
            self.short.extend_from_slice(now);
            self.end_short();
            self.short.reserve(SHARED_FROM);
            piece = later;
        }
        self.short.extend_from_slice(piece);
    }

    fn end_short(&mut self) {
        if !self.short.is_empty() {
            self.pieces
                .push_back(std::mem::take(&mut self.short).freeze());
        }
    }
}

impl From<Bytes> for Pieces {
    fn from(whole: Bytes) -> Self {
        let mut pieces = Self::new();
        pieces.push(whole);
        pieces
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&self.short, Bytes::as_ref)
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.len, "advanced past the end");
        self.len -= count;
        while let Some(first) = self.pieces.front_mut() {
            if count < first.len() {
                first.advance(count);
                return;
            }
            count -= first.len();
            self.pieces.pop_front();
        }
        self.short.advance(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        if let Some(first) = self.pieces.front_mut()
            && length <= first.len()
        {
            let part = first.slice(..length);
            self.advance(length);
            return part;
        }
        let mut copy = BytesMut::with_capacity(length);
        while copy.len() < length {
            let chunk = self.chunk();
            let part = chunk.len().min(length - copy.len());
            copy.extend_from_slice(&chunk[..part]);
            self.advance(part);
        }
        copy.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zako_protobuf::batch::{BatchUploadRequest, Blob};
    use zako_protobuf::digest::Digest;

    fn request(sizes: &[usize]) -> BatchUploadRequest {
        let blobs = sizes.iter().enumerate().map(|(at, size)| Blob {
            digest: Some(Digest {
                size_bytes: *size as u64,
                blake3: vec![at as u8; 32].into(),
            }),
            data: vec![at as u8; *size].into(),
        });
        BatchUploadRequest {
            blobs: blobs.collect(),
        }
    }

    fn cut(whole: &[u8], step: usize) -> Pieces {
        let mut pieces = Pieces::new();
        for piece in whole.chunks(step) {
            pieces.push(Bytes::copy_from_slice(piece));
        }
        pieces
    }

    #[test]
    fn what_lies_in_one_long_piece_is_not_copied() {
        let whole = frame::message(&request(&[50_000, 50_000])).unwrap();
        let read: BatchUploadRequest = Pieces::from(whole.clone()).unary().unwrap();
        for blob in &read.blobs {
            assert!(whole.as_ptr_range().contains(&blob.data.as_ptr()));
        }
        // A short one lets go of the buffer that it came in.
        let buffer = Bytes::from(vec![7; SHARED_FROM]);
        let mut pieces = Pieces::from(Bytes::from_static(b"first"));
        pieces.push(buffer.slice(..SHARED_FROM - 1));
        assert!(buffer.is_unique());
        let mut pieces = Pieces::from(buffer.slice(..SHARED_FROM - 1));
        assert!(!buffer.is_unique());
        pieces.keep();
        assert!(buffer.is_unique());
        pieces.push(Bytes::from_static(&[8; 100]));
        assert_eq!(
            pieces
                .copy_to_bytes(SHARED_FROM + 99)
                .slice(..SHARED_FROM - 1),
            buffer[1..]
        );
    }

    #[test]
    fn anything_else_than_one_message_is_refused() {
        let whole = frame::message(&request(&[10])).unwrap();
        let short = cut(&whole[..whole.len() - 1], 7);
        assert_eq!(
            short.unary::<BatchUploadRequest>(),
            Err(FrameError::Truncated)
        );
        assert_eq!(
            Pieces::new().unary::<BatchUploadRequest>(),
            Err(FrameError::Truncated)
        );
        let long = cut(&[&whole[..], &[0]].concat(), 7);
        assert_eq!(
            long.unary::<BatchUploadRequest>(),
            Err(frame::MORE_THAN_ONE)
        );
        let wrong = cut(&[0, 0, 0, 0, 1, 0x0a], 7);
        assert_eq!(wrong.unary::<BatchUploadRequest>(), Err(frame::NOT_DECODED));
        let compressed = cut(&[1, 0, 0, 0, 0], 7);
        assert_eq!(
            compressed.unary::<BatchUploadRequest>(),
            Err(FrameError::Compressed)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn however_it_is_cut_the_message_is_the_same(
            sizes in proptest::collection::vec(0usize..100_000, 0..6),
            step in prop_oneof![1usize..300, 60_000usize..200_000],
        ) {
            let request = request(&sizes);
            let whole = frame::message(&request).unwrap();
            prop_assert_eq!(cut(&whole, step).unary(), Ok(request));
        }

        #[test]
        fn reading_follows_the_bytes(
            data in proptest::collection::vec(any::<u8>(), 0..300),
            step in 1usize..50, reads in proptest::collection::vec((any::<bool>(), 0usize..40), 0..20),
        ) {
            let mut pieces = Pieces::new();
            for piece in data.chunks(step) {
                pieces.push(Bytes::copy_from_slice(piece));
            }
            let mut rest = &data[..];
            for (copies, length) in reads {
                let length = length.min(rest.len());
                let (read, behind) = rest.split_at(length);
                if copies {
                    prop_assert_eq!(&pieces.copy_to_bytes(length), read);
                } else {
                    pieces.advance(length);
                }
                rest = behind;
                prop_assert_eq!(pieces.remaining(), rest.len());
            }
            prop_assert_eq!(&pieces.copy_to_bytes(rest.len()), rest);
        }
    }
}
