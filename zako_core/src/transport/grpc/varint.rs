//! A protobuf varint that arrives byte by byte.

use super::FrameError;

/// A varint of which some bytes have come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Varint {
    value: u64,
    bytes: u8,
}

/// Seven bits a byte: the tenth byte holds the 64th bit alone.
const LAST: u8 = 9;

impl Varint {
    /// Whether no byte has come yet.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Adds the next byte; gives the number when that was the last one. Padding
    /// with zeros is allowed, as in every protobuf reader, up to ten bytes.
    pub(super) fn push(&mut self, byte: u8) -> Result<Option<u64>, FrameError> {
        if self.bytes == LAST && byte > 1 {
            return Err(FrameError::Malformed("a varint has more than 64 bits"));
        }
        self.value |= u64::from(byte & 0x7f) << (7 * self.bytes);
        self.bytes += 1;
        Ok((byte < 0x80).then_some(self.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Option<(u64, usize)>, FrameError> {
        let mut varint = Varint::default();
        for (at, byte) in bytes.iter().enumerate() {
            if let Some(value) = varint.push(*byte)? {
                return Ok(Some((value, at + 1)));
            }
        }
        Ok(None)
    }

    #[test]
    fn the_eleventh_byte_and_the_65th_bit_are_refused() {
        assert!(read(&[0x80; 10]).is_err());
        assert_eq!(
            read(&[255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
            Ok(Some((u64::MAX, 10)))
        );
        assert!(read(&[255, 255, 255, 255, 255, 255, 255, 255, 255, 2]).is_err());
        assert_eq!(read(&[0x80, 0x80, 0x00]), Ok(Some((0, 3))));
    }

    proptest! {
        #[test]
        fn reads_as_prost_does(bytes in proptest::collection::vec(any::<u8>(), 1..12)) {
            let mut rest = &bytes[..];
            let prost = prost::encoding::decode_varint(&mut rest).ok();
            let ours = read(&bytes).ok().flatten();
            prop_assert_eq!(ours.map(|(value, _)| value), prost);
            if let Some((_, used)) = ours {
                prop_assert_eq!(used, bytes.len() - rest.len());
            }
        }
    }
}
