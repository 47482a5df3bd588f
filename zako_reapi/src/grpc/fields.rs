//! The fields of a message, read past generated code where that costs too much.

use bytes::Buf;
use prost::encoding::decode_varint;
use tonic::Status;
use zako_core::server::bad_frame;
use zako_core::transport::grpc::FrameError;

/// The entries of a batch. Decoded, even empty ones take memory.
pub(super) const MAX_ENTRIES: usize = 64 * 1024;

/// A field, as far as it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) number: u64,
    pub(super) value: Value,
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Number(u64),
    /// So many bytes follow, and are there.
    Bytes(usize),
    /// Four or eight bytes that nothing here needs; passed over.
    Fixed,
}

/// Reads the next field's head off the front of a message; `None` at the end.
pub(super) fn next(message: &mut impl Buf) -> Result<Option<Field>, Status> {
    if !message.has_remaining() {
        return Ok(None);
    }
    let key = varint(message)?;
    let value = match key & 7 {
        0 => Value::Number(varint(message)?),
        1 => fixed(message, 8)?,
        2 => {
            let length = usize::try_from(varint(message)?).ok();
            let length = length.filter(|length| *length <= message.remaining());
            Value::Bytes(length.ok_or_else(malformed)?)
        }
        5 => fixed(message, 4)?,
        _ => return Err(malformed()),
    };
    let number = key >> 3;
    match number {
        0 => Err(malformed()),
        _ => Ok(Some(Field { number, value })),
    }
}

/// Counts the fields of a message that have this number.
pub(super) fn count(mut message: impl Buf, number: u64) -> Result<usize, Status> {
    let mut fields = 0;
    while let Some(field) = next(&mut message)? {
        fields += usize::from(field.number == number);
        if let Value::Bytes(length) = field.value {
            message.advance(length);
        }
    }
    Ok(fields)
}

pub(super) fn malformed() -> Status {
    bad_frame(FrameError::Malformed("the message does not decode"))
}

fn varint(message: &mut impl Buf) -> Result<u64, Status> {
    decode_varint(message).map_err(|_| malformed())
}

fn fixed(message: &mut impl Buf, length: usize) -> Result<Value, Status> {
    if message.remaining() < length {
        return Err(malformed());
    }
    message.advance(length);
    Ok(Value::Fixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_and_others_skipped() {
        let message = [
            0x12, 0, 0x12, 2, 0x0a, 0, // two entries
            0x08, 0x80, 1, 0x0a, 1, 0x0a, 0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8, 0x12, 0,
        ];
        assert_eq!(count(&message[..], 2).unwrap(), 3);
        assert_eq!(
            count(&message[..5], 2).unwrap_err().code(),
            malformed().code()
        );
        for bad in [
            &[0x12][..],
            &[0x12, 9],
            &[0x13, 0],
            &[0x02, 0],
            &[0x1d, 1],
            &[0xff; 12],
        ] {
            assert!(count(bad, 2).is_err(), "{bad:?}");
        }
    }
}
