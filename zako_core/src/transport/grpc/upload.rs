//! Reading what comes to `Transport.Upload`.

use bytes::Bytes;
use prost::Message;
use zako_protobuf::transport::BlobResource;

use super::decode::{DecodeLimits, Decoder, Fields, FrameError, Part, Shape};
use super::frame::PayloadField;

const METADATA: u32 = 1;

/// Reads a stream of `UploadRequest` as it arrives.
///
/// Give [`next`](Self::next) what came until it has no more to say, then the next
/// bytes; call [`finish`](Self::finish) at the end of the stream. It holds no
/// payload, of metadata at most [`DecodeLimits::metadata`] bytes, and reserves
/// nothing.
///
/// It takes what generated code takes, but for two things that no writer of
/// proto3 makes and that can't be honoured without holding messages back: groups,
/// and the `payload` twice in a message. Both are refused.
#[derive(Debug)]
pub struct UploadDecoder(Decoder);

/// What came.
#[derive(Clone, Debug, PartialEq)]
pub enum UploadEvent {
    /// A message with metadata.
    Metadata(BlobResource),
    /// A piece of a chunk, not copied; empty only if the whole chunk is.
    Chunk(Bytes),
    /// A message with neither.
    Unset,
}

impl UploadDecoder {
    /// A decoder at the start of a stream.
    pub fn new(limits: DecodeLimits) -> Self {
        let fields = Fields {
            payload: PayloadField::Chunk.number(),
            embedded: Some(METADATA),
            shape: Shape::OneOf,
        };
        Self(Decoder::new(fields, limits))
    }

    /// Takes bytes off the front of `data`, up to the end of the next event, and
    /// gives it. `None`: all of `data` is read.
    ///
    /// # Errors
    /// A [`FrameError`]; the upload is lost then.
    pub fn next(&mut self, data: &mut Bytes) -> Result<Option<UploadEvent>, FrameError> {
        Ok(match self.0.next(data)? {
            None => None,
            Some(Part::Payload(piece)) => Some(UploadEvent::Chunk(piece)),
            Some(Part::Embedded(metadata)) => {
                let metadata = BlobResource::decode(metadata)
                    .map_err(|_| FrameError::Malformed("the metadata does not decode"))?;
                Some(UploadEvent::Metadata(metadata))
            }
            Some(Part::End | Part::Number(..)) => Some(UploadEvent::Unset),
        })
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
    use super::super::frame;
    use super::*;
    use proptest::prelude::*;
    use prost::encoding::{WireType, encode_key, encode_varint};
    use zako_protobuf::transport::{UploadRequest, upload_request::Payload};
    use zako_protobuf::{digest::Digest, range::BlobRange};

    fn metadata() -> impl Strategy<Value = BlobResource> {
        let digest = (any::<u64>(), proptest::collection::vec(any::<u8>(), 0..64)).prop_map(
            |(size_bytes, blake3)| Digest {
                size_bytes,
                blake3: blake3.into(),
            },
        );
        let range =
            any::<(u64, Option<u64>)>().prop_map(|(start, length)| BlobRange { start, length });
        (proptest::option::of(digest), proptest::option::of(range))
            .prop_map(|(digest, range)| BlobResource { digest, range })
    }

    fn payload() -> impl Strategy<Value = Option<Payload>> {
        prop_oneof![
            1 => Just(None),
            2 => metadata().prop_map(|resource| Some(Payload::Metadata(resource))),
            4 => proptest::collection::vec(any::<u8>(), 0..300)
                .prop_map(|chunk| Some(Payload::Chunk(chunk.into()))),
        ]
    }

    fn unknown_field() -> impl Strategy<Value = Vec<u8>> {
        let number = prop_oneof![3u32..20, 3u32..=(1 << 29) - 1];
        (
            number,
            any::<u64>(),
            proptest::collection::vec(any::<u8>(), 0..40),
            0u8..4,
        )
            .prop_map(|(number, value, bytes, kind)| {
                let mut field = Vec::new();
                match kind {
                    0 => {
                        encode_key(number, WireType::Varint, &mut field);
                        encode_varint(value, &mut field);
                    }
                    1 => {
                        encode_key(number, WireType::SixtyFourBit, &mut field);
                        field.extend(value.to_le_bytes());
                    }
                    2 => {
                        encode_key(number, WireType::ThirtyTwoBit, &mut field);
                        field.extend((value as u32).to_le_bytes());
                    }
                    _ => {
                        encode_key(number, WireType::LengthDelimited, &mut field);
                        encode_varint(bytes.len() as u64, &mut field);
                        field.extend(bytes);
                    }
                }
                field
            })
    }

    /// A message as some writer may have made it, with its gRPC head.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let unknown = || proptest::collection::vec(unknown_field(), 0..3);
        (unknown(), payload(), unknown()).prop_map(|(before, payload, after)| {
            let mut body = before.concat();
            UploadRequest { payload }.encode_raw(&mut body);
            body.extend(after.concat());
            framed(&body)
        })
    }

    fn framed(body: &[u8]) -> Vec<u8> {
        let mut framed = vec![0];
        framed.extend((body.len() as u32).to_be_bytes());
        framed.extend(body);
        framed
    }

    /// Feeds `wire` cut at `cuts`; pieces of one chunk are put together again.
    fn decode(wire: &[u8], cuts: &[usize]) -> Result<Vec<UploadEvent>, FrameError> {
        let mut decoder = UploadDecoder::new(DecodeLimits::default());
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (wire.len() + 1)).collect();
        ends.push(wire.len());
        ends.sort_unstable();
        let mut events = Vec::new();
        let mut start = 0;
        for end in ends {
            let mut data = Bytes::copy_from_slice(&wire[start..end]);
            while let Some(event) = decoder.next(&mut data)? {
                events.push(event);
            }
            assert!(data.is_empty());
            start = end;
        }
        decoder.finish()?;
        Ok(joined(events))
    }

    fn joined(events: Vec<UploadEvent>) -> Vec<UploadEvent> {
        let mut joined: Vec<UploadEvent> = Vec::new();
        for event in events {
            match (joined.last_mut(), event) {
                (Some(UploadEvent::Chunk(chunk)), UploadEvent::Chunk(more)) => {
                    *chunk = [&chunk[..], &more].concat().into();
                }
                (_, event) => joined.push(event),
            }
        }
        joined
    }

    /// What generated code reads; `None` if it refuses.
    fn decode_with_prost(mut wire: &[u8]) -> Option<Vec<UploadEvent>> {
        let mut events = Vec::new();
        while !wire.is_empty() {
            let (head, rest) = wire.split_at_checked(5)?;
            let length = u32::from_be_bytes(head[1..].try_into().unwrap());
            let (body, rest) = rest.split_at_checked(length as usize)?;
            if head[0] != 0 {
                return None;
            }
            events.push(match UploadRequest::decode(body).ok()?.payload {
                None => UploadEvent::Unset,
                Some(Payload::Metadata(metadata)) => UploadEvent::Metadata(metadata),
                Some(Payload::Chunk(chunk)) => UploadEvent::Chunk(chunk),
            });
            wire = rest;
        }
        Some(joined(events))
    }

    #[test]
    fn a_message_has_one_payload() {
        let both = [
            UploadRequest {
                payload: Some(Payload::Metadata(BlobResource::default())),
            }
            .encode_to_vec(),
            UploadRequest {
                payload: Some(Payload::Chunk(Bytes::from_static(b"x"))),
            }
            .encode_to_vec(),
        ]
        .concat();
        assert!(matches!(
            decode(&framed(&both), &[]),
            Err(FrameError::Malformed(_))
        ));
    }

    #[test]
    fn long_metadata_is_refused_by_its_length() {
        let mut body = Vec::new();
        encode_key(METADATA, WireType::LengthDelimited, &mut body);
        encode_varint(4097, &mut body);
        body.resize(body.len() + 4097, 0);
        assert_eq!(
            decode(&framed(&body)[..8], &[]),
            Err(FrameError::TooLong {
                length: 4097,
                limit: 4096
            })
        );
    }

    proptest! {
        #[test]
        fn any_split_gives_what_generated_code_reads(
            messages in proptest::collection::vec(message(), 0..6),
            cuts in proptest::collection::vec(any::<usize>(), 0..40),
        ) {
            let wire = messages.concat();
            prop_assert_eq!(decode(&wire, &cuts), Ok(decode_with_prost(&wire).unwrap()));
        }

        #[test]
        fn one_byte_at_a_time(messages in proptest::collection::vec(message(), 0..3)) {
            let wire = messages.concat();
            let cuts: Vec<usize> = (0..wire.len()).collect();
            prop_assert_eq!(decode(&wire, &cuts), Ok(decode_with_prost(&wire).unwrap()));
        }

        #[test]
        fn a_cut_stream_is_an_error(message in message(), cut: usize) {
            let cut = 1 + cut % (message.len() - 1);
            let result = decode(&message[..cut], &[]);
            prop_assert_eq!(result, Err(FrameError::Truncated));
        }

        #[test]
        fn damage_is_refused_or_read_as_generated_code_reads_it(
            messages in proptest::collection::vec(message(), 1..4),
            at: usize, bit in 0u8..8,
            cuts in proptest::collection::vec(any::<usize>(), 0..10),
        ) {
            let mut wire = messages.concat();
            let at = at % wire.len();
            wire[at] ^= 1 << bit;
            if let Ok(events) = decode(&wire, &cuts) {
                prop_assert_eq!(Some(events), decode_with_prost(&wire));
            }
        }

        #[test]
        fn any_bytes_are_refused_or_read_as_generated_code_reads_them(
            bodies in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..40), 0..4),
            cuts in proptest::collection::vec(any::<usize>(), 0..10),
        ) {
            let wire: Vec<u8> = bodies.iter().flat_map(|body| framed(body)).collect();
            if let Ok(events) = decode(&wire, &cuts) {
                prop_assert_eq!(Some(events), decode_with_prost(&wire));
            }
            let bare = bodies.concat();
            if let Ok(events) = decode(&bare, &cuts) {
                prop_assert_eq!(Some(events), decode_with_prost(&bare));
            }
        }

        #[test]
        fn framed_chunks_come_back(
            data in proptest::collection::vec(any::<u8>(), 0..5000), max in 1usize..6000,
        ) {
            let data = Bytes::from(data);
            let mut rest = data.clone();
            let mut framer = frame::Framer::new(PayloadField::Chunk, max);
            let mut decoder = UploadDecoder::new(DecodeLimits::default());
            let mut back = Vec::new();
            while let Some(frame) = framer.next_frame(&mut rest) {
                for mut part in [frame.prefix, frame.payload] {
                    while let Some(event) = decoder.next(&mut part).unwrap() {
                        let UploadEvent::Chunk(piece) = event else { panic!("{event:?}") };
                        back.extend_from_slice(&piece);
                    }
                }
            }
            prop_assert_eq!(&back, &data);
            prop_assert_eq!(decoder.finish(), Ok(()));
        }
    }
}
