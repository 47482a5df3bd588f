//! Sessions: what a redeemed token opened on its connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Peer;
use super::PeerIdentity;
use super::clock::Clock;
use super::token::{Grant, Scope, TokenHash};

/// A session on a connection.
#[derive(Debug)]
pub(super) struct Session {
    /// The tokens it was opened and renewed with, the latest last: clients may share
    /// a connection.
    tokens: VecDeque<(TokenHash, Grant)>,
    pub(super) streams: Arc<Semaphore>,
    /// The permits of `streams`, those in use included.
    most: usize,
    /// Calls that run or wait for their turn.
    pub(super) calls: usize,
    pub(super) last_used: Instant,
    _counted: Counted,
}

/// A place among the live sessions.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>);

/// Allows one call to run; the next one waits until it is dropped.
#[derive(Debug)]
pub struct StreamPermit {
    _stream: Option<OwnedSemaphorePermit>,
    _running: Option<Running>,
}

/// A call that runs or waits keeps its session from idling out.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) peer: Arc<Peer>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Session {
    /// The tokens that stay good.
    pub(super) const MOST_TOKENS: usize = 8;

    pub(super) fn new(token: TokenHash, grant: Grant, now: Instant, counted: Counted) -> Self {
        let most = grant.streams.max(1) as usize;
        Self {
            tokens: VecDeque::from([(token, grant)]),
            streams: Arc::new(Semaphore::new(most)),
            most,
            calls: 0,
            last_used: now,
            _counted: counted,
        }
    }

    /// Takes a further token in. Calls that run or wait go on, and count.
    pub(super) fn renew(&mut self, token: TokenHash, grant: Grant) {
        if self.tokens.len() >= Self::MOST_TOKENS {
            self.tokens.pop_front();
        }
        self.tokens.push_back((token, grant));
        let most = grant.streams.max(1) as usize;
        if most >= self.most {
            self.streams.add_permits(most - self.most);
            self.most = most;
        } else {
            self.most -= self.streams.forget_permits(self.most - most);
        }
    }

    /// Whether this token was redeemed here and is still good.
    pub(super) fn knows(&self, token: &TokenHash) -> bool {
        self.tokens.iter().any(|(known, _)| known.is(token))
    }

    /// What a call of this holder with this token is allowed; one without has the latest's
    /// scope. `None` if the token, or the session, is somebody else's.
    pub(super) fn scope(
        &self,
        token: Option<&TokenHash>,
        holder: Option<PeerIdentity>,
    ) -> Option<Scope> {
        let named = token.and_then(|token| self.tokens.iter().find(|(known, _)| known.is(token)));
        let grant = match named {
            Some((_, grant)) => Some(grant).filter(|grant| grant.is_for(holder)),
            None => {
                let mut grants = self.tokens.iter().rev().map(|(_, grant)| grant);
                grants.find(|grant| grant.is_for(holder))
            }
        };
        grant.map(|grant| grant.scope)
    }

    pub(super) fn is_idle(&self, now: Instant, after: Duration) -> bool {
        self.calls == 0 && now.saturating_duration_since(self.last_used) >= after
    }
}

impl Counted {
    /// A place, if there are fewer than `cap`.
    pub(super) fn take(live: &Arc<AtomicUsize>, cap: usize) -> Option<Self> {
        live.fetch_update(Ordering::AcqRel, Ordering::Acquire, |live| {
            (live < cap).then_some(live + 1)
        })
        .is_ok()
        .then(|| Self(Arc::clone(live)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Running {
    /// Ends when the session's streams are all busy and one gets free.
    pub(super) async fn permit(self, streams: Arc<Semaphore>) -> StreamPermit {
        StreamPermit {
            // The semaphore is never closed.
            _stream: streams.acquire_owned().await.ok(),
            _running: Some(self),
        }
    }
}

impl StreamPermit {
    /// For a call that takes no stream.
    pub(super) const fn without_stream(running: Running) -> Self {
        Self {
            _stream: None,
            _running: Some(running),
        }
    }

    /// For a server that asks for no token.
    pub(super) const fn unbounded() -> Self {
        Self {
            _stream: None,
            _running: None,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(session) = self.peer.session.lock().as_mut() {
            session.calls = session.calls.saturating_sub(1);
            session.last_used = self.clock.now();
        }
    }
}
