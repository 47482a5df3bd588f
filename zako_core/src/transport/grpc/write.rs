//! Reading what comes to `google.bytestream.ByteStream/Write`.

use bytes::Bytes;

use super::decode::{DecodeLimits, Decoder, Fields, FrameError, Part, Shape};
use super::frame::PayloadField;

const RESOURCE_NAME: u32 = 1;
const WRITE_OFFSET: u32 = 2;
const FINISH_WRITE: u32 = 3;

/// Reads a stream of `google.bytestream.WriteRequest` as it arrives.
///
/// Give [`next`](Self::next) what came until it has no more to say, then the next
/// bytes; call [`finish`](Self::finish) at the end of the stream. It holds no data, of
/// a name at most [`DecodeLimits::metadata`] bytes, and reserves nothing.
///
/// It takes what generated code takes, but for what no writer of proto3 makes and
/// can't be honoured without holding data back: groups, a known field twice in a
/// message, and one behind the message's data. These are refused.
#[derive(Debug)]
pub struct WriteDecoder {
    decoder: Decoder,
    /// Of the message that is being read.
    head: WriteHead,
    /// Whether that was given.
    begun: bool,
    /// What is to be said next.
    next: Option<WriteEvent>,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteEvent {
    /// A message begins: its fields but for the data. Once for each message.
    Head(WriteHead),
    /// A piece of the message's data, not copied and not empty.
    Data(Bytes),
    /// The message is whole.
    End,
}

/// A `WriteRequest` but for its data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteHead {
    /// The resource's name, of which nobody has checked whether it is UTF-8; empty if
    /// there is none.
    pub resource_name: Bytes,
    /// Where in the resource the data belong.
    pub write_offset: i64,
    /// Whether the resource ends behind the data.
    pub finish_write: bool,
}

impl WriteDecoder {
    /// A decoder at the start of a stream.
    pub fn new(limits: DecodeLimits) -> Self {
        let fields = Fields {
            payload: PayloadField::ByteStream.number(),
            embedded: Some(RESOURCE_NAME),
            shape: Shape::AllBeforePayload {
                varints: [WRITE_OFFSET, FINISH_WRITE],
            },
        };
        Self {
            decoder: Decoder::new(fields, limits),
            head: WriteHead::default(),
            begun: false,
            next: None,
        }
    }

    /// Takes bytes off the front of `data`, up to the end of the next event, and
    /// gives it. `None`: all of `data` is read.
    ///
    /// # Errors
    /// A [`FrameError`], and the same again from then on.
    pub fn next(&mut self, data: &mut Bytes) -> Result<Option<WriteEvent>, FrameError> {
        if let Some(event) = self.next.take() {
            return Ok(Some(event));
        }
        loop {
            let Some(part) = self.decoder.next(data)? else {
                return Ok(None);
            };
            match part {
                Part::Embedded(name) => self.head.resource_name = name,
                Part::Number(WRITE_OFFSET, value) => self.head.write_offset = value.cast_signed(),
                Part::Number(_, value) => self.head.finish_write = value != 0,
                // Data that is empty is none.
                Part::Payload(piece) if piece.is_empty() => {}
                Part::Payload(piece) => return Ok(Some(self.say(WriteEvent::Data(piece)))),
                Part::End => {
                    let event = self.say(WriteEvent::End);
                    self.begun = false;
                    return Ok(Some(event));
                }
            }
        }
    }

    /// This event, or the message's head before it.
    fn say(&mut self, event: WriteEvent) -> WriteEvent {
        if std::mem::replace(&mut self.begun, true) {
            return event;
        }
        self.next = Some(event);
        WriteEvent::Head(std::mem::take(&mut self.head))
    }

    /// Says that the stream ended.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] inside a message; the error that came before.
    pub fn finish(&self) -> Result<(), FrameError> {
        self.decoder.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame;
    use super::*;
    use proptest::prelude::*;
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    struct WriteRequest {
        #[prost(bytes = "bytes", tag = "1")]
        resource_name: Bytes,
        #[prost(int64, tag = "2")]
        write_offset: i64,
        #[prost(bool, tag = "3")]
        finish_write: bool,
        #[prost(bytes = "bytes", tag = "10")]
        data: Bytes,
    }

    fn request() -> impl Strategy<Value = WriteRequest> {
        let bytes = |most| proptest::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from);
        let offset = prop_oneof![Just(0), any::<i64>(), 0i64..1_000_000];
        (bytes(60), offset, any::<bool>(), bytes(300)).prop_map(
            |(resource_name, write_offset, finish_write, data)| WriteRequest {
                resource_name,
                write_offset,
                finish_write,
                data,
            },
        )
    }

    /// Feeds `wire` in steps; the messages that came.
    fn decode(wire: &[u8], step: usize) -> Result<Vec<WriteRequest>, FrameError> {
        let mut decoder = WriteDecoder::new(DecodeLimits::default());
        let (mut requests, mut open) = (Vec::new(), None::<WriteRequest>);
        for piece in wire.chunks(step.max(1)) {
            let mut data = Bytes::copy_from_slice(piece);
            while let Some(event) = decoder.next(&mut data)? {
                match event {
                    WriteEvent::Head(head) => {
                        let request = WriteRequest {
                            resource_name: head.resource_name,
                            write_offset: head.write_offset,
                            finish_write: head.finish_write,
                            data: Bytes::new(),
                        };
                        assert!(open.replace(request).is_none(), "no end before a head");
                    }
                    WriteEvent::Data(piece) => {
                        assert!(!piece.is_empty());
                        let open = open.as_mut().unwrap();
                        open.data = [&open.data[..], &piece].concat().into();
                    }
                    WriteEvent::End => requests.push(open.take().unwrap()),
                }
            }
            assert!(data.is_empty());
        }
        decoder.finish()?;
        Ok(requests)
    }

    fn decode_with_prost(mut wire: &[u8]) -> Option<Vec<WriteRequest>> {
        let mut requests = Vec::new();
        while !wire.is_empty() {
            let (head, rest) = wire.split_at_checked(5)?;
            let length = u32::from_be_bytes(head[1..].try_into().unwrap());
            let (body, rest) = rest.split_at_checked(length as usize)?;
            if head[0] != 0 {
                return None;
            }
            requests.push(WriteRequest::decode(body).ok()?);
            wire = rest;
        }
        Some(requests)
    }

    fn framed(bodies: &[&[u8]]) -> Vec<u8> {
        let body = bodies.concat();
        let mut framed = vec![0];
        framed.extend((body.len() as u32).to_be_bytes());
        framed.extend(body);
        framed
    }

    #[test]
    fn a_field_comes_once_and_the_data_last() {
        let name = &[0x0a, 1, b'n'][..];
        let (offset, finish, data) = (&[0x10, 5][..], &[0x18, 1][..], &[0x52, 1, 7][..]);
        let good = framed(&[finish, &[0x20, 9], name, offset, data, &[0x7a, 1, 0]]);
        let read = decode(&good, 1).unwrap();
        assert_eq!(read[0].write_offset, 5);
        assert!(read[0].finish_write);
        for bad in [
            [name, name],
            [offset, offset],
            [finish, finish],
            [data, data],
            [data, name],
            [data, offset],
            [data, finish],
        ] {
            let error = decode(&framed(&bad), 3).unwrap_err();
            assert!(matches!(error, FrameError::Malformed(_)), "{bad:?}");
        }
    }

    #[test]
    fn a_long_name_is_refused_by_its_length() {
        let wire = framed(&[&[0x0a, 0x81, 0x20], &[b'n'; 4097]]);
        let error = decode(&wire[..8], 8).unwrap_err();
        assert!(matches!(error, FrameError::TooLong { length: 4097, .. }));
    }

    proptest! {
        #[test]
        fn any_cut_gives_what_generated_code_reads(
            requests in proptest::collection::vec(request(), 0..6), step in 1usize..400,
        ) {
            let wire: Vec<u8> = requests.iter()
                .flat_map(|request| frame::message(request).unwrap()).collect();
            prop_assert_eq!(decode(&wire, step), Ok(requests));
        }

        #[test]
        fn damage_is_refused_or_read_as_generated_code_reads_it(
            requests in proptest::collection::vec(request(), 1..4),
            at: usize, bit in 0u8..8, step in 1usize..400,
        ) {
            let mut wire: Vec<u8> = requests.iter()
                .flat_map(|request| frame::message(request).unwrap()).collect();
            let at = at % wire.len();
            wire[at] ^= 1 << bit;
            if let Ok(read) = decode(&wire, step) {
                prop_assert_eq!(Some(read), decode_with_prost(&wire));
            }
        }

        #[test]
        fn any_bytes_are_refused_or_read_as_generated_code_reads_them(
            bodies in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..40), 0..4),
            step in 1usize..50,
        ) {
            let wire: Vec<u8> = bodies.iter().flat_map(|body| framed(&[body])).collect();
            if let Ok(read) = decode(&wire, step) {
                prop_assert_eq!(Some(read), decode_with_prost(&wire));
            }
        }

        #[test]
        fn a_cut_stream_is_an_error(request in request(), cut: usize) {
            let wire = frame::message(&request).unwrap();
            let cut = 1 + cut % wire.len();
            prop_assume!(cut < wire.len());
            prop_assert_eq!(decode(&wire[..cut], 7), Err(FrameError::Truncated));
        }
    }
}
