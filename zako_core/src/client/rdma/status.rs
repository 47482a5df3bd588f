//! What fails on the road over RDMA, as errors of the store.

use zako_rdma::session::{Code, SessionError, Status, TransferError};

use crate::Digest;
use crate::access::Exceeded;
use crate::cas::{CasError, ErrorKind};
use crate::client::status::{from_status, shown};

/// Why a transfer failed.
#[derive(Debug)]
pub(in crate::client) enum Failure {
    /// RDMA did: another road may do.
    Road(CasError),
    /// It would on any road.
    Other(CasError),
}

/// The failure of a transfer of this blob.
pub(super) fn of_transfer(error: &TransferError, digest: &Digest) -> Failure {
    match error {
        TransferError::Peer(status) => of_status(status, digest),
        TransferError::Session(error) => Failure::Road(of_session(error).with_digest(*digest)),
        TransferError::Misuse(text) => {
            Failure::Other(CasError::new(ErrorKind::Internal, *text).with_digest(*digest))
        }
    }
}

/// What the server says of a transfer. Whether it is a refusal of the bytes or of the
/// offset is for who knows what was asked.
fn of_status(status: &Status, digest: &Digest) -> Failure {
    let kind = match status.code {
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::InvalidArgument,
        Code::PermissionDenied => ErrorKind::PermissionDenied,
        Code::ResourceExhausted => ErrorKind::NoSpace,
        Code::DataLoss => ErrorKind::Corrupt,
        Code::Aborted => ErrorKind::Stale,
        Code::DeadlineExceeded => ErrorKind::Timeout,
        Code::Internal => ErrorKind::Internal,
        // The server can't say it here as well as over gRPC, or it ends.
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::FailedPrecondition
        | Code::Unimplemented
        | Code::Unavailable
        | Code::Unauthenticated => ErrorKind::Unavailable,
    };
    // The error's own text names the blob again.
    let name = format!(" (blob {digest})");
    let text = status.message.strip_suffix(&name);
    let text = text.unwrap_or(&status.message);
    let text = shown(text, tonic::Code::from_i32(status.code as i32));
    let mut error = CasError::new(kind, text).with_digest(*digest);
    if status.held > 0 {
        error = error.with_held(status.held);
    }
    match kind {
        ErrorKind::Unavailable => Failure::Road(error),
        ErrorKind::NoSpace => Failure::Other(limited(error, status)),
        _ => Failure::Other(error),
    }
}

/// What was exceeded, and when to try again, if the server says so.
fn limited(mut error: CasError, status: &Status) -> CasError {
    let code = tonic::Code::from_i32(status.code as i32);
    let told = tonic::Status::with_details(code, "", status.details.clone());
    let told = from_status(&told);
    if let Some(exceeded) = Exceeded::of(&told) {
        error = error.with_source(exceeded.clone());
    }
    match told.retry_after() {
        Some(after) => error.with_retry_after(after),
        None => error,
    }
}

/// The end of a session.
pub(super) fn of_session(error: &SessionError) -> CasError {
    let cause = shown(&error.to_string(), tonic::Code::Unavailable);
    CasError::new(ErrorKind::Unavailable, format!("RDMA failed: {cause}"))
}

/// Why a session can't be set up.
pub(super) fn of_setup(error: &SessionError) -> CasError {
    let cause = shown(&error.to_string(), tonic::Code::Unavailable);
    let kind = match error {
        // These pass.
        SessionError::Closed
        | SessionError::ControlLost(_)
        | SessionError::Timeout(_)
        | SessionError::Limit(_) => ErrorKind::Unavailable,
        SessionError::Peer(status) if status.code == Code::ResourceExhausted => {
            ErrorKind::Unavailable
        }
        _ => ErrorKind::Unsupported,
    };
    CasError::new(kind, format!("there is no RDMA to this server: {cause}"))
}

/// Whether the end of a session while bytes moved speaks against the road. One that was
/// closed, or on which nobody took anything for too long, may be set up again.
pub(super) fn is_fault(error: &SessionError) -> bool {
    match error {
        SessionError::Closed | SessionError::Timeout(_) => false,
        SessionError::Peer(status) => status.code != Code::DeadlineExceeded,
        _ => true,
    }
}

/// Whether a session may end so while nothing moves on it, and another one may do: it was
/// idle, or its connection broke.
pub(super) fn is_quiet(error: &SessionError) -> bool {
    !is_fault(error) || matches!(error, SessionError::ControlLost(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> Digest {
        zako_digest::hash::bytes(b"x")
    }

    fn told(code: Code, text: &str) -> Failure {
        let error = TransferError::Peer(Status::new(code, text).with_held(3));
        of_transfer(&error, &digest())
    }

    #[test]
    fn answers_of_the_server_are_those_of_every_road() {
        for (code, kind) in [
            (Code::NotFound, ErrorKind::NotFound),
            (Code::AlreadyExists, ErrorKind::AlreadyExists),
            (Code::InvalidArgument, ErrorKind::InvalidArgument),
            (Code::PermissionDenied, ErrorKind::PermissionDenied),
            (Code::ResourceExhausted, ErrorKind::NoSpace),
            (Code::DataLoss, ErrorKind::Corrupt),
            (Code::Aborted, ErrorKind::Stale),
            (Code::DeadlineExceeded, ErrorKind::Timeout),
            (Code::Internal, ErrorKind::Internal),
        ] {
            let Failure::Other(error) = told(code, "why") else {
                panic!("{code:?} is taken for a failure of the road");
            };
            assert_eq!(error.kind(), kind);
            assert_eq!((error.message(), error.held()), ("why", Some(3)));
            assert_eq!(error.digest(), Some(digest()));
        }
        for code in [Code::Unavailable, Code::Cancelled, Code::Unauthenticated] {
            let Failure::Road(error) = told(code, "") else {
                panic!("another road may do: {code:?}");
            };
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(!error.message().is_empty());
        }
    }

    #[test]
    fn texts_of_the_server_are_safe_and_name_the_blob_once() {
        let text = format!("gone\u{1b}[2J (blob {})", digest());
        let Failure::Other(error) = told(Code::NotFound, &text) else {
            panic!("a failure of the road");
        };
        let text = error.to_string();
        assert!(!text.contains('\u{1b}'), "{text}");
        assert_eq!(text.matches("blob").count(), 1, "{text}");
        let session = SessionError::Peer(Status::new(Code::Internal, "\u{7}"));
        assert!(!of_setup(&session).message().contains('\u{7}'));
        assert!(!of_session(&session).message().contains('\u{7}'));
    }

    #[test]
    fn only_what_passes_is_worth_another_attempt() {
        let limit = SessionError::Limit("full".to_owned());
        assert_eq!(of_setup(&limit).kind(), ErrorKind::Unavailable);
        let full = SessionError::Peer(Status::new(Code::ResourceExhausted, "full"));
        assert_eq!(of_setup(&full).kind(), ErrorKind::Unavailable);
        let nobody = SessionError::Unreachable("wrong GID".to_owned());
        let error = of_setup(&nobody);
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("wrong GID"), "{error}");
        assert!(is_fault(&nobody) && !is_quiet(&nobody));
        let idle = SessionError::Timeout("nothing moved".to_owned());
        assert!(!is_fault(&idle) && is_quiet(&idle));
        let lost = SessionError::ControlLost("reset".to_owned());
        assert!(is_fault(&lost) && is_quiet(&lost));
    }
}
