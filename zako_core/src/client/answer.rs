//! What a server answers, made safe to read.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tracing::Span;

use super::span;

/// The body of an answer.
///
/// tonic panics on details of a status that are not base64; such details are
/// taken out here, in headers and in trailers.
#[derive(Debug)]
pub(super) struct Answer {
    body: Incoming,
    /// Of the call, which ends with its answer.
    trace: Span,
}

const DETAILS: &str = "grpc-status-details-bin";

impl Answer {
    pub(super) fn of(mut response: Response<Incoming>, trace: Span) -> Response<Self> {
        scrub(response.headers_mut());
        span::ended(&trace, response.headers());
        response.map(|body| Self { body, trace })
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            scrub(trailers);
            let trace = &self.trace;
            // A span ends when it was in use last.
            trace.in_scope(|| span::ended(trace, trailers));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn scrub(headers: &mut HeaderMap) {
    if let Some(details) = headers.get(DETAILS)
        && !is_base64(details.as_bytes())
    {
        headers.remove(DETAILS);
    }
}

/// Whether these are base64 digits, padded or not, that stand for whole bytes.
fn is_base64(text: &[u8]) -> bool {
    let padding = text.iter().rev().take_while(|c| **c == b'=').count();
    let digits = &text[..text.len() - padding];
    let value = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    if !digits.iter().all(|c| value(*c).is_some()) {
        return false;
    }
    // Bits of the last digit that belong to no byte must be 0.
    let last = digits.last().and_then(|c| value(*c)).unwrap_or(0);
    match digits.len() % 4 {
        0 => padding == 0,
        2 => matches!(padding, 0 | 2) && last & 0b1111 == 0,
        3 => padding <= 1 && last & 0b11 == 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tonic::Status;

    proptest! {
        #[test]
        fn no_details_make_tonic_panic(text in "[A-Za-z0-9+/=]{0,24}|[ -~]{0,12}") {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", 5.into());
            headers.insert(DETAILS, text.parse().unwrap());
            scrub(&mut headers);
            prop_assert!(Status::from_header_map(&headers).is_some());
        }

        #[test]
        fn honest_details_stay(details: Vec<u8>) {
            let status = Status::with_details(tonic::Code::NotFound, "", details.clone().into());
            let mut headers = HeaderMap::new();
            status.add_header(&mut headers).unwrap();
            scrub(&mut headers);
            let read = Status::from_header_map(&headers).unwrap();
            prop_assert_eq!(read.details(), &details[..]);
        }
    }
}
