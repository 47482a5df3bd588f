//! Errors out of gRPC statuses: the inverse of the server's table.

use std::error::Error;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::Digest;
use crate::access::{Exceeded, Limit};
use crate::cas::{CasError, ErrorKind};

/// The longest text taken over from a server, in characters.
const MAX_MESSAGE: usize = 1_000;

/// The error that a status tells, with blob, bytes held and time to try again
/// where the server gave them.
pub(super) fn from_status(status: &Status) -> CasError {
    // A status made on this side out of a broken connection has a source; one
    // that the server sent has none.
    if let Some(source) = status.source() {
        return broken(source);
    }
    let details = status.check_error_details().unwrap_or_default();
    let info = details.error_info();
    let kind = kind(status.code(), info.map_or("", |info| &info.reason));
    let mut text = message(status);
    let told = |key| info.and_then(|info| info.metadata.get(key));
    let digest = told("digest").and_then(|text| text.parse::<Digest>().ok());
    if let Some(digest) = digest
        && let Some(bare) = text.strip_suffix(&format!(" (blob {digest})"))
    {
        // The error's own text names the blob again.
        text = bare.to_owned();
    }
    let mut error = CasError::new(kind, text);
    if let Some(digest) = digest {
        error = error.with_digest(digest);
    }
    if let Some(Ok(held)) = told("held").map(|text| text.parse()) {
        error = error.with_held(held);
    }
    let limit = info.and_then(|info| exceeded(&info.reason));
    if let Some(limit) = limit.filter(|_| kind == ErrorKind::NoSpace) {
        let violations = details.quota_failure().map(|failure| &failure.violations);
        let subject = violations.and_then(|violations| violations.first());
        let subject = subject.map_or("", |violation| &violation.subject);
        let subject = shown(subject, status.code());
        error = error.with_source(Exceeded { limit, subject });
    }
    let delay = details.retry_info().and_then(|retry| retry.retry_delay);
    match delay {
        Some(delay) => error.with_retry_after(delay),
        None => error,
    }
}

/// The error that an outcome in a batch tells: a code and a text.
pub(super) fn from_outcome(code: i32, text: &str, digest: Digest) -> CasError {
    let code = Code::from(code);
    // In a batch the bytes came whole with their digest: nothing else about them
    // can be wrong.
    let kind = match code {
        Code::InvalidArgument => ErrorKind::Mismatch,
        code => kind(code, ""),
    };
    CasError::new(kind, shown(text, code)).with_digest(digest)
}

/// The error of a connection or a stream that broke.
pub(super) fn broken(source: &(dyn Error + 'static)) -> CasError {
    let mut texts = vec![source.to_string()];
    let mut next = Some(source);
    while let Some(source) = next {
        if let Some(known) = source.downcast_ref::<CasError>() {
            return known.clone();
        }
        let text = source.to_string();
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        next = source.source();
    }
    let text = texts.join(": ");
    CasError::new(
        ErrorKind::Unavailable,
        format!("the connection to the server broke: {text}"),
    )
}

fn kind(code: Code, reason: &str) -> ErrorKind {
    match code {
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::InvalidArgument => match reason {
            "MISMATCH" => ErrorKind::Mismatch,
            "INVALID_RANGE" => ErrorKind::InvalidRange,
            "NOT_HELD" => ErrorKind::NotHeld,
            _ => ErrorKind::InvalidArgument,
        },
        // A message over a limit of the server's: the same again is no better.
        Code::OutOfRange => ErrorKind::InvalidArgument,
        Code::ResourceExhausted => match reason {
            "INVALID_ARGUMENT" => ErrorKind::InvalidArgument,
            _ => ErrorKind::NoSpace,
        },
        Code::DataLoss => ErrorKind::Corrupt,
        Code::Aborted => ErrorKind::Stale,
        // A server that goes down cancels what runs.
        Code::Unavailable | Code::Cancelled => ErrorKind::Unavailable,
        Code::DeadlineExceeded => ErrorKind::Timeout,
        Code::Unauthenticated => ErrorKind::Unauthenticated,
        Code::PermissionDenied => ErrorKind::PermissionDenied,
        Code::FailedPrecondition | Code::Unimplemented => ErrorKind::Unsupported,
        Code::Ok | Code::Unknown | Code::Internal => ErrorKind::Internal,
    }
}

/// What a server's reason says that there was too much of.
fn exceeded(reason: &str) -> Option<Limit> {
    match reason {
        "RATE_LIMITED" => Some(Limit::Requests),
        "QUOTA_EXCEEDED" => Some(Limit::Stored),
        _ => None,
    }
}

fn message(status: &Status) -> String {
    shown(status.message(), status.code())
}

/// The server's text, bounded and without control characters; the code if it
/// says nothing.
pub(super) fn shown(text: &str, code: Code) -> String {
    if text.is_empty() {
        return format!("the server answered: {}", code.description());
    }
    text.chars()
        .take(MAX_MESSAGE)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn each_code_has_its_kind() {
        for (code, expected) in [
            (Code::NotFound, ErrorKind::NotFound),
            (Code::AlreadyExists, ErrorKind::AlreadyExists),
            (Code::InvalidArgument, ErrorKind::InvalidArgument),
            (Code::ResourceExhausted, ErrorKind::NoSpace),
            (Code::OutOfRange, ErrorKind::InvalidArgument),
            (Code::DataLoss, ErrorKind::Corrupt),
            (Code::Aborted, ErrorKind::Stale),
            (Code::Unavailable, ErrorKind::Unavailable),
            (Code::DeadlineExceeded, ErrorKind::Timeout),
            (Code::Unauthenticated, ErrorKind::Unauthenticated),
            (Code::PermissionDenied, ErrorKind::PermissionDenied),
            (Code::FailedPrecondition, ErrorKind::Unsupported),
            (Code::Internal, ErrorKind::Internal),
        ] {
            let error = from_status(&Status::new(code, "why"));
            assert_eq!(error.kind(), expected);
            assert_eq!(error.message(), "why");
        }
    }

    #[test]
    fn a_request_that_is_too_long_is_no_lack_of_room() {
        let details = ErrorDetails::with_error_info("INVALID_ARGUMENT", "zako.v1", HashMap::new());
        let status = Status::with_error_details(Code::ResourceExhausted, "long", details);
        assert_eq!(from_status(&status).kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn details_arrive() {
        let digest = zako_digest::hash::bytes(b"abc");
        let metadata = HashMap::from([
            ("digest".to_owned(), digest.to_string()),
            ("held".to_owned(), "2".to_owned()),
        ]);
        let mut details = ErrorDetails::with_error_info("NOT_HELD", "zako.v1", metadata);
        details.set_retry_info(Some(Duration::from_secs(3)));
        let status = Status::with_error_details(Code::InvalidArgument, "no", details);
        let error = from_status(&status);
        assert_eq!(error.kind(), ErrorKind::NotHeld);
        assert_eq!(error.digest(), Some(digest));
        assert_eq!(error.held(), Some(2));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
    }

    #[test]
    fn limits_are_told_from_a_full_store() {
        for (reason, limit) in [
            ("RATE_LIMITED", Some(Limit::Requests)),
            ("QUOTA_EXCEEDED", Some(Limit::Stored)),
            ("NO_SPACE", None),
        ] {
            let mut details = ErrorDetails::with_error_info(reason, "zako", HashMap::new());
            details.add_quota_failure_violation("identity:ci", "too much");
            let status = Status::with_error_details(Code::ResourceExhausted, "no", details);
            let error = from_status(&status);
            assert_eq!(error.kind(), ErrorKind::NoSpace);
            assert_eq!(Exceeded::of(&error).map(|exceeded| exceeded.limit), limit);
            assert_eq!(error.to_string().contains("identity:ci"), limit.is_some());
        }
    }

    #[test]
    fn nonsense_in_details_is_no_harm() {
        let metadata = HashMap::from([
            ("digest".to_owned(), "x".to_owned()),
            ("held".to_owned(), "-1".to_owned()),
        ]);
        let details = ErrorDetails::with_error_info("WHO_KNOWS", "", metadata);
        let status = Status::with_error_details(Code::InvalidArgument, "\u{1b}[2J", details);
        let error = from_status(&status);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!((error.digest(), error.held()), (None, None));
        assert!(!error.to_string().contains('\u{1b}'));
        let bytes = bytes::Bytes::from_static(&[0xff; 40]);
        let error = from_status(&Status::with_details(Code::NotFound, "", bytes));
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(!error.message().is_empty());
    }

    #[test]
    fn what_broke_here_may_be_tried_again() {
        let io = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let error = from_status(&Status::from_error(Box::new(io)));
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("reset"), "{error}");
    }
}
