//! Parts of blobs, with checked arithmetic.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// A part of a blob: from `start`, `length` bytes, or to the end if there is no
/// length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct BlobRange {
    start: u64,
    length: Option<u64>,
}

/// A range that a blob doesn't have, or a text that is no range.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The range starts or ends behind the end of the blob.
    #[error("the range {range} reaches past the end of a blob of {size} bytes")]
    PastEnd {
        /// The range asked for.
        range: BlobRange,
        /// The size of the blob in bytes.
        size: u64,
    },
    /// `start + length` is 2^64 or more.
    #[error("the range's start {start} and length {length} add up to more than a blob can have")]
    Overflow {
        /// Where the range starts.
        start: u64,
        /// How many bytes it has.
        length: u64,
    },
    /// A text is not `A..B`, `A..` or `..B`.
    #[error("{0:?} is not a range of bytes: write START..END, START.. or ..END")]
    Syntax(String),
    /// A text's end lies before its start.
    #[error("the range {start}..{end} ends before it starts")]
    Reversed {
        /// Where the range starts.
        start: u64,
        /// Where it ends.
        end: u64,
    },
}

impl BlobRange {
    /// The whole blob.
    pub const FULL: Self = Self {
        start: 0,
        length: None,
    };

    /// `length` bytes from `start`.
    pub const fn new(start: u64, length: u64) -> Self {
        Self {
            start,
            length: Some(length),
        }
    }

    /// All bytes from `start` on.
    pub const fn from_start(start: u64) -> Self {
        Self {
            start,
            length: None,
        }
    }

    /// The first byte.
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// The number of bytes, `None` for all to the end.
    pub const fn length(&self) -> Option<u64> {
        self.length
    }

    /// The bytes that this range means in a blob of `size` bytes.
    ///
    /// A range that starts at `size` and has no length, or length 0, is an empty
    /// read.
    ///
    /// # Errors
    /// [`RangeError::PastEnd`] if the blob doesn't have all of the range,
    /// [`RangeError::Overflow`] if start and length overflow.
    pub fn resolve(&self, size: u64) -> Result<Range<u64>, RangeError> {
        let end = match self.length {
            None => size,
            Some(length) => self.start.checked_add(length).ok_or(RangeError::Overflow {
                start: self.start,
                length,
            })?,
        };
        if self.start > size || end > size {
            return Err(RangeError::PastEnd { range: *self, size });
        }
        Ok(self.start..end)
    }
}

impl From<Range<u64>> for BlobRange {
    /// A range whose end lies before its start becomes an empty one.
    fn from(range: Range<u64>) -> Self {
        Self::new(range.start, range.end.saturating_sub(range.start))
    }
}

impl fmt::Display for BlobRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.length {
            None => write!(f, "{}..", self.start),
            Some(length) => write!(
                f,
                "{}..{}",
                self.start,
                u128::from(self.start) + u128::from(length)
            ),
        }
    }
}

impl FromStr for BlobRange {
    type Err = RangeError;

    /// Reads `START..END` (END not included), `START..` and `..END`.
    fn from_str(text: &str) -> Result<Self, RangeError> {
        let syntax = || RangeError::Syntax(text.chars().take(80).collect());
        let number = |text: &str| {
            if text.bytes().all(|c| c.is_ascii_digit()) {
                text.parse::<u64>().map_err(|_| syntax())
            } else {
                Err(syntax())
            }
        };
        let (start, end) = text.split_once("..").ok_or_else(syntax)?;
        if start.is_empty() && end.is_empty() {
            return Ok(Self::FULL);
        }
        let start = if start.is_empty() { 0 } else { number(start)? };
        if end.is_empty() {
            return Ok(Self::from_start(start));
        }
        let end = number(end)?;
        match end.checked_sub(start) {
            Some(length) => Ok(Self::new(start, length)),
            None => Err(RangeError::Reversed { start, end }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_edges_of_a_blob() {
        assert_eq!(BlobRange::FULL.resolve(0), Ok(0..0));
        assert_eq!(BlobRange::from_start(7).resolve(7), Ok(7..7));
        assert_eq!(BlobRange::new(7, 0).resolve(7), Ok(7..7));
        assert!(BlobRange::new(7, 1).resolve(7).is_err());
        assert!(BlobRange::from_start(8).resolve(7).is_err());
        assert!(matches!(
            BlobRange::new(u64::MAX, 1).resolve(u64::MAX),
            Err(RangeError::Overflow { .. })
        ));
        assert_eq!(
            BlobRange::new(u64::MAX, 0).resolve(u64::MAX),
            Ok(u64::MAX..u64::MAX)
        );
    }

    #[test]
    fn text_forms() {
        assert_eq!("3..9".parse(), Ok(BlobRange::new(3, 6)));
        assert_eq!("3..".parse(), Ok(BlobRange::from_start(3)));
        assert_eq!("..9".parse(), Ok(BlobRange::new(0, 9)));
        assert_eq!("..".parse(), Ok(BlobRange::FULL));
        for bad in [
            "",
            "3",
            "3-9",
            "-3..9",
            "+3..9",
            "3..x",
            "3..9..12",
            "18446744073709551616..",
        ] {
            assert!(
                matches!(bad.parse::<BlobRange>(), Err(RangeError::Syntax(_))),
                "{bad}"
            );
        }
        assert!(matches!(
            "9..3".parse::<BlobRange>(),
            Err(RangeError::Reversed { .. })
        ));
    }

    proptest! {
        #[test]
        fn resolved_ranges_lie_in_the_blob(start: u64, length: Option<u64>, size: u64) {
            let range = BlobRange { start, length };
            match range.resolve(size) {
                Ok(bytes) => {
                    prop_assert!(bytes.start <= bytes.end && bytes.end <= size);
                    prop_assert_eq!(bytes.start, start);
                    let expected = length.unwrap_or(size - start);
                    prop_assert_eq!(bytes.end - bytes.start, expected);
                }
                Err(_) => {
                    let end = u128::from(start) + u128::from(length.unwrap_or(0));
                    prop_assert!(end > u128::from(size));
                }
            }
        }

        #[test]
        fn text_round_trips(start: u64, length: Option<u64>) {
            let range = BlobRange { start, length };
            if start.checked_add(length.unwrap_or(0)).is_some() {
                prop_assert_eq!(range.to_string().parse::<BlobRange>(), Ok(range));
            }
        }
    }
}
