//! Counting the entries of a batch before they are decoded.

use bytes::Buf;
use prost::encoding::decode_varint;

use crate::transport::grpc::Pieces;
use crate::transport::grpc::frame::HEAD_LEN;

/// The entries of a batch. Decoded, even empty ones take memory.
pub(super) const MAX_ENTRIES: usize = 64 * 1024;

/// The length-delimited fields number 1 at the top of a framed message. What is
/// malformed is left to the decoder to refuse, and ends the count.
pub(super) fn count(mut rest: Pieces) -> usize {
    if rest.len() < HEAD_LEN {
        return 0;
    }
    rest.advance(HEAD_LEN);
    let mut entries = 0;
    while let Ok(key) = decode_varint(&mut rest) {
        let skipped = match key & 7 {
            0 => decode_varint(&mut rest).ok().map(|_| 0),
            1 => Some(8),
            2 => decode_varint(&mut rest).ok(),
            5 => Some(4),
            _ => None,
        };
        let skipped = skipped.and_then(|length| usize::try_from(length).ok());
        let Some(skipped) = skipped.filter(|skipped| *skipped <= rest.len()) else {
            break;
        };
        rest.advance(skipped);
        entries += usize::from(key == (1 << 3 | 2));
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(framed: &[u8]) -> usize {
        super::count(Pieces::from(bytes::Bytes::copy_from_slice(framed)))
    }

    #[test]
    fn entries_are_counted_and_others_skipped() {
        let message = [
            0, 0, 0, 0, 0, // head
            0x0a, 0, 0x0a, 2, 0x0a, 0, // two entries
            0x10, 0x80, 1, 0x12, 1, 0x0a, 0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7,
            8, // others
            0x0a, 0,
        ];
        assert_eq!(count(&message), 3);
        assert_eq!(count(&message[..10]), 1);
        assert_eq!(count(&[0; 3]), 0);
        assert_eq!(count(&[&message[..7], &[0xff; 20]].concat()), 1);
    }
}
