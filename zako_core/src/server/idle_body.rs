//! Request bodies of generated services that must not stall.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::Status;

use super::meter::Metered;

/// A message may take this many idle times, however steadily it comes.
const MESSAGE_TIMES: u32 = 10;

/// The bytes of a gRPC message's head.
const HEAD: usize = 5;

/// A body that fails when nothing comes for too long while it is waited for, or
/// when a message takes too long in all.
pub(super) struct IdleBody {
    body: Metered,
    idle: Duration,
    /// Whether the sender may rest between messages.
    rests: bool,
    messages: Messages,
    /// When the message began that is coming.
    began: Instant,
    /// Set when the first wait begins: most bodies are there at once.
    timer: Option<Pin<Box<Sleep>>>,
}

/// Where in a stream of messages its bytes have come to.
#[derive(Default)]
struct Messages {
    head: [u8; HEAD],
    /// The bytes of `head` that are there.
    have: usize,
    /// What the message behind the head has yet to bring.
    left: usize,
}

impl IdleBody {
    /// A body whose sender must go on, or may rest between messages.
    pub(super) fn new(body: Metered, idle: Duration, rests: bool) -> Self {
        Self {
            body,
            idle,
            rests,
            messages: Messages::default(),
            began: Instant::now(),
            timer: None,
        }
    }

    fn due(&self) -> Instant {
        let whole = self.began + self.idle * MESSAGE_TIMES;
        whole.min(Instant::now() + self.idle)
    }
}

impl Messages {
    /// Takes these bytes into account; whether a message began in them.
    fn pass(&mut self, mut data: &[u8]) -> bool {
        let mut began = false;
        while !data.is_empty() {
            if self.left > 0 {
                let length = self.left.min(data.len());
                self.left -= length;
                data = &data[length..];
                continue;
            }
            began |= self.have == 0;
            let length = (HEAD - self.have).min(data.len());
            self.head[self.have..self.have + length].copy_from_slice(&data[..length]);
            self.have += length;
            data = &data[length..];
            if self.have == HEAD {
                let [_, a, b, c, d] = self.head;
                self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                self.have = 0;
            }
        }
        began
    }

    /// Whether the last message is whole.
    fn rest(&self) -> bool {
        self.have == 0 && self.left == 0
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
            let data = frame.as_ref().and_then(|frame| frame.as_ref().ok());
            if let Some(data) = data.and_then(Frame::data_ref)
                && this.messages.pass(data)
            {
                this.began = Instant::now();
            }
            let due = this.due();
            if let Some(timer) = &mut this.timer {
                timer.as_mut().reset(due);
            }
            return Poll::Ready(
                frame.map(|frame| frame.map_err(|error| Status::from_error(error.into()))),
            );
        }
        if this.rests && this.messages.rest() {
            this.timer = None;
            return Poll::Pending;
        }
        let due = this.due();
        let timer = this
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_however_they_come() {
        let stream = [&[0, 0, 0, 0, 2, 7, 7][..], &[0; 5], &[0, 0, 0, 0, 1, 7]].concat();
        for size in 1..=stream.len() {
            let mut messages = Messages::default();
            let (mut at, mut began) = (0, 0);
            for piece in stream.chunks(size) {
                began += usize::from(messages.pass(piece));
                at += piece.len();
                assert_eq!(messages.rest(), [7, 12, 18].contains(&at), "{size} {at}");
            }
            assert!(size > 1 || began == 3, "{began}");
        }
    }
}
