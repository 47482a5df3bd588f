//! The body of every answer: it keeps the deadline, and comes in pieces.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;
use tonic::body::Body;
use tracing::Span;

use super::activity::Busy;
use super::deadline;
use super::download::DownloadBody;
use super::meter::Meter;
use super::sendfile::AnswerBuf;
use super::span;
use super::transport::trailers;
use super::watch::Watch;
use crate::access::Pace;

/// HTTP/2 takes over whatever it is given at once. Only with pieces does the end of
/// the body mean that the answer is nearly read.
const PIECE: usize = 256 * 1024;

/// What a service answers with.
pub(super) enum Inner {
    /// Of generated code, and what fits into one message.
    Body(Body),
    Download(Box<DownloadBody>),
}

/// An answer under way.
pub(super) struct AnswerBody {
    inner: Inner,
    unsent: Bytes,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Ends the answer when it has nothing to say.
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    watch: Option<Arc<Watch>>,
    meter: Option<Arc<Meter>>,
    pace: Option<Pace>,
    _busy: Option<Busy>,
    /// Of the call, whose answer is a part of it.
    trace: Span,
}

impl AnswerBody {
    pub(super) fn new(
        inner: Inner,
        deadline: Option<Instant>,
        stop: Option<WaitForCancellationFutureOwned>,
        watch: Option<Arc<Watch>>,
        meter: Option<Arc<Meter>>,
        trace: Span,
    ) -> Self {
        Self {
            inner,
            unsent: Bytes::new(),
            deadline: deadline.map(|at| Box::pin(tokio::time::sleep_until(at))),
            stop: stop.map(Box::pin),
            watch,
            meter,
            pace: None,
            _busy: None,
            trace,
        }
    }

    /// The answer of a call that keeps its connection busy, and is read no faster than its
    /// caller may.
    pub(super) fn on(mut self, busy: Busy, pace: Option<Pace>) -> Self {
        (self._busy, self.pace) = (Some(busy), pace);
        self
    }

    fn end(&mut self, status: &Status) -> Frame<AnswerBuf> {
        self.inner = Inner::Body(Body::empty());
        (self.unsent, self.pace) = (Bytes::new(), None);
        Frame::trailers(trailers(status))
    }

    fn piece(&mut self) -> Frame<AnswerBuf> {
        let length = self.unsent.len().min(PIECE);
        Frame::data(AnswerBuf::Bytes(self.unsent.split_to(length)))
    }

    fn poll_traced(&mut self, cx: &mut Context<'_>) -> Poll<Option<Answered>> {
        let trace = self.trace.clone();
        let _entered = trace.enter();
        let frame = self.poll_answer(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            span::ended(&self.trace, trailers);
        }
        frame
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Answered>> {
        let paced = match &mut self.pace {
            Some(pace) => pace.poll_ready(cx).is_pending(),
            None => false,
        };
        if !self.unsent.is_empty() && !paced {
            return Poll::Ready(Some(Ok(self.piece())));
        }
        if let Some(timer) = &mut self.deadline
            && timer.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Ok(self.end(&deadline::exceeded()))));
        }
        if paced {
            return Poll::Pending;
        }
        let polled = match &mut self.inner {
            Inner::Body(body) => Pin::new(body)
                .poll_frame(cx)
                .map_ok(|frame| frame.map_data(AnswerBuf::Bytes)),
            Inner::Download(body) => Pin::new(&mut **body).poll_frame(cx),
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                let frame = match frame.into_data() {
                    Ok(AnswerBuf::Bytes(data)) => {
                        self.unsent = data;
                        self.piece()
                    }
                    // No longer than a piece.
                    Ok(extent) => Frame::data(extent),
                    Err(frame) => frame,
                };
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Pending => {
                if let Some(stop) = &mut self.stop
                    && stop.as_mut().poll(cx).is_ready()
                {
                    let status = Status::unavailable("the server shuts down");
                    return Poll::Ready(Some(Ok(self.end(&status))));
                }
                Poll::Pending
            }
            ended => ended,
        }
    }
}

type Answered = Result<Frame<AnswerBuf>, Status>;

impl HttpBody for AnswerBody {
    type Data = AnswerBuf;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Answered>> {
        let this = self.get_mut();
        let frame = match this.trace.is_disabled() {
            true => this.poll_answer(cx),
            false => this.poll_traced(cx),
        };
        if let Some(watch) = &this.watch {
            match &frame {
                Poll::Ready(_) => watch.answered(),
                Poll::Pending => watch.read(),
            }
        }
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            if let Some(meter) = &this.meter {
                meter.answered(frame);
            }
            if let (Some(pace), Some(data)) = (&mut this.pace, frame.data_ref()) {
                pace.moved(data.remaining());
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.unsent.is_empty()
            && match &self.inner {
                Inner::Body(body) => body.is_end_stream(),
                Inner::Download(body) => body.is_end_stream(),
            }
    }
}
