//! The control stream of a session, both ways.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::timeout;

use super::error::SessionError;
use super::message::{Message, Role};
use super::status::Status;

/// The control stream as the caller gives it: messages out and in, of a gRPC stream for
/// one. A short queue is enough, since the session has its own.
pub struct Control<R: Role> {
    /// What is sent. Its other half gone means that the stream is.
    pub outgoing: mpsc::Sender<R::Outgoing>,
    /// What comes; an error, as a text for a person, and the end are the session's end.
    pub incoming: Pin<Box<dyn Stream<Item = Result<R::Incoming, String>> + Send>>,
}

/// The control stream with what is waiting to be sent on it.
#[derive(Debug)]
pub(crate) struct Wire<R: Role> {
    control: Control<R>,
    queue: VecDeque<R::Outgoing>,
    /// More than a peer that reads ever leaves here.
    bound: usize,
}

impl<R: Role> Control<R> {
    /// A control stream of these halves.
    pub fn new<E: fmt::Display>(
        outgoing: mpsc::Sender<R::Outgoing>,
        incoming: impl Stream<Item = Result<R::Incoming, E>> + Send + 'static,
    ) -> Self {
        Self {
            outgoing,
            incoming: Box::pin(incoming.map(|item| item.map_err(|error| error.to_string()))),
        }
    }
}

impl<R: Role> Wire<R> {
    pub(crate) fn new(control: Control<R>, bound: usize) -> Self {
        Self {
            control,
            queue: VecDeque::new(),
            bound,
        }
    }

    /// Sends a message now or when there is room.
    ///
    /// # Errors
    /// If the peer reads nothing.
    pub(crate) fn send(&mut self, message: Message) -> Result<(), SessionError> {
        let message = R::write(message).ok_or_else(|| {
            SessionError::Internal("a message of the other end was to be sent".to_owned())
        })?;
        self.send_raw(message)
    }

    /// Sends a message of this stream alone, as [`send`](Self::send) does.
    ///
    /// # Errors
    /// If the peer reads nothing.
    pub(crate) fn send_raw(&mut self, message: R::Outgoing) -> Result<(), SessionError> {
        self.queue.push_back(message);
        self.push();
        if self.queue.len() > self.bound {
            return Err(SessionError::Timeout(
                "the peer doesn't read the control stream".to_owned(),
            ));
        }
        Ok(())
    }

    /// The next message. Sends what waits meanwhile.
    ///
    /// # Errors
    /// [`SessionError::ControlLost`], or [`SessionError::Malformed`]; and the peer's word
    /// that the session ends.
    pub(crate) async fn next(&mut self) -> Result<Message, SessionError> {
        match R::read(self.next_raw().await?)? {
            Message::Close(status) => Err(ended(status)),
            message => Ok(message),
        }
    }

    /// The next message, unchecked. Sends what waits meanwhile.
    ///
    /// # Errors
    /// [`SessionError::ControlLost`].
    pub(crate) async fn next_raw(&mut self) -> Result<R::Incoming, SessionError> {
        let lost = |why: String| SessionError::ControlLost(why);
        loop {
            tokio::select! {
                biased;
                item = self.control.incoming.next() => {
                    let item = item.ok_or_else(|| lost("it ended".to_owned()))?;
                    return item.map_err(lost);
                }
                room = self.control.outgoing.reserve(), if !self.queue.is_empty() => {
                    let room = room.map_err(|_| lost("nobody reads it".to_owned()))?;
                    if let Some(message) = self.queue.pop_front() {
                        room.send(message);
                    }
                }
                () = self.control.outgoing.closed(), if self.queue.is_empty() => {
                    return Err(lost("nobody reads it".to_owned()));
                }
            }
        }
    }

    /// Says why the session ends, and ends the stream.
    pub(crate) async fn close(mut self, error: &SessionError, limit: Duration) {
        if let Some(message) = R::write(Message::Close(error.status())) {
            self.queue.push_back(message);
        }
        let all = async {
            while let Some(message) = self.queue.pop_front() {
                if self.control.outgoing.send(message).await.is_err() {
                    break;
                }
            }
        };
        // A peer that doesn't read learns it from the end of the stream.
        let _late = timeout(limit, all).await;
    }

    fn push(&mut self) {
        while let Some(message) = self.queue.pop_front() {
            // A stream that is gone is found by `next`.
            if let Err(TrySendError::Full(message) | TrySendError::Closed(message)) =
                self.control.outgoing.try_send(message)
            {
                self.queue.push_front(message);
                break;
            }
        }
    }
}

/// The peer's word that the session ends.
pub(crate) fn ended(status: Status) -> SessionError {
    match status.is_ok() {
        true => SessionError::Closed,
        false => SessionError::Peer(status),
    }
}

impl<R: Role> fmt::Debug for Control<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}
