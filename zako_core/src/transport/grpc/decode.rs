//! Reading gRPC messages as they arrive, without input or output of its own.

use bytes::{Buf, Bytes, BytesMut};

use super::frame::{self, HEAD_LEN};
use super::varint::Varint;
use crate::cas::{CasError, ErrorKind};

/// What the other side may send.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// The longest message, in bytes. Costs no memory.
    pub message: u32,
    /// The longest metadata, in bytes; that much may be held.
    pub metadata: u32,
}

/// What is wrong with the bytes of a stream of messages.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A message is compressed, which was not agreed upon.
    #[error("a message is compressed, and no compression was agreed upon")]
    Compressed,
    /// A message, or the metadata in it, is longer than allowed (bytes).
    #[error("{length} bytes are more than the {limit} that are allowed here")]
    TooLong {
        /// The length that the message claims.
        length: u32,
        /// The longest one allowed.
        limit: u32,
    },
    /// The bytes are not those of the message that belongs here.
    #[error("a message is malformed: {0}")]
    Malformed(&'static str),
    /// The stream ends inside a message.
    #[error("the stream ends inside a message")]
    Truncated,
}

/// Reads messages of which one `bytes` field is the payload; another field may hold a
/// few bytes, and some may be numbers. All other fields are skipped.
#[derive(Debug)]
pub(super) struct Decoder {
    fields: Fields,
    limits: DecodeLimits,
    state: State,
    /// What is to come of the message that is being read.
    left: u32,
    /// Which known fields of this message have come, a bit each.
    seen: u32,
}

/// The fields that are known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields {
    pub(super) payload: u32,
    pub(super) embedded: Option<u32>,
    pub(super) shape: Shape,
}

/// How the known fields stand to one another.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// A message has one of them, or none.
    OneOf,
    /// A message may have all of them, each once, the payload last. So do writers put
    /// them whose payload has the highest number. The varints are those of these
    /// numbers.
    AllBeforePayload { varints: [u32; 2] },
}

/// What came.
#[derive(Debug)]
pub(super) enum Part {
    /// A piece of the payload; empty only if the whole payload is.
    Payload(Bytes),
    /// The small message, whole.
    Embedded(Bytes),
    /// The varint of this number.
    Number(u32, u64),
    /// A message ended that had neither payload nor small message; with
    /// [`Shape::AllBeforePayload`] every message's end.
    End,
}

#[derive(Debug)]
enum State {
    Head {
        bytes: [u8; HEAD_LEN],
        have: usize,
    },
    Key(Varint),
    Length(Field, Varint),
    Payload {
        left: u32,
    },
    Embedded {
        left: u32,
        held: BytesMut,
    },
    /// Of a known field, or to be skipped.
    Number(Option<u32>, Varint),
    Skip {
        left: u32,
    },
    Failed(FrameError),
}

#[derive(Clone, Copy, Debug)]
enum Field {
    Payload,
    Embedded,
    Varint,
    Unknown,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self {
            message: 16 * 1024 * 1024,
            metadata: 4 * 1024,
        }
    }
}

impl From<FrameError> for CasError {
    fn from(error: FrameError) -> Self {
        CasError::new(ErrorKind::Internal, error.to_string())
    }
}

impl State {
    const START: Self = Self::Head {
        bytes: [0; HEAD_LEN],
        have: 0,
    };

    fn key() -> Self {
        Self::Key(Varint::default())
    }
}

impl Decoder {
    pub(super) fn new(fields: Fields, limits: DecodeLimits) -> Self {
        Self {
            fields,
            limits,
            state: State::START,
            left: 0,
            seen: 0,
        }
    }

    /// Takes bytes off the front of `data` up to the next part. `None` says that
    /// all of `data` is read and more is needed. An error stays.
    pub(super) fn next(&mut self, data: &mut Bytes) -> Result<Option<Part>, FrameError> {
        let next = self.step(data);
        if let Err(error) = next {
            self.state = State::Failed(error);
        }
        next
    }

    /// Says that nothing more will come.
    pub(super) fn finish(&self) -> Result<(), FrameError> {
        match self.state {
            State::Head { have: 0, .. } => Ok(()),
            State::Failed(error) => Err(error),
            _ => Err(FrameError::Truncated),
        }
    }

    fn step(&mut self, data: &mut Bytes) -> Result<Option<Part>, FrameError> {
        loop {
            if let State::Key(key) = &self.state
                && self.left == 0
            {
                if !key.is_empty() {
                    return Err(PAST_END);
                }
                self.state = State::START;
                if self.seen == 0 || matches!(self.fields.shape, Shape::AllBeforePayload { .. }) {
                    return Ok(Some(Part::End));
                }
            }
            if data.is_empty() {
                return match self.state {
                    State::Failed(error) => Err(error),
                    _ => Ok(None),
                };
            }
            match &mut self.state {
                State::Head { bytes, have } => {
                    let take = data.len().min(HEAD_LEN - *have);
                    data.copy_to_slice(&mut bytes[*have..*have + take]);
                    *have += take;
                    if *have == HEAD_LEN {
                        let length = frame::check_head(*bytes)?;
                        within(length, self.limits.message)?;
                        self.left = length;
                        self.seen = 0;
                        self.state = State::key();
                    }
                }
                State::Key(key) => {
                    self.left -= 1;
                    if let Some(key) = key.push(data.get_u8())? {
                        self.state = self.field(key)?;
                    }
                }
                State::Length(field, length) => {
                    let field = *field;
                    // Reached with bytes left: every state that needs one checks.
                    self.left = self.left.checked_sub(1).ok_or(PAST_END)?;
                    if let Some(length) = length.push(data.get_u8())? {
                        if length > u64::from(self.left) {
                            return Err(PAST_END);
                        }
                        // At most `left`, which is 32 bits.
                        if let Some(part) = self.content(field, length as u32)? {
                            return Ok(Some(part));
                        }
                    }
                }
                State::Payload { left } => {
                    let piece = take(data, left, &mut self.left);
                    if *left == 0 {
                        self.state = State::key();
                    }
                    return Ok(Some(Part::Payload(piece)));
                }
                State::Embedded { left, held } => {
                    let piece = take(data, left, &mut self.left);
                    if *left > 0 {
                        held.extend_from_slice(&piece);
                        continue;
                    }
                    let whole = if held.is_empty() {
                        piece
                    } else {
                        held.extend_from_slice(&piece);
                        std::mem::take(held).freeze()
                    };
                    self.state = State::key();
                    return Ok(Some(Part::Embedded(whole)));
                }
                State::Number(number, varint) => {
                    let number = *number;
                    self.left = self.left.checked_sub(1).ok_or(PAST_END)?;
                    if let Some(value) = varint.push(data.get_u8())? {
                        self.state = State::key();
                        if let Some(number) = number {
                            return Ok(Some(Part::Number(number, value)));
                        }
                    }
                }
                State::Skip { left } => {
                    take(data, left, &mut self.left);
                    if *left == 0 {
                        self.state = State::key();
                    }
                }
                State::Failed(error) => return Err(*error),
            }
        }
    }

    /// What follows this key.
    fn field(&mut self, key: u64) -> Result<State, FrameError> {
        let key = u32::try_from(key)
            .map_err(|_| FrameError::Malformed("a field's key has more than 32 bits"))?;
        let (number, wire_type) = (key >> 3, key & 7);
        let field = if number == self.fields.payload {
            Field::Payload
        } else if Some(number) == self.fields.embedded {
            Field::Embedded
        } else if self.fields.varint(number).is_some() {
            Field::Varint
        } else if number == 0 {
            return Err(FrameError::Malformed("a field has the number 0"));
        } else {
            Field::Unknown
        };
        match (field, wire_type) {
            (Field::Unknown, 2) => Ok(State::Length(field, Varint::default())),
            (Field::Payload | Field::Embedded, 2) => {
                self.note(field, number)?;
                Ok(State::Length(field, Varint::default()))
            }
            (Field::Unknown, 0) => Ok(State::Number(None, Varint::default())),
            (Field::Varint, 0) => {
                self.note(field, number)?;
                Ok(State::Number(Some(number), Varint::default()))
            }
            (Field::Unknown, 1) => self.skip(8),
            (Field::Unknown, 5) => self.skip(4),
            (_, 3 | 4) => Err(FrameError::Malformed("proto3 has no groups")),
            (_, 6 | 7) => Err(FrameError::Malformed("a field's wire type is unknown")),
            _ => Err(FrameError::Malformed("a field has another wire type")),
        }
    }

    /// Notes that a known field comes, if it may.
    fn note(&mut self, field: Field, number: u32) -> Result<(), FrameError> {
        let bit = match field {
            Field::Payload => PAYLOAD_SEEN,
            Field::Embedded => PAYLOAD_SEEN << 1,
            Field::Varint | Field::Unknown => {
                PAYLOAD_SEEN << (2 + self.fields.varint(number).unwrap_or(0))
            }
        };
        match self.fields.shape {
            Shape::OneOf if self.seen != 0 => {
                return Err(FrameError::Malformed("a message has two payloads"));
            }
            Shape::AllBeforePayload { .. } if self.seen & bit != 0 => {
                return Err(FrameError::Malformed("a message has a field twice"));
            }
            Shape::AllBeforePayload { .. } if self.seen & PAYLOAD_SEEN != 0 => {
                return Err(FrameError::Malformed(
                    "a field follows its message's payload",
                ));
            }
            _ => {}
        }
        self.seen |= bit;
        Ok(())
    }

    /// What follows a field's length.
    fn content(&mut self, field: Field, length: u32) -> Result<Option<Part>, FrameError> {
        self.state = match field {
            Field::Unknown | Field::Varint => self.skip(length)?,
            Field::Payload if length == 0 => {
                self.state = State::key();
                return Ok(Some(Part::Payload(Bytes::new())));
            }
            Field::Payload => State::Payload { left: length },
            Field::Embedded if length == 0 => {
                self.state = State::key();
                return Ok(Some(Part::Embedded(Bytes::new())));
            }
            Field::Embedded => {
                within(length, self.limits.metadata)?;
                State::Embedded {
                    left: length,
                    held: BytesMut::new(),
                }
            }
        };
        Ok(None)
    }

    fn skip(&self, length: u32) -> Result<State, FrameError> {
        if length > self.left {
            return Err(PAST_END);
        }
        Ok(match length {
            0 => State::key(),
            left => State::Skip { left },
        })
    }
}

impl Fields {
    /// Which of the known varints has this number.
    fn varint(&self, number: u32) -> Option<usize> {
        match &self.shape {
            Shape::OneOf => None,
            Shape::AllBeforePayload { varints } => varints.iter().position(|at| *at == number),
        }
    }
}

/// The first bit of [`Decoder::seen`].
const PAYLOAD_SEEN: u32 = 1;

const PAST_END: FrameError = FrameError::Malformed("a field reaches past its message's end");

fn within(length: u32, limit: u32) -> Result<(), FrameError> {
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    Ok(())
}

/// Takes up to `field_left` bytes and counts them off the field and the message.
fn take(data: &mut Bytes, field_left: &mut u32, message_left: &mut u32) -> Bytes {
    let length = data.len().min(*field_left as usize);
    // At most a u32; a field never has more left than its message.
    *field_left -= length as u32;
    *message_left -= length as u32;
    data.split_to(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever comes, no more is held than metadata may have.
        #[test]
        fn memory_is_bounded(
            length in 0u32..20_000, claimed in 0u32..10_000, step in 1usize..5000,
            bytes in proptest::collection::vec(any::<u8>(), 0..20_000),
        ) {
            let mut wire = vec![0];
            wire.extend(length.to_be_bytes());
            wire.push(0x0a);
            prost::encoding::encode_varint(u64::from(claimed), &mut wire);
            wire.extend(bytes);
            let fields = Fields { payload: 2, embedded: Some(1), shape: Shape::OneOf };
            let mut decoder = Decoder::new(fields, DecodeLimits::default());
            'wire: for piece in wire.chunks(step) {
                let mut data = Bytes::copy_from_slice(piece);
                loop {
                    match decoder.next(&mut data) {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => break 'wire,
                    }
                }
                if let State::Embedded { held, .. } = &decoder.state {
                    prop_assert!(held.capacity() <= 2 * 4096);
                }
            }
        }
    }
}
