//! Requests that are not answered as they ask for.

use std::time::Duration;

use http::header::{ALLOW, CONTENT_RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use zako_core::access::{Exceeded, Limit};
use zako_core::cas::{CasError, ErrorKind};

use super::answer::{self, Answer};

/// Why a request is refused: a status, and a line that says what is wrong.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    text: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            header: None,
        }
    }

    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub(super) fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    /// The resource is there and has these methods only.
    pub(super) fn method(allow: &'static str) -> Self {
        let text = format!("only these methods are for this path: {allow}");
        let mut refusal = Self::new(StatusCode::METHOD_NOT_ALLOWED, text);
        refusal.header = Some((ALLOW, HeaderValue::from_static(allow)));
        refusal
    }

    /// The range lies beyond the `size` bytes that are there.
    pub(super) fn range(size: u64) -> Self {
        let text = format!("the range is beyond the {size} bytes that there are");
        let mut refusal = Self::new(StatusCode::RANGE_NOT_SATISFIABLE, text);
        let all = HeaderValue::from_str(&format!("bytes */{size}"));
        refusal.header = all.ok().map(|all| (CONTENT_RANGE, all));
        refusal
    }

    pub(super) fn too_large(most: u64) -> Self {
        let text = format!("the body is longer than the {most} bytes that are taken here");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    }

    /// Who asks has to show who it is.
    fn unauthenticated(text: &str) -> Self {
        let mut refusal = Self::new(StatusCode::UNAUTHORIZED, text);
        let ways = HeaderValue::from_static(r#"Basic realm="zako", Bearer realm="zako""#);
        refusal.header = Some((WWW_AUTHENTICATE, ways));
        refusal
    }

    pub(super) fn retry_after(mut self, after: Duration) -> Self {
        self.header = Some((
            RETRY_AFTER,
            HeaderValue::from(after.as_secs_f64().ceil().max(1.0) as u64),
        ));
        self
    }

    #[cfg(test)]
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    #[cfg(test)]
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn answer(self) -> Answer {
        let mut answer = answer::text(self.status, self.text);
        if let Some((name, value)) = self.header {
            answer.headers_mut().insert(name, value);
        }
        answer
    }
}

impl From<CasError> for Refusal {
    fn from(error: CasError) -> Self {
        let exceeded = Exceeded::of(&error).map(|exceeded| exceeded.limit);
        let status = match error.kind() {
            // Room is told of as a full store tells of it: what comes in a moment, by 429,
            // is tried again by clients that would wait for hours.
            ErrorKind::NoSpace if exceeded.is_some_and(|limit| limit != Limit::Stored) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            // A damaged blob is in quarantine: to a cache's clients it is gone.
            ErrorKind::NotFound | ErrorKind::Corrupt => StatusCode::NOT_FOUND,
            ErrorKind::Mismatch
            | ErrorKind::InvalidArgument
            | ErrorKind::NotHeld
            | ErrorKind::InvalidRange => StatusCode::BAD_REQUEST,
            ErrorKind::AlreadyExists | ErrorKind::Stale => StatusCode::CONFLICT,
            ErrorKind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            ErrorKind::Unauthenticated => return Self::unauthenticated(error.message()),
            ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
            ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
            ErrorKind::Unavailable | ErrorKind::Closed => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
            _ => {
                tracing::error!(%error, "a request failed");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        let refusal = Self::new(status, error.message());
        match error.retry_after() {
            Some(after) => refusal.retry_after(after),
            None => refusal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_acts_on_is_told_and_this_machines_paths_are_not() {
        let full = CasError::new(ErrorKind::NoSpace, "full");
        let full = full.with_retry_after(Duration::from_millis(100));
        let answer = Refusal::from(full).answer();
        assert_eq!(answer.status(), StatusCode::INSUFFICIENT_STORAGE);
        assert_eq!(answer.headers()[RETRY_AFTER], "1");
        let path = std::path::Path::new("/secret");
        let io = CasError::io("reading", path, std::io::Error::other("EIO"));
        let refusal = Refusal::from(io);
        assert_eq!(refusal.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!refusal.text.contains("secret"), "{}", refusal.text);
    }
}
