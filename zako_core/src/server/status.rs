//! Errors as gRPC tells them.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::access::{Exceeded, Limit};
use crate::cas::{CasError, ErrorKind};
use crate::transport::grpc::FrameError;

/// Whose reasons the details speak of.
const DOMAIN: &str = "zako";

/// When to try again, where the error doesn't say.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The status that tells a caller of this error: the code of its kind, a
/// `google.rpc.ErrorInfo` with the reason, the digest and what is held, and a
/// `RetryInfo` where another try makes sense. Paths and sources of this machine
/// stay here.
pub fn to_status(error: &CasError) -> Status {
    let (code, reason) = code_and_reason(error.kind());
    let reason = match Exceeded::of(error).map(|exceeded| exceeded.limit) {
        Some(Limit::Stored) => "QUOTA_EXCEEDED",
        Some(_) => "RATE_LIMITED",
        None => reason,
    };
    let mut metadata = HashMap::new();
    if let Some(digest) = error.digest() {
        metadata.insert("digest".to_owned(), digest.to_string());
    }
    if let Some(held) = error.held() {
        metadata.insert("held".to_owned(), held.to_string());
    }
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    // A store without room says itself whether waiting helps.
    let retries = error.kind() == ErrorKind::Stale;
    if let Some(after) = error.retry_after().or(retries.then_some(RETRY_AFTER)) {
        details.set_retry_info(Some(after));
    }
    if code == Code::InvalidArgument {
        let field = match error.kind() {
            ErrorKind::InvalidRange | ErrorKind::NotHeld => "metadata.range",
            ErrorKind::Mismatch => "chunk",
            _ => "",
        };
        details.add_bad_request_violation(field, error.message());
    }
    if let Some(exceeded) = Exceeded::of(error) {
        details.add_quota_failure_violation(&exceeded.subject, error.message());
    }
    let message = match error.digest() {
        Some(digest) => format!("{} (blob {digest})", error.message()),
        None => error.message().to_owned(),
    };
    Status::with_error_details(code, message, details)
}

/// The code by which one blob of a batch is told of this kind of error.
pub(super) fn code(kind: ErrorKind) -> Code {
    code_and_reason(kind).0
}

/// A request whose `field` is wrong.
pub fn bad_request(field: &str, description: impl Into<String>) -> Status {
    let description = description.into();
    let details = ErrorDetails::with_bad_request_violation(field, description.clone());
    Status::with_error_details(Code::InvalidArgument, description, details)
}

/// A stream of messages that can't be read.
pub fn bad_frame(error: FrameError) -> Status {
    match error {
        FrameError::Compressed => Status::internal(error.to_string()),
        FrameError::TooLong { .. } => Status::resource_exhausted(error.to_string()),
        FrameError::Malformed(_) | FrameError::Truncated => {
            Status::invalid_argument(error.to_string())
        }
    }
}

fn code_and_reason(kind: ErrorKind) -> (Code, &'static str) {
    match kind {
        ErrorKind::NotFound => (Code::NotFound, "NOT_FOUND"),
        ErrorKind::AlreadyExists => (Code::AlreadyExists, "ALREADY_EXISTS"),
        ErrorKind::InvalidRange => (Code::InvalidArgument, "INVALID_RANGE"),
        ErrorKind::Mismatch => (Code::InvalidArgument, "MISMATCH"),
        ErrorKind::NotHeld => (Code::InvalidArgument, "NOT_HELD"),
        ErrorKind::Stale => (Code::Aborted, "STALE"),
        ErrorKind::InvalidArgument => (Code::InvalidArgument, "INVALID_ARGUMENT"),
        ErrorKind::NoSpace => (Code::ResourceExhausted, "NO_SPACE"),
        ErrorKind::Corrupt => (Code::DataLoss, "CORRUPT"),
        ErrorKind::Unauthenticated => (Code::Unauthenticated, "UNAUTHENTICATED"),
        ErrorKind::PermissionDenied => (Code::PermissionDenied, "PERMISSION_DENIED"),
        ErrorKind::Untrusted => (Code::Unauthenticated, "UNTRUSTED"),
        ErrorKind::Unsupported => (Code::FailedPrecondition, "UNSUPPORTED"),
        ErrorKind::Unavailable => (Code::Unavailable, "UNAVAILABLE"),
        ErrorKind::Closed => (Code::Unavailable, "CLOSED"),
        ErrorKind::Timeout => (Code::DeadlineExceeded, "TIMEOUT"),
        ErrorKind::Io => (Code::Internal, "IO"),
        ErrorKind::Locked => (Code::Internal, "LOCKED"),
        ErrorKind::Format => (Code::Internal, "FORMAT"),
        ErrorKind::Internal => (Code::Internal, "INTERNAL"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn details_tell_what_a_client_acts_on() {
        let digest = zako_digest::hash::bytes(b"x");
        let status = to_status(&CasError::not_held(digest, 9, 5));
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((&*info.reason, &*info.domain), ("NOT_HELD", "zako"));
        assert_eq!(info.metadata["held"], "5");
        assert_eq!(info.metadata["digest"], digest.to_string());
        let fields = &details.bad_request().unwrap().field_violations;
        assert_eq!(fields[0].field, "metadata.range");
        assert!(status.message().contains("5 bytes are held"));
        assert!(details.retry_info().is_none());
    }

    #[test]
    fn retries_are_told() {
        for (error, after) in [
            // What can never fit is not worth another try.
            (CasError::new(ErrorKind::NoSpace, "full"), None),
            (CasError::new(ErrorKind::Stale, "stale"), Some(RETRY_AFTER)),
            (
                CasError::new(ErrorKind::NoSpace, "full").with_retry_after(RETRY_AFTER * 9),
                Some(RETRY_AFTER * 9),
            ),
        ] {
            let details = to_status(&error).get_error_details();
            let told = details.retry_info().and_then(|info| info.retry_delay);
            assert_eq!(told, after);
        }
    }

    #[test]
    fn this_machines_paths_are_not_told() {
        let error = CasError::io(
            "reading a segment",
            Path::new("/secret/place"),
            std::io::Error::other("EIO"),
        );
        let status = to_status(&error);
        assert_eq!(status.code(), Code::Internal);
        assert!(!format!("{status:?}").contains("secret"));
    }
}
