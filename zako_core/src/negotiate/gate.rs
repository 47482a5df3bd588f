//! The gate that every call which moves bytes passes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::session::{Counted, Running, Session};
use super::token::{Grant, TokenHash, Tokens};
use super::{Access, Clock, Peer, PeerIdentity, Scope, ServiceTime, StreamPermit};
use crate::access::Identity;
use crate::cas::{CasError, ErrorKind, Result};

/// Tokens that a connection may have outstanding; the next one ends its oldest.
const MOST_TOKENS_A_PEER: usize = 8;

/// Issues tokens, redeems them for sessions, and admits calls.
#[derive(Debug)]
pub struct Gate {
    limits: GateLimits,
    clock: Arc<dyn Clock>,
    tokens: Mutex<Tokens>,
    live: Arc<AtomicUsize>,
    /// The connections that had a session, to find idle ones.
    peers: Mutex<HashMap<u64, Weak<Peer>>>,
    service_time: ServiceTime,
    cores: usize,
}

/// The bounds of a [`Gate`].
#[derive(Clone, Copy, Debug)]
pub struct GateLimits {
    /// Whether a call needs a session.
    pub require_token: bool,
    /// How long a token can be redeemed.
    pub token_ttl: Duration,
    /// How long a session without a call lives.
    pub session_idle: Duration,
    /// Tokens outstanding at once.
    pub max_tokens: usize,
    /// Sessions alive at once.
    pub max_sessions: usize,
    /// The most streams that a session gets.
    pub max_streams: u32,
}

/// What a peer that asks for a session gets.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Opens one session, once.
    pub token: String,
    /// How long the token can be redeemed.
    pub ttl: Duration,
    /// The streams that the session may run at once.
    pub streams: u32,
}

impl Gate {
    /// A gate that has issued nothing.
    pub fn new(limits: GateLimits, clock: Arc<dyn Clock>) -> Self {
        Self {
            limits,
            clock,
            tokens: Mutex::default(),
            live: Arc::default(),
            peers: Mutex::default(),
            service_time: ServiceTime::default(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    /// Issues a token.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] if too many are outstanding; it tells when to try again.
    pub fn offer(&self, peer: &Peer, scope: Scope) -> Result<Offer> {
        self.offer_to(peer, None, scope)
    }

    /// Issues a token that only this caller can redeem.
    ///
    /// # Errors
    /// As for [`offer`](Self::offer).
    pub fn offer_to(&self, peer: &Peer, caller: Option<&Identity>, scope: Scope) -> Result<Offer> {
        let sessions = self.sessions() + 1;
        let streams = self
            .service_time
            .recommend(self.cores, sessions, self.limits.max_streams);
        let grant = Grant {
            scope,
            streams,
            identity: peer.holder(caller),
        };
        let mut given = peer.tokens.lock();
        let mut tokens = self.tokens.lock();
        given.retain(|token| tokens.is_outstanding(token));
        while given.len() >= MOST_TOKENS_A_PEER {
            if let Some(oldest) = given.pop_front() {
                tokens.revoke(&oldest);
            }
        }
        let (ttl, cap) = (self.limits.token_ttl, self.limits.max_tokens);
        let token = tokens.issue(grant, self.clock.now(), ttl, cap)?;
        given.push_back(TokenHash::of(token.as_bytes()));
        Ok(Offer {
            token,
            ttl: self.limits.token_ttl,
            streams,
        })
    }

    /// Admits a call on the connection `peer`: redeems `token` if it is a new one,
    /// checks the session's scope, and waits for a free stream.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`] if there is no live session and no good token;
    /// [`ErrorKind::PermissionDenied`] if the session doesn't allow `access`;
    /// [`ErrorKind::NoSpace`] if too many sessions are alive.
    pub async fn admit(
        &self,
        peer: &Arc<Peer>,
        token: Option<&[u8]>,
        access: Access,
    ) -> Result<StreamPermit> {
        self.admit_caller(peer, None, token, access).await
    }

    /// As [`admit`](Self::admit), by tokens that this caller was given.
    ///
    /// # Errors
    /// As for [`admit`](Self::admit); [`ErrorKind::Unauthenticated`] too if the token or
    /// the session is somebody else's.
    pub async fn admit_caller(
        &self,
        peer: &Arc<Peer>,
        caller: Option<&Identity>,
        token: Option<&[u8]>,
        access: Access,
    ) -> Result<StreamPermit> {
        if !self.limits.require_token {
            return Ok(StreamPermit::unbounded());
        }
        let (running, streams) = self.enter(peer, caller, token, access)?;
        Ok(running.permit(streams).await)
    }

    /// Admits a call that only steers what moves elsewhere: as
    /// [`admit_caller`](Self::admit_caller), but it takes no stream.
    ///
    /// # Errors
    /// As of [`admit_caller`](Self::admit_caller).
    pub fn admit_control(
        &self,
        peer: &Arc<Peer>,
        caller: Option<&Identity>,
        token: Option<&[u8]>,
        access: Access,
    ) -> Result<StreamPermit> {
        if !self.limits.require_token {
            return Ok(StreamPermit::unbounded());
        }
        let (running, _) = self.enter(peer, caller, token, access)?;
        Ok(StreamPermit::without_stream(running))
    }

    /// Sessions that are alive.
    pub fn sessions(&self) -> usize {
        self.sweep(self.clock.now());
        self.live.load(Ordering::Acquire)
    }

    /// Tokens that can be redeemed.
    pub fn tokens(&self) -> usize {
        self.tokens.lock().outstanding(self.clock.now())
    }

    /// What the store's steps are measured with.
    pub fn service_time(&self) -> &ServiceTime {
        &self.service_time
    }

    fn enter(
        &self,
        peer: &Arc<Peer>,
        caller: Option<&Identity>,
        token: Option<&[u8]>,
        access: Access,
    ) -> Result<(Running, Arc<tokio::sync::Semaphore>)> {
        let now = self.clock.now();
        let holder = peer.holder(caller);
        let hash = token.map(TokenHash::of);
        let mut place = peer.session.lock();
        if place
            .as_ref()
            .is_some_and(|session| session.is_idle(now, self.limits.session_idle))
        {
            *place = None;
        }
        let mut opened = false;
        match (place.as_mut(), hash) {
            (None, None) => return Err(unauthenticated("a token is needed and none was sent")),
            (Some(_), None) => {}
            (Some(session), Some(hash)) if session.knows(&hash) => {}
            (Some(session), Some(hash)) => session.renew(hash, self.redeem(&hash, holder, now)?),
            (None, Some(hash)) => {
                // Finding room looks at all connections, this one too.
                drop(place);
                let counted = self.room(now)?;
                place = self.open_for(peer, holder, hash, counted, now)?;
                opened = true;
            }
        }
        let Some(session) = place.as_mut() else {
            return Err(unauthenticated("the session has ended"));
        };
        let Some(scope) = session.scope(hash.as_ref(), holder) else {
            return Err(unauthenticated("the session is another identity's"));
        };
        let allowed = scope.allows(access);
        session.last_used = now;
        let streams = Arc::clone(&session.streams);
        if allowed {
            session.calls += 1;
        }
        drop(place);
        if opened {
            self.peers.lock().insert(peer.id, Arc::downgrade(peer));
        }
        if !allowed {
            return Err(CasError::new(
                ErrorKind::PermissionDenied,
                match access {
                    Access::Read => "the token doesn't allow reading",
                    Access::Write => "the token doesn't allow writing",
                },
            ));
        }
        let running = Running {
            peer: Arc::clone(peer),
            clock: Arc::clone(&self.clock),
        };
        Ok((running, streams))
    }

    /// Opens the session, unless another call of the connection was faster.
    fn open_for<'a>(
        &self,
        peer: &'a Peer,
        holder: Option<PeerIdentity>,
        hash: TokenHash,
        counted: Counted,
        now: Instant,
    ) -> Result<MutexGuard<'a, Option<Session>>> {
        let mut place = peer.session.lock();
        match place.as_mut() {
            Some(session) if session.knows(&hash) => {}
            Some(session) => session.renew(hash, self.redeem(&hash, holder, now)?),
            None => {
                let grant = self.redeem(&hash, holder, now)?;
                *place = Some(Session::new(hash, grant, now, counted));
            }
        }
        Ok(place)
    }

    fn redeem(
        &self,
        token: &TokenHash,
        holder: Option<PeerIdentity>,
        now: Instant,
    ) -> Result<Grant> {
        self.tokens
            .lock()
            .redeem(token, holder, now)
            .ok_or_else(|| unauthenticated("the token is unknown, expired or used up"))
    }

    fn room(&self, now: Instant) -> Result<Counted> {
        Counted::take(&self.live, self.limits.max_sessions)
            .or_else(|| {
                self.sweep(now);
                Counted::take(&self.live, self.limits.max_sessions)
            })
            .ok_or_else(|| {
                CasError::new(ErrorKind::NoSpace, "too many sessions are open")
                    .with_retry_after(Duration::from_secs(1))
            })
    }

    /// Ends the sessions that have been idle for too long.
    fn sweep(&self, now: Instant) {
        self.peers.lock().retain(|_, peer| {
            let Some(peer) = peer.upgrade() else {
                return false;
            };
            let mut session = peer.session.lock();
            session.take_if(|session| session.is_idle(now, self.limits.session_idle));
            session.is_some()
        });
    }
}

fn unauthenticated(message: &str) -> CasError {
    CasError::new(ErrorKind::Unauthenticated, message)
}

#[cfg(test)]
mod tests;
