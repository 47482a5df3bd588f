//! Reading a request's body, and noticing when nothing comes.

use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;

use super::deadline;
use super::memory::{self, PATIENCE, Share};
use crate::transport::grpc::Pieces;

/// A request's body with all that may end the call while it is awaited.
pub(super) struct RequestBody {
    body: Body,
    idle: Duration,
    /// When something that counts came last.
    progress: Instant,
    idle_timer: Pin<Box<Sleep>>,
    deadline: Option<Pin<Box<Sleep>>>,
    abort: CancellationToken,
    /// What is held of what came.
    held: Share,
    /// Whether the timer looks after the memory that others need, too.
    hurried: bool,
}

/// Why no more of a body comes before its end.
#[derive(Debug)]
#[non_exhaustive]
pub enum Broken {
    /// The peer went away or gave the call up.
    Gone(Status),
    /// Nothing that counts came for too long.
    Stalled,
    /// Nothing came just now, and others need the memory of what did.
    Crowded,
    /// The caller's deadline passed.
    Deadline,
    /// The server shuts down.
    Shutdown,
}

impl RequestBody {
    pub(super) fn new(
        body: Body,
        idle: Duration,
        deadline: Option<Instant>,
        abort: CancellationToken,
        held: Share,
    ) -> Self {
        let now = Instant::now();
        Self {
            body,
            idle,
            progress: now,
            idle_timer: Box::pin(tokio::time::sleep_until(now + idle)),
            deadline: deadline.map(|at| Box::pin(tokio::time::sleep_until(at))),
            abort,
            held,
            hurried: false,
        }
    }

    /// Says that so much of what came is held, until the body is dropped.
    ///
    /// # Errors
    /// As [`Share::grow`].
    pub(super) fn hold(&mut self, bytes: u64) -> Result<(), Status> {
        self.held.grow(bytes)
    }

    /// The next bytes; `None` at the end of the stream.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        self.next_after(|| {}).await
    }

    /// The same; `waits` is called if they have to be waited for.
    async fn next_after(&mut self, mut waits: impl FnMut()) -> Result<Option<Bytes>, Broken> {
        loop {
            // Most of it has come already: then no timer has to be set.
            let at_hand = match self.goes_on() {
                true => self.body.frame().now_or_never(),
                false => None,
            };
            let frame = match at_hand {
                Some(frame) => frame,
                None => {
                    waits();
                    self.wait().await?
                }
            };
            match frame {
                None => return Ok(None),
                Some(Err(status)) => return Err(Broken::Gone(status)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Whether nothing has ended the call yet.
    fn goes_on(&self) -> bool {
        let now = Instant::now();
        let deadline = self.deadline.as_ref().map(|timer| timer.deadline());
        !self.abort.is_cancelled()
            && now < self.progress + self.idle
            && deadline.is_none_or(|at| now < at)
    }

    /// Waits for the next frame, and for what ends the call.
    async fn wait(&mut self) -> Result<Option<Result<Frame<Bytes>, Status>>, Broken> {
        let Self {
            body,
            idle,
            progress,
            idle_timer,
            deadline,
            abort,
            held,
            hurried,
        } = self;
        let began = Instant::now();
        if !held.is_empty() && !*hurried {
            *hurried = true;
            idle_timer.as_mut().reset(began + PATIENCE);
        }
        let mut cancelled = pin!(abort.cancelled());
        loop {
            tokio::select! {
                biased;
                () = &mut cancelled => return Err(Broken::Shutdown),
                () = passed(deadline) => return Err(Broken::Deadline),
                () = idle_timer.as_mut() => {
                    // Set again only when it fires, not for every frame.
                    let (now, due) = (Instant::now(), *progress + *idle);
                    if due <= now {
                        return Err(Broken::Stalled);
                    }
                    if held.is_short() && began + PATIENCE <= now {
                        return Err(Broken::Crowded);
                    }
                    let next = if *hurried { due.min(now + PATIENCE) } else { due };
                    idle_timer.as_mut().reset(next);
                }
                frame = body.frame() => return Ok(frame),
            }
        }
    }

    /// Says that something came which counts.
    pub(super) fn progressed(&mut self) {
        self.progress = Instant::now();
    }

    /// A whole body of at most `limit` bytes, in the pieces in which it came. It is held.
    pub(super) async fn pieces(&mut self, limit: usize) -> Result<Pieces, Status> {
        let mut pieces = Pieces::new();
        while let Some(data) = self.next_after(|| pieces.keep()).await? {
            within(pieces.len() + data.len(), limit)?;
            self.hold(data.len() as u64)?;
            pieces.push(data);
        }
        Ok(pieces)
    }

    /// A whole body of at most `limit` bytes. It is held.
    pub(super) async fn whole(&mut self, limit: usize) -> Result<Bytes, Status> {
        let Some(first) = self.next().await? else {
            return Ok(Bytes::new());
        };
        within(first.len(), limit)?;
        self.hold(first.len() as u64)?;
        let Some(second) = self.next().await? else {
            return Ok(first);
        };
        let mut whole = BytesMut::from(first);
        let mut next = Some(second);
        while let Some(data) = next {
            within(whole.len() + data.len(), limit)?;
            self.hold(data.len() as u64)?;
            whole.extend_from_slice(&data);
            next = self.next().await?;
        }
        Ok(whole.freeze())
    }
}

fn within(length: usize, limit: usize) -> Result<(), Status> {
    if length > limit {
        return Err(Status::resource_exhausted(format!(
            "the request is longer than the {limit} bytes that are allowed here"
        )));
    }
    Ok(())
}

async fn passed(deadline: &mut Option<Pin<Box<Sleep>>>) {
    match deadline {
        Some(deadline) => deadline.as_mut().await,
        None => std::future::pending().await,
    }
}

impl From<Broken> for Status {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Gone(status) => Self::cancelled(format!("the call broke off: {status}")),
            Broken::Stalled => Self::deadline_exceeded("nothing was sent for too long"),
            Broken::Crowded => memory::exhausted(),
            Broken::Deadline => deadline::exceeded(),
            Broken::Shutdown => Self::unavailable("the server shuts down"),
        }
    }
}
