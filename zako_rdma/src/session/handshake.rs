//! From nothing to a session on which both ends have read the other's memory.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use super::budget::Budget;
use super::card::Card;
use super::error::SessionError;
use super::hello::Hello;
use super::message::{Message, NONCE_BYTES, Nonce, Role};
use super::options::SessionOptions;
use super::state::{Lifecycle, Verdict};
use super::status::Status;
use super::wire::{Control, Wire};
use crate::fabric::{Fabric, Work};

/// The time that the last messages of a session have.
const CLOSE: Duration = Duration::from_secs(1);

/// A session that is being set up, or ends.
#[derive(Debug)]
pub(crate) struct Setup<R: Role> {
    /// Before all that it may touch.
    pub(crate) card: Option<Card>,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) wire: Wire<R>,
    pub(crate) options: SessionOptions,
    pub(crate) fabric: Arc<dyn Fabric>,
    pub(crate) budget: Budget,
}

impl<R: Role> Setup<R> {
    /// One that has taken nothing yet. A peer that leaves more than `unread` messages
    /// unread is given up.
    pub(crate) fn new(
        fabric: Arc<dyn Fabric>,
        control: Control<R>,
        options: SessionOptions,
        budget: &Budget,
        unread: usize,
    ) -> Self {
        Self {
            card: None,
            lifecycle: Lifecycle::default(),
            wire: Wire::new(control, unread),
            options,
            fabric,
            budget: budget.clone(),
        }
    }

    /// Sets it up; what the peer said of itself.
    pub(crate) async fn run(&mut self) -> Result<Hello, SessionError> {
        // Who is asked takes nothing before it knows that the offer makes sense.
        let offer = match R::BEGINS {
            true => None,
            false => Some(self.hello().await?),
        };
        let (fabric, options, budget) = (
            Arc::clone(&self.fabric),
            self.options.clone(),
            self.budget.clone(),
        );
        // Pinning takes the kernel milliseconds.
        let card = tokio::task::spawn_blocking(move || {
            Card::open(&*fabric, &options, R::EXPOSES, &budget)
        });
        let card = card
            .await
            .map_err(|error| SessionError::Internal(error.to_string()))??;
        let (own, nonce) = (card.hello, card.nonce);
        self.card = Some(card);
        self.lifecycle.offered()?;
        self.wire.send(Message::Hello(own))?;
        let peer = match offer {
            Some(offer) => offer,
            None => self.hello().await?,
        };
        self.connect(&peer).await?;
        self.lifecycle.connected()?;
        self.wire.send(Message::Ready(nonce))?;
        let peer_nonce = match self.next("Ready").await? {
            Message::Ready(nonce) => nonce,
            _ => return Err(misplaced("a Ready")),
        };
        self.lifecycle.peer_ready()?;
        self.check(&peer, &peer_nonce).await?;
        Ok(peer)
    }

    /// Connects the queue pair. The kernel may look for the way to the peer meanwhile, for
    /// seconds.
    async fn connect(&mut self, peer: &Hello) -> Result<(), SessionError> {
        let (mut card, address) = (self.card.take().ok_or_else(no_card)?, peer.address);
        let connected = tokio::task::spawn_blocking(move || {
            let connected = card.endpoint.connect(&address);
            (card, connected)
        });
        let (card, connected) = connected
            .await
            .map_err(|error| SessionError::Internal(error.to_string()))?;
        self.card = Some(card);
        Ok(connected?)
    }

    /// Ends it, whatever there is of it.
    pub(crate) async fn end(mut self, error: &SessionError) {
        let limit = self.options.drain_timeout;
        self.lifecycle.drain();
        let closing = async {
            match self.card {
                Some(card) => card.close(&mut self.lifecycle, limit).await,
                None => self.lifecycle.closed().unwrap_or_default(),
            }
        };
        tokio::join!(self.wire.close(error, CLOSE), closing);
    }

    /// Reads the peer's nonce, and waits until it has read this end's.
    async fn check(&mut self, peer: &Hello, nonce: &Nonce) -> Result<(), SessionError> {
        let deadline = Instant::now() + self.options.check_timeout;
        self.post_check(peer)?;
        let (mut mine, mut theirs) = (false, false);
        let mut completions = Vec::new();
        while !(mine && theirs) {
            let Some(card) = &mut self.card else {
                return Err(no_card());
            };
            tokio::select! {
                biased;
                message = self.wire.next() => match message? {
                    Message::Checked(status) if !theirs && status.is_ok() => theirs = true,
                    Message::Checked(status) if !theirs => {
                        return Err(unreachable(format!("the other end says: {status}")));
                    }
                    _ => return Err(misplaced("a Checked")),
                },
                polled = card.completed(&mut completions), if !mine => {
                    polled?;
                    let read = self.checked(&mut completions, nonce);
                    let status = read.as_ref().map_or_else(SessionError::status, |()| Status::ok(0));
                    self.wire.send(Message::Checked(status))?;
                    read?;
                    mine = true;
                }
                () = sleep_until(deadline) => {
                    let waited = self.options.check_timeout;
                    let late = unreachable(format!("nothing came of it within {waited:?}"));
                    if !mine {
                        self.wire.send(Message::Checked(late.status()))?;
                    }
                    return Err(late);
                }
            }
        }
        Ok(())
    }

    fn post_check(&mut self, peer: &Hello) -> Result<(), SessionError> {
        let card = self.card.as_mut().ok_or_else(no_card)?;
        let address = peer.memory.part(0, NONCE_BYTES as u64);
        let (Some(into), Some(address)) = (card.local.take(), address) else {
            return Err(SessionError::Internal("a check can't be posted".to_owned()));
        };
        let work = Work::Read {
            into,
            length: NONCE_BYTES as u32,
            address,
            key: peer.memory.key,
        };
        self.post(0, work)
    }

    /// Posts work and counts it.
    pub(crate) fn post(&mut self, id: u64, work: Work) -> Result<(), SessionError> {
        let card = self.card.as_mut().ok_or_else(no_card)?;
        self.lifecycle.posted()?;
        if let Err((error, _slot)) = card.endpoint.post(id, work) {
            self.lifecycle.refused()?;
            return Err(self.lifecycle.failed(error).into());
        }
        Ok(())
    }

    fn checked(
        &mut self,
        completions: &mut Vec<crate::fabric::Completion>,
        nonce: &Nonce,
    ) -> Result<(), SessionError> {
        let mut right = false;
        for completion in completions.drain(..) {
            match self.lifecycle.completed(completion.outcome)? {
                Verdict::Good(length) => {
                    right = length as usize == NONCE_BYTES
                        && completion.slot[..NONCE_BYTES] == nonce[..];
                }
                Verdict::Failed(error) => return Err(unreachable(error.to_string())),
                Verdict::Ignored => {}
            }
        }
        match right {
            true => Ok(()),
            false => Err(unreachable("what was read is not its nonce".to_owned())),
        }
    }

    async fn hello(&mut self) -> Result<Hello, SessionError> {
        match self.next("word").await? {
            Message::Hello(hello) => Ok(hello),
            _ => Err(misplaced("an offer or answer")),
        }
    }

    async fn next(&mut self, what: &str) -> Result<Message, SessionError> {
        let limit = self.options.handshake_timeout;
        timeout(limit, self.wire.next()).await.unwrap_or_else(|_| {
            Err(SessionError::Timeout(format!(
                "the peer's {what} did not come within {limit:?}"
            )))
        })
    }

    pub(crate) fn card(&mut self) -> Result<&mut Card, SessionError> {
        self.card.as_mut().ok_or_else(no_card)
    }
}

fn no_card() -> SessionError {
    SessionError::Internal("a session without a card".to_owned())
}

fn misplaced(expected: &str) -> SessionError {
    SessionError::OutOfOrder(format!("{expected} was to come"))
}

fn unreachable(why: String) -> SessionError {
    SessionError::Unreachable(why)
}
