//! The deadline that a caller sets in the header `grpc-timeout`.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;
use tonic::Status;

const HEADER: &str = "grpc-timeout";

/// When the call must be over; `None` if the caller set no deadline.
///
/// # Errors
/// INVALID_ARGUMENT if the header is not at most eight digits and a unit.
pub(super) fn deadline(headers: &HeaderMap) -> Result<Option<Instant>, Status> {
    let Some(header) = headers.get(HEADER) else {
        return Ok(None);
    };
    let timeout = parse(header.as_bytes())
        .ok_or_else(|| Status::invalid_argument("the header grpc-timeout is malformed"))?;
    // What no clock can tell is no deadline.
    Ok(Instant::now().checked_add(timeout))
}

/// What a call is told whose deadline passed.
pub(super) fn exceeded() -> Status {
    Status::deadline_exceeded("the call's deadline passed")
}

fn parse(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits
        .iter()
        .fold(0u64, |value, digit| value * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(value * 3600),
        b'M' => Duration::from_secs(value * 60),
        b'S' => Duration::from_secs(value),
        b'm' => Duration::from_millis(value),
        b'u' => Duration::from_micros(value),
        b'n' => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_mistakes() {
        assert_eq!(parse(b"1H"), Some(Duration::from_secs(3600)));
        assert_eq!(parse(b"2M"), Some(Duration::from_secs(120)));
        assert_eq!(parse(b"3S"), Some(Duration::from_secs(3)));
        assert_eq!(parse(b"0m"), Some(Duration::ZERO));
        assert_eq!(parse(b"5u"), Some(Duration::from_micros(5)));
        assert_eq!(parse(b"99999999n"), Some(Duration::from_nanos(99_999_999)));
        for bad in [&b""[..], b"S", b"1", b"123456789S", b"-1S", b"1 S", b"1x"] {
            assert_eq!(parse(bad), None);
        }
    }
}
