//! Request bodies of generated services that must not stall.
//!
//! Generated code takes memory for a message when it has read its length, however little of it
//! comes. So it gets each message when all of it is there.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep};
use tonic::Status;

use super::memory::{self, PATIENCE, Share};
use super::meter::Metered;
use crate::transport::grpc::Pieces;

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
    /// When it is waited for no longer.
    due: Instant,
    /// Set when the first wait begins: most bodies are there at once.
    timer: Option<Pin<Box<Sleep>>>,
    /// What has come of a message of which more has to come.
    waiting: Pieces,
    held: Share,
    /// A message longer than this is handed on as it comes, and refused by who reads it.
    longest: usize,
    /// What is handed on next.
    ready: VecDeque<Bytes>,
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
    pub(super) fn new(
        body: Metered,
        idle: Duration,
        rests: bool,
        longest: usize,
        held: Share,
    ) -> Self {
        let began = Instant::now();
        Self {
            body,
            idle,
            rests,
            messages: Messages::default(),
            began,
            due: began + idle,
            timer: None,
            waiting: Pieces::new(),
            held,
            longest,
            ready: VecDeque::new(),
        }
    }

    /// Takes bytes that came; what of them can be handed on.
    fn take(&mut self, data: Bytes) -> Result<Option<Bytes>, Status> {
        let now = Instant::now();
        if self.messages.pass(&data) {
            self.began = now;
        }
        let whole = self.began + self.idle * MESSAGE_TIMES;
        self.due = whole.min(now + self.idle);
        let rest = self.messages.rest();
        let held = match rest {
            true => {
                self.held.clear();
                Ok(())
            }
            false => self.held.grow(data.len() as u64),
        };
        let next = self.next_look(now);
        if let Some(timer) = &mut self.timer {
            timer.as_mut().reset(next);
        }
        held?;
        if rest && self.waiting.is_empty() {
            return Ok(Some(data));
        }
        self.waiting.push(data);
        if !rest && self.waiting.len() <= self.longest {
            self.waiting.keep();
            return Ok(None);
        }
        self.ready = std::mem::take(&mut self.waiting).into_parts();
        Ok(self.ready.pop_front())
    }

    /// When to look whether it may be waited for longer.
    fn next_look(&self, now: Instant) -> Instant {
        match self.held.is_empty() {
            true => self.due,
            false => self.due.min(now + PATIENCE),
        }
    }

    /// Ready when the sender has had time enough.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        loop {
            let now = Instant::now();
            if self.due <= now {
                let text = "nothing was sent for too long";
                return Poll::Ready(Status::deadline_exceeded(text));
            }
            let next = self.next_look(now);
            let sleep = || Box::pin(tokio::time::sleep_until(next));
            ready!(self.timer.get_or_insert_with(sleep).as_mut().poll(cx));
            self.timer = None;
            if self.held.is_short() {
                return Poll::Ready(memory::exhausted());
            }
        }
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
        if let Some(data) = this.ready.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        while let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            let data = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(error)) => {
                    return Poll::Ready(Some(Err(Status::from_error(error.into()))));
                }
                None => {
                    // Whoever reads it will tell that the rest is missing.
                    this.ready = std::mem::take(&mut this.waiting).into_parts();
                    let data = this.ready.pop_front();
                    return Poll::Ready(data.map(|data| Ok(Frame::data(data))));
                }
            };
            match this.take(data) {
                Ok(None) => {}
                Ok(Some(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
        }
        if this.rests && this.messages.rest() {
            this.timer = None;
            return Poll::Pending;
        }
        this.poll_late(cx).map(|status| Some(Err(status)))
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_empty() && self.waiting.is_empty() && self.body.is_end_stream()
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
