//! Request bodies of generated services that must not stall.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use tonic::Status;

/// A body that fails when nothing comes for too long while it is waited for.
pub(super) struct IdleBody {
    body: Incoming,
    idle: Duration,
    /// Set when the first wait begins: most bodies are there at once.
    timer: Option<Pin<Box<Sleep>>>,
}

impl IdleBody {
    pub(super) fn new(body: Incoming, idle: Duration) -> Self {
        Self {
            body,
            idle,
            timer: None,
        }
    }
}

impl Body for IdleBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            if let Some(timer) = &mut this.timer {
                timer.as_mut().reset(Instant::now() + this.idle);
            }
            return Poll::Ready(
                frame.map(|frame| frame.map_err(|error| Status::from_error(error.into()))),
            );
        }
        let timer = this
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(this.idle)));
        timer.as_mut().poll(cx).map(|()| {
            let stalled = Status::deadline_exceeded("nothing was sent for too long");
            Some(Err(stalled))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
