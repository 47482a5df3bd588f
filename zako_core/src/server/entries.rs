//! Counting the entries of a batch before they are decoded.

/// The entries of a batch. Decoded, even empty ones take memory.
pub(super) const MAX_ENTRIES: usize = 64 * 1024;

/// The length-delimited fields number 1 at the top of a framed message. What is
/// malformed is left to the decoder to refuse, and ends the count.
pub(super) fn count(framed: &[u8]) -> usize {
    let mut rest = framed.get(5..).unwrap_or_default();
    let mut entries = 0;
    while let Some(key) = varint(&mut rest) {
        let skipped = match key & 7 {
            0 => varint(&mut rest).map(|_| 0),
            1 => Some(8),
            2 => varint(&mut rest),
            5 => Some(4),
            _ => None,
        };
        let Some(skipped) = skipped.and_then(|length| usize::try_from(length).ok()) else {
            break;
        };
        let Some(next) = rest.get(skipped..) else {
            break;
        };
        entries += usize::from(key == (1 << 3 | 2));
        rest = next;
    }
    entries
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

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
