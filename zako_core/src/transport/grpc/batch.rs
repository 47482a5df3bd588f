//! Writing batches of blobs.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};

use super::FrameError;
use super::frame::HEAD_LEN;

/// Writes a message of entries with a blob each, `repeated Entry entries = 1` where
/// `bytes data = 2` of an entry is its blob, as the pieces of one gRPC message.
///
/// It is for `BatchUploadRequest` and `BatchDownloadResponse`; the bytes are those
/// of generated code. A piece is made when it is asked for: what is on its way is
/// one piece, not the message.
#[derive(Debug)]
pub struct BatchWriter {
    /// What stands before each blob, one after the other.
    heads: Bytes,
    entries: std::vec::IntoIter<Entry>,
    /// The length of a piece.
    most: usize,
    /// The bytes that are in no piece yet.
    left: usize,
    /// The last pieces: their buffers are used again once they are on their way.
    given: VecDeque<Bytes>,
    /// A blob that is written without a copy after the piece before it.
    next: Bytes,
}

#[derive(Debug)]
struct Entry {
    /// Its bytes in [`BatchWriter::heads`].
    head: usize,
    data: Bytes,
}

/// Shorter blobs are copied: a write for each would cost more.
const COPY_BELOW: usize = 64 * 1024;

/// So many buffers are used in turn: what HTTP/2 takes ahead, and one.
const BUFFERS: usize = 4;

/// The `Entry` fields of the message and the `data` of an entry.
const ENTRY_TAG: u8 = 1 << 3 | 2;
const DATA_TAG: u8 = 2 << 3 | 2;

impl BatchWriter {
    /// A good length of pieces, in bytes: in the core's cache, and short enough for
    /// malloc to keep what is given back.
    pub const PIECE: usize = 120 * 1024;

    /// A message of these entries, in pieces of about `most` bytes. The first of a
    /// pair has the fields of an entry but for `data`, which is the second.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] from 4 GiB on.
    pub fn new<M: Message>(
        entries: impl ExactSizeIterator<Item = (M, Bytes)>,
        most: usize,
    ) -> Result<Self, FrameError> {
        let mut heads = BytesMut::zeroed(HEAD_LEN);
        let mut written = Vec::with_capacity(entries.len());
        let (mut before, mut length) = (0, 0);
        for (fields, data) in entries {
            let field_head = match data.len() {
                0 => 0,
                length => 1 + encoded_len_varint(length as u64),
            };
            let entry = fields.encoded_len() + field_head + data.len();
            heads.put_u8(ENTRY_TAG);
            encode_varint(entry as u64, &mut heads);
            fields.encode_raw(&mut heads);
            if !data.is_empty() {
                heads.put_u8(DATA_TAG);
                encode_varint(data.len() as u64, &mut heads);
            }
            let head = heads.len() - before;
            before = heads.len();
            length += data.len();
            written.push(Entry { head, data });
        }
        length += heads.len() - HEAD_LEN;
        let short = u32::try_from(length).map_err(|_| FrameError::TooLong {
            length: u32::MAX,
            limit: u32::MAX,
        })?;
        // The first byte, which says that nothing is compressed, is 0.
        heads[1..HEAD_LEN].copy_from_slice(&short.to_be_bytes());
        if written.is_empty() {
            written.push(Entry {
                head: HEAD_LEN,
                data: Bytes::new(),
            });
        }
        Ok(Self {
            heads: heads.freeze(),
            entries: written.into_iter(),
            most: most.max(COPY_BELOW),
            left: HEAD_LEN + length,
            given: VecDeque::new(),
            next: Bytes::new(),
        })
    }

    /// What is left of the message, if that is one blob: what stands before it, and the
    /// blob, not copied. It takes the place of the next piece.
    pub fn last_blob(&mut self) -> Option<(Bytes, Bytes)> {
        // A long blob may have to go before it.
        if !self.next.is_empty() || self.entries.len() != 1 {
            return None;
        }
        let Entry { head, data } = self.entries.next()?;
        self.left = 0;
        Some((self.heads.split_to(head), data))
    }

    /// The next piece of the message, `None` at its end.
    pub fn next_piece(&mut self) -> Option<Bytes> {
        if !self.next.is_empty() {
            return Some(std::mem::take(&mut self.next));
        }
        if self.is_over() {
            return None;
        }
        let mut piece = self.buffer();
        while let Some(Entry { head, data }) = self.entries.as_slice().first() {
            let copied = match data.len() {
                length if length < COPY_BELOW => length,
                _ => 0,
            };
            if !piece.is_empty() && piece.len() + head + copied > self.most {
                break;
            }
            piece.extend_from_slice(&self.heads.split_to(*head));
            piece.extend_from_slice(&data[..copied]);
            // It is there: it was looked at.
            let data = self.entries.next().map(|entry| entry.data);
            if copied == 0
                && let Some(data) = data
                && !data.is_empty()
            {
                self.next = data;
                break;
            }
        }
        self.left -= piece.len() + self.next.len();
        let piece = piece.freeze();
        if self.left > 0 && self.given.len() < BUFFERS {
            self.given.push_back(piece.clone());
        }
        Some(piece)
    }

    /// A buffer for a piece: fresh ones cost more than what is written into them.
    fn buffer(&mut self) -> BytesMut {
        match self.given.pop_front().map(Bytes::try_into_mut) {
            Some(Ok(mut buffer)) => {
                buffer.clear();
                return buffer;
            }
            Some(Err(busy)) => self.given.push_front(busy),
            None => {}
        }
        BytesMut::with_capacity(self.most.min(self.left))
    }

    /// Whether all pieces were given.
    pub fn is_over(&self) -> bool {
        self.next.is_empty() && self.entries.as_slice().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame;
    use super::*;
    use proptest::prelude::*;
    use zako_protobuf::batch::{BatchDownloadResponse, DownloadedBlob, Outcome};
    use zako_protobuf::digest::Digest;

    fn fields(code: i32, size: u64) -> DownloadedBlob {
        let outcome = Outcome {
            digest: Some(Digest {
                size_bytes: size,
                blake3: vec![7; 32].into(),
            }),
            code,
            message: "x".repeat(code as usize % 300),
        };
        DownloadedBlob {
            outcome: (code != 9).then_some(outcome),
            data: Bytes::new(),
        }
    }

    fn pieces(mut writer: BatchWriter) -> Vec<Bytes> {
        let mut pieces = Vec::new();
        while let Some(piece) = writer.next_piece() {
            assert!(!piece.is_empty());
            pieces.push(piece);
        }
        assert!(writer.is_over());
        pieces
    }

    #[test]
    fn long_blobs_are_not_copied_and_short_ones_share_pieces() {
        let long = Bytes::from(vec![1; COPY_BELOW]);
        let short = Bytes::from(vec![2; 1000]);
        let blobs = [&short, &short, &long, &short].map(|data| (fields(0, 1), data.clone()));
        let pieces = pieces(BatchWriter::new(blobs.into_iter(), 1 << 20).unwrap());
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[1].as_ptr(), long.as_ptr());
    }

    #[test]
    fn a_last_blob_is_not_copied_and_ends_the_message() {
        let [short, long] = [1000, COPY_BELOW].map(|size| Bytes::from(vec![2; size]));
        for before in [vec![], vec![&short], vec![&long], vec![&long, &long]] {
            let writer = || {
                let blobs = before.iter().copied().chain([&short]).cloned();
                let entries: Vec<_> = blobs.map(|data| (fields(0, 1), data)).collect();
                BatchWriter::new(entries.into_iter(), 1).unwrap()
            };
            let (mut whole, mut other) = (Vec::new(), writer());
            let mut copied = true;
            while !other.is_over() {
                match other.last_blob() {
                    Some((head, last)) => {
                        copied = last.as_ptr() != short.as_ptr();
                        whole.extend(head.into_iter().chain(last));
                    }
                    None => whole.extend(other.next_piece().unwrap()),
                }
            }
            assert!(other.last_blob().is_none());
            // Behind a short one it lies in its piece.
            assert_eq!(copied, before == [&short]);
            assert_eq!(whole, pieces(writer()).concat());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_bytes_are_those_of_generated_code(
            blobs in proptest::collection::vec(
                (0i32..400, prop_oneof![0usize..300, 0usize..20_000, 60_000usize..70_000]), 0..20),
            most in prop_oneof![1usize..300_000],
        ) {
            let entries: Vec<_> = blobs
                .iter()
                .map(|(code, size)| (fields(*code, *size as u64), Bytes::from(vec![3; *size])))
                .collect();
            let message = BatchDownloadResponse {
                blobs: entries
                    .iter()
                    .map(|(fields, data)| DownloadedBlob { data: data.clone(), ..fields.clone() })
                    .collect(),
            };
            let pieces = pieces(BatchWriter::new(entries.into_iter(), most).unwrap());
            let most = most.max(COPY_BELOW);
            for piece in &pieces {
                prop_assert!(piece.len() <= most + COPY_BELOW);
            }
            prop_assert_eq!(pieces.concat(), frame::message(&message).unwrap());
        }
    }
}
