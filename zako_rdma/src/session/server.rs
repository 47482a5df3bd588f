//! The end of a session that has the store.

use std::ops::Range;
use std::sync::Arc;

use tokio::sync::mpsc;
use zako_digest::Digest;

use super::budget::Budget;
use super::driver;
use super::error::SessionError;
use super::expose::Expose;
use super::link::{Command, FreeSlots, Link};
use super::message::Server;
use super::options::SessionOptions;
use super::pull::Pull;
use super::status::Status;
use super::trace::TraceContext;
use super::wire::Control;
use crate::fabric::Fabric;

/// A session with a client: what it asks for. Closed when this and its transfers are
/// gone.
#[derive(Debug)]
pub struct ServerSession {
    link: Link,
    requests: mpsc::UnboundedReceiver<Request>,
}

/// What a client asks for. Dropping it refuses.
#[derive(Debug)]
pub enum Request {
    /// A blob.
    Get(GetRequest),
    /// To take a blob.
    Put(PutRequest),
}

/// A client wants a part of a blob.
#[derive(Debug)]
pub struct GetRequest(pub(super) Expose, pub(super) Option<TraceContext>);

/// A client offers a blob.
#[derive(Debug)]
pub struct PutRequest(pub(super) Pull, pub(super) Option<TraceContext>);

/// Sets up a session with the client at the other end of `control`, as
/// [`connect`](super::connect) does.
///
/// # Errors
/// Why there is none. All that was taken for it is given back, and the client is told.
pub async fn accept(
    fabric: Arc<dyn Fabric>,
    control: Control<Server>,
    options: SessionOptions,
    budget: &Budget,
) -> Result<ServerSession, SessionError> {
    let (asked, requests) = mpsc::unbounded_channel();
    let link = driver::start::<Server>(fabric, control, options, budget, Some(asked)).await?;
    Ok(ServerSession { link, requests })
}

impl ServerSession {
    /// What the client asks for next; `None` when the session has ended. As many as
    /// there may be transfers can be under way at once, so each belongs in a task of
    /// its own.
    pub async fn next(&mut self) -> Option<Request> {
        self.requests.recv().await
    }

    /// Closes the session; transfers under way fail.
    pub fn close(&self) {
        self.link.tell(Command::Close);
    }

    /// Waits until the session ends; why it did.
    pub async fn ended(&self) -> SessionError {
        self.link.ended().await
    }

    /// Waits until nothing is left of the session; why it ended.
    pub async fn freed(&self) -> SessionError {
        self.link.freed().await
    }

    /// Slots that nobody has.
    pub fn free_slots(&self) -> FreeSlots {
        self.link.free_slots()
    }
}

impl GetRequest {
    /// The trace that it is a part of.
    pub fn trace(&self) -> Option<&TraceContext> {
        self.1.as_ref()
    }

    /// The blob.
    pub fn digest(&self) -> &Digest {
        self.0.digest()
    }

    /// The part of it that is wanted; it has that part.
    pub fn range(&self) -> Range<u64> {
        self.0.range()
    }

    /// Begins: all bytes of the range are to follow.
    #[must_use]
    pub fn accept(self) -> Expose {
        self.0.accept();
        self.0
    }

    /// Says why not.
    pub fn refuse(self, status: Status) {
        self.0.fail(status);
    }
}

impl PutRequest {
    /// The trace that it is a part of.
    pub fn trace(&self) -> Option<&TraceContext> {
        self.1.as_ref()
    }

    /// The blob.
    pub fn digest(&self) -> &Digest {
        self.0.digest()
    }

    /// The first byte that comes.
    pub fn offset(&self) -> u64 {
        self.0.range().start
    }

    /// Begins: all bytes from the offset on are to follow, and
    /// [`Pull::finish`] is to say what became of them.
    #[must_use]
    pub fn accept(self) -> Pull {
        self.0.accept();
        self.0
    }

    /// Says why not, and how much is held.
    pub fn refuse(self, status: Status) {
        self.0.finish(status);
    }
}
