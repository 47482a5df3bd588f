//! The end of a session that asks.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use zako_digest::Digest;

use super::budget::Budget;
use super::driver;
use super::error::{SessionError, TransferError};
use super::expose::Expose;
use super::link::{Command, FreeSlots, Link};
use super::message::Client;
use super::options::SessionOptions;
use super::pull::{LastWord, Pull};
use super::trace::TraceContext;
use super::wire::Control;
use crate::fabric::Fabric;

/// A session with a server. Clones share it; it is closed when all of them and their
/// transfers are gone.
#[derive(Clone, Debug)]
pub struct ClientSession {
    link: Link,
    /// The number of the last transfer. Held while one is begun, so that they begin in
    /// the order of their numbers.
    last: Arc<Mutex<u64>>,
    /// What the next transfers of this handle are a part of.
    trace: Option<TraceContext>,
}

/// Sets up a session with the server at the other end of `control`. Runs on the tokio
/// runtime from which it is called. Dropping the future gives it up.
///
/// # Errors
/// Why there is none. All that was taken for it is given back.
pub async fn connect(
    fabric: Arc<dyn Fabric>,
    control: Control<Client>,
    options: SessionOptions,
    budget: &Budget,
) -> Result<ClientSession, SessionError> {
    let link = driver::start::<Client>(fabric, control, options, budget, None).await?;
    Ok(ClientSession {
        link,
        last: Arc::default(),
        trace: None,
    })
}

impl ClientSession {
    /// Tells the server which trace the transfers of this handle are a part of. It must be
    /// one that knows of traces.
    #[must_use]
    pub fn traced(mut self, trace: TraceContext) -> Self {
        self.trace = Some(trace);
        self
    }

    /// Asks for a part of a blob; returns when the server begins with it. Waits while
    /// there are as many transfers as may be.
    ///
    /// # Errors
    /// [`TransferError::Peer`] if the server refuses, or why the session ended.
    pub async fn get(&self, digest: &Digest, range: Range<u64>) -> Result<Pull, TransferError> {
        let permit = self.permit().await?;
        let (opened, open) = oneshot::channel();
        let (pieces, taken) = mpsc::unbounded_channel();
        let transfer = self.begin(|transfer| Command::Get {
            trace: self.trace.clone(),
            transfer,
            digest: *digest,
            range: range.clone(),
            opened,
            pieces,
            permit,
        });
        // From here on it is cancelled by being dropped.
        let link = self.link.clone();
        let pull = Pull::new(link, transfer, *digest, range, taken, LastWord::Got);
        self.opened(open).await?;
        Ok(pull)
    }

    /// Offers a blob from `offset` on; returns when the server begins to take it. Waits
    /// while there are as many transfers as may be.
    ///
    /// # Errors
    /// [`TransferError::Peer`] if the server refuses: its status tells how much it holds,
    /// and [`Code::AlreadyExists`](super::Code::AlreadyExists) that it has the blob. Or
    /// why the session ended.
    pub async fn put(&self, digest: &Digest, offset: u64) -> Result<Expose, TransferError> {
        if offset > digest.size() {
            return Err(TransferError::Misuse("a blob has no byte at that offset"));
        }
        let permit = self.permit().await?;
        let (opened, open) = oneshot::channel();
        let (done, last_word) = oneshot::channel();
        let transfer = self.begin(|transfer| Command::Put {
            trace: self.trace.clone(),
            transfer,
            digest: *digest,
            offset,
            opened,
            done,
            permit,
        });
        let link = self.link.clone();
        let range = offset..digest.size();
        let expose = Expose::new(link, transfer, *digest, range, last_word);
        self.opened(open).await?;
        Ok(expose)
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

    /// Whether transfers can be begun.
    pub fn is_open(&self) -> bool {
        self.link.is_open()
    }

    /// Slots that nobody has.
    pub fn free_slots(&self) -> FreeSlots {
        self.link.free_slots()
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, TransferError> {
        let transfers = Arc::clone(&self.link.parts.transfers);
        tokio::select! {
            biased;
            error = self.link.ended() => Err(error.into()),
            permit = transfers.acquire_owned() => {
                permit.map_err(|_| self.link.error().into())
            }
        }
    }

    fn begin(&self, command: impl FnOnce(u64) -> Command) -> u64 {
        let mut last = self.last.lock();
        *last += 1;
        self.link.tell(command(*last));
        *last
    }

    async fn opened(
        &self,
        open: oneshot::Receiver<Result<(), TransferError>>,
    ) -> Result<(), TransferError> {
        open.await.unwrap_or_else(|_| Err(self.link.error().into()))
    }
}
