//! Messages of `zako.v1` built from the field numbers alone.

use zako_core::Digest;

pub fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A varint field.
pub fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

/// A length-delimited field.
pub fn bytes(field: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let head = [varint(field << 3 | 2), varint(content.len() as u64)].concat();
    [&head, content].concat()
}

/// zako.v1.digest.Digest
pub fn digest(digest: &Digest) -> Vec<u8> {
    [number(1, digest.size()), bytes(2, digest.hash().as_bytes())].concat()
}

/// zako.v1.range.BlobRange
pub fn range(start: u64, length: Option<u64>) -> Vec<u8> {
    let length = length.map(|length| number(2, length)).unwrap_or_default();
    [number(1, start), length].concat()
}

/// zako.v1.transport.BlobResource
pub fn resource(of: &Digest, start: u64, length: Option<u64>) -> Vec<u8> {
    [bytes(1, digest(of)), bytes(2, range(start, length))].concat()
}

/// DownloadRequest, and UploadRequest with metadata: field 1 in both.
pub fn metadata(of: &Digest, start: u64, length: Option<u64>) -> Vec<u8> {
    bytes(1, resource(of, start, length))
}

/// UploadRequest with a chunk.
pub fn chunk(data: impl AsRef<[u8]>) -> Vec<u8> {
    bytes(2, data)
}

/// A message with its gRPC head.
pub fn framed(message: impl AsRef<[u8]>) -> Vec<u8> {
    let message = message.as_ref();
    let length = u32::try_from(message.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], message].concat()
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Number(u64),
    Fixed32(u32),
    Bytes(Vec<u8>),
}

/// The fields of a message in the order in which they came.
pub fn fields(mut message: &[u8]) -> Vec<(u64, Value)> {
    fn read_varint(message: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in 0.. {
            let (byte, rest) = message.split_first().unwrap();
            *message = rest;
            value |= u64::from(byte & 0x7f) << (7 * shift);
            if byte & 0x80 == 0 {
                return value;
            }
        }
        unreachable!()
    }
    let mut fields = Vec::new();
    while !message.is_empty() {
        let key = read_varint(&mut message);
        let value = match key & 7 {
            0 => Value::Number(read_varint(&mut message)),
            2 => {
                let length = read_varint(&mut message) as usize;
                let (content, rest) = message.split_at(length);
                message = rest;
                Value::Bytes(content.to_vec())
            }
            5 => {
                let (content, rest) = message.split_at(4);
                message = rest;
                Value::Fixed32(u32::from_le_bytes(content.try_into().unwrap()))
            }
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, value));
    }
    fields
}

/// The one number in this field; 0 if it is absent, as in proto3.
pub fn number_in(message: &[u8], field: u64) -> u64 {
    match fields(message).iter().find(|(number, _)| *number == field) {
        None => 0,
        Some((_, Value::Number(value))) => *value,
        Some(other) => panic!("{other:?}"),
    }
}

/// All the contents of this length-delimited field.
pub fn bytes_in(message: &[u8], field: u64) -> Vec<Vec<u8>> {
    let fields = fields(message).into_iter();
    fields
        .filter(|(number, _)| *number == field)
        .map(|(_, value)| match value {
            Value::Bytes(bytes) => bytes,
            other => panic!("{other:?}"),
        })
        .collect()
}
