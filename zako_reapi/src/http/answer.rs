//! Answers and their bodies.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tracing::Span;
use zako_core::access::Pace;
use zako_core::cas::CasError;
use zako_core::observe::trace::UntilDropped;

use super::blob_body::BlobBody;
use super::connection::Busy;
use super::meter::Meter;

/// An answer under way.
pub(super) type Answer = Response<AnswerBody>;

/// What an answer consists of.
pub(super) struct AnswerBody {
    source: Source,
    /// How fast it may go.
    pace: Option<Pace>,
    /// The connection's next request is waited for when this body has ended.
    _busy: Option<Busy>,
    meter: Option<Arc<Meter>>,
    /// Of the request, whose answer is a part of it.
    trace: UntilDropped,
}

enum Source {
    Bytes(Option<Bytes>),
    Blob(Box<BlobBody>),
    /// Of unknown length.
    Stream(BoxStream<'static, Result<Bytes, CasError>>),
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Answer {
    bytes(status, None, Bytes::new())
}

/// An answer of a line.
pub(super) fn text(status: StatusCode, line: impl Into<String>) -> Answer {
    let mut line: String = line.into();
    line.push('\n');
    bytes(status, Some("text/plain; charset=utf-8"), line.into())
}

/// An answer whose body is at hand.
pub(super) fn bytes(status: StatusCode, kind: Option<&'static str>, body: Bytes) -> Answer {
    let mut answer = Response::new(AnswerBody::bytes(body));
    *answer.status_mut() = status;
    if let Some(kind) = kind {
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    answer
}

/// What can be done with a resource, and the class of WebDAV that it has.
pub(super) fn options(methods: &'static str, dav: Option<&'static str>) -> Answer {
    let mut answer = empty(StatusCode::NO_CONTENT);
    let headers = answer.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(methods));
    if let Some(dav) = dav {
        headers.insert("dav", HeaderValue::from_static(dav));
    }
    answer
}

impl AnswerBody {
    pub(super) fn bytes(body: Bytes) -> Self {
        Self::of(Source::Bytes(Some(body)))
    }

    fn of(source: Source) -> Self {
        Self {
            source,
            pace: None,
            _busy: None,
            meter: None,
            trace: UntilDropped(Span::none()),
        }
    }

    pub(super) fn blob(body: BlobBody) -> Self {
        Self::of(Source::Blob(Box::new(body)))
    }

    pub(super) fn stream(stream: BoxStream<'static, Result<Bytes, CasError>>) -> Self {
        Self::of(Source::Stream(stream))
    }

    /// The body without its bytes.
    pub(super) fn emptied(self) -> Self {
        Self::of(Source::Bytes(None))
    }

    /// The length, if it is known.
    pub(super) fn length(&self) -> Option<u64> {
        self.size_hint().exact()
    }

    pub(super) fn traced(mut self, trace: Span) -> Self {
        self.trace = UntilDropped(trace);
        self
    }

    fn holding(mut self, busy: Busy, meter: Option<Arc<Meter>>) -> Self {
        self._busy = Some(busy);
        self.meter = meter;
        self
    }

    /// The body, no faster than this.
    pub(super) fn paced(mut self, pace: Option<Pace>) -> Self {
        self.pace = pace;
        self
    }
}

/// Names the length of the body, and takes it away from the answer to a HEAD.
pub(super) fn finish(answer: Answer, head: bool, busy: Busy, meter: Option<Arc<Meter>>) -> Answer {
    let (mut parts, body) = answer.into_parts();
    if let Some(length) = body.length()
        && parts.status != StatusCode::NO_CONTENT
        && parts.status != StatusCode::NOT_MODIFIED
        && !parts.headers.contains_key(CONTENT_LENGTH)
    {
        parts.headers.insert(CONTENT_LENGTH, length.into());
    }
    let body = if head { body.emptied() } else { body };
    Response::from_parts(parts, body.holding(busy, meter))
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = CasError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CasError>>> {
        let trace = self.trace.0.clone();
        let _entered = trace.enter();
        if let Some(pace) = &mut self.pace {
            ready!(pace.poll_ready(cx));
        }
        let polled = match &mut self.source {
            Source::Bytes(body) => {
                let body = body.take().filter(|body| !body.is_empty());
                Poll::Ready(body.map(|body| Ok(Frame::data(body))))
            }
            Source::Blob(body) => Pin::new(&mut **body).poll_frame(cx),
            Source::Stream(stream) => stream
                .poll_next_unpin(cx)
                .map(|next| Some(next?.map(Frame::data))),
        };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(pace), Some(data)) = (&mut self.pace, frame.data_ref()) {
                    pace.moved(data.len());
                }
            }
            Poll::Ready(Some(Err(error))) => tracing::warn!(%error, "an answer breaks off"),
            _ => {}
        }
        if let (Some(meter), Poll::Ready(Some(Ok(frame)))) = (&self.meter, &polled)
            && let Some(data) = frame.data_ref()
        {
            meter.sent(data.len());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Bytes(body) => body.as_ref().is_none_or(Bytes::is_empty),
            Source::Blob(body) => body.is_end_stream(),
            Source::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Bytes(body) => SizeHint::with_exact(body.as_ref().map_or(0, Bytes::len) as u64),
            Source::Blob(body) => body.size_hint(),
            Source::Stream(_) => SizeHint::default(),
        }
    }
}
