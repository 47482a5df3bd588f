//! Reading the answer to `Transport.Download`.

use bytes::Bytes;

use super::decode::{DecodeLimits, Decoder, Fields, FrameError, Part, Shape};
use super::frame::PayloadField;

/// Reads a stream of `DownloadResponse` as it arrives.
///
/// Give [`next`](Self::next) what came until it has no more to say, then the next
/// bytes; call [`finish`](Self::finish) at the end of the stream. It holds no
/// payload and reserves nothing.
///
/// It takes what generated code takes, but for two things that no writer of
/// proto3 makes and that can't be honoured without holding messages back: groups,
/// and `data` twice in a message. Both are refused.
#[derive(Debug)]
pub struct DownloadDecoder(Decoder);

impl DownloadDecoder {
    /// A decoder at the start of a stream.
    pub fn new(limits: DecodeLimits) -> Self {
        let fields = Fields {
            payload: PayloadField::Data.number(),
            embedded: None,
            shape: Shape::OneOf,
        };
        Self(Decoder::new(fields, limits))
    }

    /// Takes bytes off the front of `data`, up to the end of the next piece of the
    /// blob, and gives it, not copied and not empty. `None`: all of `data` is read.
    ///
    /// # Errors
    /// A [`FrameError`], and the same again from then on.
    pub fn next(&mut self, data: &mut Bytes) -> Result<Option<Bytes>, FrameError> {
        loop {
            match self.0.next(data)? {
                None => return Ok(None),
                Some(Part::Payload(piece)) if !piece.is_empty() => return Ok(Some(piece)),
                Some(_) => {}
            }
        }
    }

    /// Says that the stream ended.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] inside a message; the error that came before.
    pub fn finish(&self) -> Result<(), FrameError> {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message;
    use zako_protobuf::transport::DownloadResponse;

    fn decode(wire: &[u8], step: usize) -> Result<Vec<u8>, FrameError> {
        let mut decoder = DownloadDecoder::new(DecodeLimits::default());
        let mut blob = Vec::new();
        for piece in wire.chunks(step) {
            let mut data = Bytes::copy_from_slice(piece);
            while let Some(piece) = decoder.next(&mut data)? {
                assert!(!piece.is_empty());
                blob.extend_from_slice(&piece);
            }
        }
        decoder.finish()?;
        Ok(blob)
    }

    #[test]
    fn the_payload_is_not_copied() {
        let frame = super::super::frame::message(&DownloadResponse {
            data: vec![7; 1000].into(),
        })
        .unwrap();
        let mut data = frame.clone();
        let mut decoder = DownloadDecoder::new(DecodeLimits::default());
        let piece = decoder.next(&mut data).unwrap().unwrap();
        assert_eq!(piece.len(), 1000);
        assert!(frame.as_ptr_range().contains(&piece.as_ptr()));
    }

    #[test]
    fn an_error_stays() {
        let mut decoder = DownloadDecoder::new(DecodeLimits::default());
        let mut data = Bytes::from_static(&[1, 0, 0, 0, 0]);
        assert_eq!(decoder.next(&mut data), Err(FrameError::Compressed));
        let mut good = Bytes::from_static(&[0, 0, 0, 0, 0]);
        assert_eq!(decoder.next(&mut good), Err(FrameError::Compressed));
        assert_eq!(decoder.next(&mut Bytes::new()), Err(FrameError::Compressed));
        assert_eq!(decoder.finish(), Err(FrameError::Compressed));
    }

    #[test]
    fn the_longest_length_is_refused_by_its_number() {
        let head = [0, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(
            decode(&head, 5),
            Err(FrameError::TooLong {
                length: u32::MAX,
                limit: 16 * 1024 * 1024
            })
        );
    }

    #[test]
    fn two_payloads_and_groups_are_refused() {
        for body in [&[0x0a, 0, 0x0a, 0][..], &[0x1b, 0x1c], &[0x0c]] {
            let wire = [&[0, 0, 0, 0, body.len() as u8], body].concat();
            assert!(matches!(decode(&wire, 3), Err(FrameError::Malformed(_))));
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_the_blob(
            pieces in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..200), 0..6),
            step in 1usize..300,
        ) {
            let wire: Vec<u8> = pieces.iter().flat_map(|piece| {
                let body = DownloadResponse { data: piece.clone().into() }.encode_to_vec();
                let head = [&[0][..], &(body.len() as u32).to_be_bytes()].concat();
                [head, body].concat()
            }).collect();
            prop_assert_eq!(decode(&wire, step), Ok(pieces.concat()));
        }

        #[test]
        fn any_bytes_give_no_more_than_they_are(
            wire in proptest::collection::vec(any::<u8>(), 0..300), step in 1usize..50,
        ) {
            if let Ok(blob) = decode(&wire, step) {
                prop_assert!(blob.len() <= wire.len());
            }
        }
    }
}
