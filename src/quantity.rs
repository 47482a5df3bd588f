//! Sizes, shares of a disk, and periods of time: their text forms in flags,
//! variables and the configuration, and how they are shown.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

/// A number of bytes: `4096`, `64KiB`, `1.5G`. `kB`, `MB`, … are powers of 1000,
/// `KiB`, `MiB`, … powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

/// The most disk that a store may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MaxSize {
    Bytes(Size),
    /// Of the space that the store could have: what is free, and what it uses.
    Percent(u8),
}

/// A length of time: `100ms`, `30s`, `1h 30m`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Period(pub(crate) Duration);

/// A rate in bytes a second, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rate {
    Off,
    BytesPerSecond(Size),
}

/// Bytes for a person: `1.5 GiB`.
pub(crate) fn bytes(bytes: u64) -> impl fmt::Display {
    ByteSize::b(bytes).display().iec()
}

/// Bytes a second for a person: `1.5 GiB/s`.
pub(crate) fn rate(bytes: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64().max(1e-9);
    format!("{}/s", self::bytes((bytes as f64 / seconds) as u64))
}

/// A number with its thousands apart: `12 345`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A number and the noun it counts: `1 blob`, `2 blobs`.
pub(crate) fn plural(number: u64, noun: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{} {noun}{s}", count(number))
}

/// Seconds for a person: `0.42 s`, `1m 5s`.
pub(crate) fn took(took: Duration) -> String {
    if took < Duration::from_secs(60) {
        format!("{:.2} s", took.as_secs_f64())
    } else {
        Period(Duration::from_secs(took.as_secs())).to_string()
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.trim()
            .parse::<ByteSize>()
            .map(|size| Self(size.as_u64()))
            .map_err(|_| format!("{text:?} is not a size: write 4096, 64KiB, 10GB or 1.5TiB"))
    }
}

impl FromStr for MaxSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(percent) = text.trim().strip_suffix('%') else {
            return match text.parse()? {
                Size(0) => Err("a store of size 0 can't hold anything".to_owned()),
                size => Ok(Self::Bytes(size)),
            };
        };
        match percent.trim_end().parse() {
            Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
            _ => Err(format!("{text:?} is not a share: write 1% to 100%")),
        }
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text.trim())
            .map(Self)
            .map_err(|_| {
                format!("{text:?} is not a length of time: write 100ms, 30s, 5m, 1h or 7d")
            })
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self::Off);
        }
        match text.strip_suffix("/s").unwrap_or(text).parse() {
            Ok(Size(0)) => Ok(Self::Off),
            Ok(size) => Ok(Self::BytesPerSecond(size)),
            Err(_) => Err(format!("{text:?} is not a rate: write 20MiB/s or off")),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&bytes(self.0), f)
    }
}

impl fmt::Display for MaxSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(size) => size.fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&humantime::format_duration(self.0), f)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::BytesPerSecond(size) => write!(f, "{size}/s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!("4096".parse(), Ok(Size(4096)));
        assert_eq!("64KiB".parse(), Ok(Size(64 << 10)));
        assert_eq!("1.5 GiB".parse(), Ok(Size(3 << 29)));
        assert_eq!("10GB".parse(), Ok(Size(10_000_000_000)));
        for bad in ["", "-1", "ten", "5 parsecs", "1e400"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_and_rates() {
        assert_eq!("80%".parse(), Ok(MaxSize::Percent(80)));
        assert_eq!("1MiB".parse(), Ok(MaxSize::Bytes(Size(1 << 20))));
        for bad in ["0%", "101%", "%", "-5%", "0", "80.5%"] {
            assert!(bad.parse::<MaxSize>().is_err(), "{bad}");
        }
        assert_eq!("20MiB/s".parse(), Ok(Rate::BytesPerSecond(Size(20 << 20))));
        assert_eq!("off".parse(), Ok(Rate::Off));
        assert!("fast".parse::<Rate>().is_err());
    }

    #[test]
    fn periods() {
        assert_eq!("1h 30m".parse(), Ok(Period(Duration::from_secs(5400))));
        assert_eq!("100ms".parse(), Ok(Period(Duration::from_millis(100))));
        assert!("soon".parse::<Period>().is_err());
        assert!("30".parse::<Period>().is_err());
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1234567), "1 234 567");
        assert_eq!(plural(1, "blob"), "1 blob");
        assert_eq!(plural(1000, "blob"), "1 000 blobs");
        assert_eq!(rate(3 << 30, Duration::from_secs(2)), "1.5 GiB/s");
    }
}
