//! Ranges of bytes that requests ask for.

use std::ops::Range;

use http::header::{IF_RANGE, RANGE};
use http::request::Parts;

/// What a request wants of a resource of known size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    All,
    Part(Range<u64>),
    /// It lies beyond the end.
    Beyond,
}

/// What is wanted of `size` bytes that have the tag `etag`. What can't be read, and lists
/// of ranges, ask for all: a server may ignore ranges.
pub(super) fn wanted(head: &Parts, size: u64, etag: &str) -> Wanted {
    if let Some(condition) = head.headers.get(IF_RANGE)
        && condition.as_bytes() != etag.as_bytes()
    {
        return Wanted::All;
    }
    let range = head
        .headers
        .get(RANGE)
        .and_then(|range| range.to_str().ok());
    range.map_or(Wanted::All, |range| of_text(range, size))
}

fn of_text(text: &str, size: u64) -> Wanted {
    let Some((unit, range)) = text.split_once('=') else {
        return Wanted::All;
    };
    let Some((first, last)) = range.trim().split_once('-') else {
        return Wanted::All;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Wanted::All;
    }
    let part = match (number(first), number(last)) {
        (Number::Is(first), Number::Is(last)) if first <= last => first..last.saturating_add(1),
        (Number::Is(first), Number::Absent) => first..u64::MAX,
        (Number::Absent, Number::Is(count)) => match count {
            0 => return Wanted::Beyond,
            count => size.saturating_sub(count)..u64::MAX,
        },
        _ => return Wanted::All,
    };
    if part.start >= size {
        return Wanted::Beyond;
    }
    Wanted::Part(part.start..part.end.min(size))
}

enum Number {
    Absent,
    Is(u64),
    Wrong,
}

fn number(text: &str) -> Number {
    match text.trim() {
        "" => Number::Absent,
        digits if !digits.bytes().all(|digit| digit.is_ascii_digit()) => Number::Wrong,
        // More than any blob has.
        digits => Number::Is(digits.parse().unwrap_or(u64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_has_them() {
        for (text, size, wanted) in [
            ("bytes=0-0", 10, Wanted::Part(0..1)),
            ("bytes=2-", 10, Wanted::Part(2..10)),
            ("bytes=2-99", 10, Wanted::Part(2..10)),
            ("bytes=-3", 10, Wanted::Part(7..10)),
            ("bytes=-30", 10, Wanted::Part(0..10)),
            ("Bytes = 1 - 2", 10, Wanted::Part(1..3)),
            ("bytes=0-99999999999999999999999", 10, Wanted::Part(0..10)),
            ("bytes=10-", 10, Wanted::Beyond),
            ("bytes=99999999999999999999999-", 10, Wanted::Beyond),
            ("bytes=-0", 10, Wanted::Beyond),
            ("bytes=0-", 0, Wanted::Beyond),
            ("bytes=-5", 0, Wanted::Beyond),
            ("bytes=5-2", 10, Wanted::All),
            ("bytes=0-1,4-5", 10, Wanted::All),
            ("bytes=-", 10, Wanted::All),
            ("bytes=+1-2", 10, Wanted::All),
            ("lines=1-2", 10, Wanted::All),
            ("bytes", 10, Wanted::All),
        ] {
            assert_eq!(of_text(text, size), wanted, "{text} of {size}");
        }
    }

    proptest! {
        #[test]
        fn a_part_is_never_empty_and_never_beyond(text in "(bytes)?=?[0-9]{0,21}-?[0-9]{0,21}", size: u64) {
            if let Wanted::Part(part) = of_text(&text, size) {
                prop_assert!(part.start < part.end && part.end <= size);
            }
        }
    }
}
