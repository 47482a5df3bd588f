//! Writing gRPC messages whose payload is one large `bytes` field.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::FrameError;

/// The most payload that one message may carry, in bytes: a gRPC message's length
/// is 32 bits, and the field's tag and length count too.
pub const MAX_PAYLOAD: usize = u32::MAX as usize - MAX_FIELD_HEAD;

/// The payload of a message in [`Framer`]'s default, in bytes. Clients made by
/// others refuse messages above 4 MiB, and a smaller message is sooner on its way.
pub const DEFAULT_PAYLOAD: usize = 256 * 1024;

/// The compressed flag and the length, in front of every gRPC message.
pub const HEAD_LEN: usize = 5;

/// A tag of one byte and the varint of a 32-bit length.
const MAX_FIELD_HEAD: usize = 1 + 5;

/// The `bytes` field that carries a message's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadField {
    /// `DownloadResponse.data`.
    Data,
    /// `UploadRequest.chunk`.
    Chunk,
    /// `data` of `google.bytestream`'s `ReadResponse` and `WriteRequest`.
    ByteStream,
}

impl PayloadField {
    /// The field's number.
    pub const fn number(self) -> u32 {
        match self {
            Self::Data => 1,
            Self::Chunk => 2,
            Self::ByteStream => 10,
        }
    }

    /// The tag of a length-delimited field of this number.
    const fn tag(self) -> u8 {
        const LENGTH_DELIMITED: u8 = 2;
        (self.number() as u8) << 3 | LENGTH_DELIMITED
    }
}

/// Cuts payload into messages: each is a prefix and a slice of the payload.
#[derive(Debug)]
pub struct Framer {
    field: PayloadField,
    max_payload: usize,
    /// The last prefix: all messages but a blob's last have the same.
    last: Option<(usize, Bytes)>,
}

/// A gRPC message on its way: write the prefix, then the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The gRPC message's head and the field's head.
    pub prefix: Bytes,
    /// The field's content, not copied.
    pub payload: Bytes,
}

impl Framer {
    /// Messages with at most `max_payload` bytes of payload each (at least 1, at
    /// most [`MAX_PAYLOAD`]).
    pub fn new(field: PayloadField, max_payload: usize) -> Self {
        Self {
            field,
            max_payload: max_payload.clamp(1, MAX_PAYLOAD),
            last: None,
        }
    }

    /// Takes the next message's payload off the front of `data`; `None` if there
    /// is nothing left.
    pub fn next_frame(&mut self, data: &mut Bytes) -> Option<Frame> {
        if data.is_empty() {
            return None;
        }
        let payload = data.split_to(data.len().min(self.max_payload));
        let prefix = self.prefix(payload.len());
        Some(Frame { prefix, payload })
    }

    /// The most payload of a message, in bytes.
    pub fn max_payload(&self) -> usize {
        self.max_payload
    }

    /// What stands before a payload of `length` bytes, at most
    /// [`max_payload`](Self::max_payload).
    pub fn prefix(&mut self, length: usize) -> Bytes {
        match &self.last {
            Some((last, prefix)) if *last == length => prefix.clone(),
            _ => {
                // The payload is at most MAX_PAYLOAD long, so its length fits.
                let prefix = prefix(self.field, length as u32);
                self.last = Some((length, prefix.clone()));
                prefix
            }
        }
    }
}

/// What stands before a payload of `len` bytes: the compressed flag (0), the
/// message's length, the field's tag and its length; 7 to 11 bytes.
///
/// `len` is at most [`MAX_PAYLOAD`]; the length of a longer one would wrap, so it
/// saturates, and the receiver refuses the message.
pub fn prefix(field: PayloadField, len: u32) -> Bytes {
    let field_head = 1 + prost::encoding::encoded_len_varint(u64::from(len));
    let mut prefix = BytesMut::with_capacity(HEAD_LEN + field_head);
    prefix.put_u8(0);
    prefix.put_u32(len.saturating_add(field_head as u32));
    prefix.put_u8(field.tag());
    prost::encoding::encode_varint(u64::from(len), &mut prefix);
    prefix.freeze()
}

/// A whole gRPC message, for messages without bulk.
///
/// # Errors
/// [`FrameError::TooLong`] from 4 GiB on.
pub fn message(message: &impl Message) -> Result<Bytes, FrameError> {
    let mut frame = begun(message.encoded_len())?;
    message.encode_raw(&mut frame);
    Ok(frame.freeze())
}

/// A whole gRPC message that is encoded already.
///
/// # Errors
/// [`FrameError::TooLong`] from 4 GiB on.
pub fn encoded(message: &[u8]) -> Result<Bytes, FrameError> {
    let mut frame = begun(message.len())?;
    frame.put_slice(message);
    Ok(frame.freeze())
}

/// A message's head, with room for the message behind it.
fn begun(len: usize) -> Result<BytesMut, FrameError> {
    let short = u32::try_from(len).map_err(|_| FrameError::TooLong {
        length: u32::MAX,
        limit: u32::MAX,
    })?;
    let mut frame = BytesMut::with_capacity(HEAD_LEN + len);
    frame.put_u8(0);
    frame.put_u32(short);
    Ok(frame)
}

/// Reads the one message of a unary call's whole body.
///
/// # Errors
/// A [`FrameError`] if `body` is anything else than one uncompressed message.
pub fn unary<M: Message + Default>(mut body: Bytes) -> Result<M, FrameError> {
    if body.len() < HEAD_LEN {
        return Err(FrameError::Truncated);
    }
    let head = body.split_to(HEAD_LEN);
    let length = check_head([head[0], head[1], head[2], head[3], head[4]])? as usize;
    if body.len() < length {
        return Err(FrameError::Truncated);
    }
    if body.len() > length {
        return Err(MORE_THAN_ONE);
    }
    M::decode(body).map_err(|_| NOT_DECODED)
}

pub(super) const MORE_THAN_ONE: FrameError =
    FrameError::Malformed("more than one message in a unary call");

pub(super) const NOT_DECODED: FrameError = FrameError::Malformed("the message does not decode");

/// The length that a message's head tells.
pub(super) fn check_head(head: [u8; HEAD_LEN]) -> Result<u32, FrameError> {
    let [flag, length @ ..] = head;
    match flag {
        0 => Ok(u32::from_be_bytes(length)),
        1 => Err(FrameError::Compressed),
        _ => Err(FrameError::Malformed(
            "a message's compressed flag is neither 0 nor 1",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zako_protobuf::transport::{DownloadResponse, UploadRequest, upload_request::Payload};

    fn joined(framer: &mut Framer, mut data: Bytes) -> Vec<u8> {
        let mut wire = Vec::new();
        while let Some(frame) = framer.next_frame(&mut data) {
            wire.extend_from_slice(&frame.prefix);
            wire.extend_from_slice(&frame.payload);
        }
        wire
    }

    #[test]
    fn the_payload_is_not_copied() {
        let data = Bytes::from(vec![7; 1000]);
        let mut rest = data.clone();
        let mut framer = Framer::new(PayloadField::Data, 600);
        let frame = framer.next_frame(&mut rest).unwrap();
        assert_eq!(frame.payload.as_ptr(), data.as_ptr());
        assert_eq!(frame.payload.len(), 600);
        assert_eq!(rest.len(), 400);
    }

    #[test]
    fn a_length_beyond_the_format_saturates() {
        let prefix = prefix(PayloadField::Data, u32::MAX);
        assert_eq!(prefix[1..5], [0xff; 4]);
    }

    proptest! {
        #[test]
        fn frames_are_those_of_generated_code(
            data in proptest::collection::vec(any::<u8>(), 1..70_000),
            max_payload in 1usize..70_000,
        ) {
            let max_payload = max_payload.max(data.len() / 64);
            let (mut downloads, mut uploads) = (Vec::new(), Vec::new());
            for piece in data.chunks(max_payload) {
                let data = Bytes::copy_from_slice(piece);
                downloads.extend(message(&DownloadResponse { data: data.clone() }).unwrap());
                let request = UploadRequest { payload: Some(Payload::Chunk(data)) };
                uploads.extend(message(&request).unwrap());
            }
            let data = Bytes::from(data);
            let mut framer = Framer::new(PayloadField::Data, max_payload);
            prop_assert_eq!(joined(&mut framer, data.clone()), downloads);
            let mut framer = Framer::new(PayloadField::Chunk, max_payload);
            prop_assert_eq!(joined(&mut framer, data), uploads);
        }

        #[test]
        fn unary_reads_one_whole_message_only(data: Vec<u8>, cut in 0usize..200, more: u8) {
            let response = DownloadResponse { data: data.into() };
            let body = message(&response).unwrap();
            prop_assert_eq!(unary::<DownloadResponse>(body.clone()), Ok(response));
            let short = body.slice(..cut.min(body.len() - 1));
            prop_assert_eq!(unary::<DownloadResponse>(short), Err(FrameError::Truncated));
            let long: Bytes = body.iter().copied().chain([more]).collect();
            prop_assert!(unary::<DownloadResponse>(long).is_err());
        }
    }
}
