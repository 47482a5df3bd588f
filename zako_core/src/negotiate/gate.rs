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
mod tests {
    use super::*;
    use crate::negotiate::{ManualClock, PeerAddr};

    const LIMITS: GateLimits = GateLimits {
        require_token: true,
        token_ttl: Duration::from_secs(30),
        session_idle: Duration::from_secs(300),
        max_tokens: 3,
        max_sessions: 2,
        max_streams: 256,
    };

    impl Gate {
        fn open<'a>(
            &self,
            peer: &'a Peer,
            hash: TokenHash,
            counted: Counted,
            now: Instant,
        ) -> Result<MutexGuard<'a, Option<Session>>> {
            self.open_for(peer, peer.identity(), hash, counted, now)
        }
    }

    fn gate() -> (Gate, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        (Gate::new(LIMITS, clock.clone()), clock)
    }

    fn peer() -> Arc<Peer> {
        Peer::new(PeerAddr::Unix { user: None })
    }

    async fn admit(gate: &Gate, peer: &Arc<Peer>, token: Option<&str>) -> Result<StreamPermit> {
        gate.admit(peer, token.map(str::as_bytes), Access::Read)
            .await
    }

    #[tokio::test]
    async fn a_token_opens_one_session_on_one_connection() {
        let (gate, _) = gate();
        let (here, there) = (peer(), peer());
        let offer = gate.offer(&there, Scope::ReadWrite).unwrap();
        let none = admit(&gate, &here, None).await.unwrap_err();
        assert_eq!(none.kind(), ErrorKind::Unauthenticated);
        let _first = admit(&gate, &here, Some(&offer.token)).await.unwrap();
        let _again = admit(&gate, &here, Some(&offer.token)).await.unwrap();
        let _bare = admit(&gate, &here, None).await.unwrap();
        let replay = admit(&gate, &there, Some(&offer.token)).await.unwrap_err();
        assert_eq!(replay.kind(), ErrorKind::Unauthenticated);
        assert_eq!(gate.sessions(), 1);
    }

    #[test]
    fn two_calls_that_open_a_session_at_once_share_it() {
        let (gate, clock) = gate();
        let here = peer();
        let offer = gate.offer(&here, Scope::ReadWrite).unwrap();
        let hash = TokenHash::of(offer.token.as_bytes());
        // Both found no session and have room for one.
        let rooms = [(); 2].map(|()| gate.room(clock.now()).unwrap());
        for room in rooms {
            drop(gate.open(&here, hash, room, clock.now()).unwrap());
        }
        assert_eq!(gate.live.load(Ordering::Acquire), 1);
    }

    #[tokio::test]
    async fn clients_that_share_a_connection_keep_their_tokens_and_its_streams() {
        let (gate, _) = gate();
        let here = peer();
        let [first, second] = [Scope::Write, Scope::Read].map(|scope| {
            let offer = gate.offer(&here, scope).unwrap();
            (offer.token, offer.streams)
        });
        let write = |token: &str| {
            let token = token.to_owned().into_bytes();
            let (gate, here) = (&gate, &here);
            async move { gate.admit(here, Some(&token), Access::Write).await }
        };
        let mut held = Vec::new();
        for _ in 0..first.1 {
            held.push(write(&first.0).await.unwrap());
        }
        // A fresh token brings no streams on top of those that run.
        let fresh = admit(&gate, &here, Some(&second.0));
        futures::pin_mut!(fresh);
        assert!(futures::poll!(&mut fresh).is_pending());
        held.pop();
        held.push(fresh.await.unwrap());
        held.clear();
        // Each token keeps its own scope.
        drop(write(&first.0).await.unwrap());
        let error = write(&second.0).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let error = admit(&gate, &here, Some(&first.0)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    }

    #[tokio::test]
    async fn a_peer_that_hoards_tokens_takes_none_from_others() {
        let limits = GateLimits {
            max_tokens: MOST_TOKENS_A_PEER + 1,
            ..LIMITS
        };
        let gate = Gate::new(limits, Arc::new(ManualClock::default()));
        let (greedy, other) = (peer(), peer());
        let mut tokens = Vec::new();
        for _ in 0..MOST_TOKENS_A_PEER * 3 {
            tokens.push(gate.offer(&greedy, Scope::Read).unwrap().token);
        }
        let token = gate.offer(&other, Scope::Read).unwrap().token;
        drop(admit(&gate, &other, Some(&token)).await.unwrap());
        let kept = tokens.split_off(tokens.len() - MOST_TOKENS_A_PEER);
        for old in &tokens {
            let error = admit(&gate, &greedy, Some(old)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        }
        for token in &kept {
            drop(admit(&gate, &greedy, Some(token)).await.unwrap());
        }
    }

    #[tokio::test]
    async fn a_session_knows_its_latest_tokens_only() {
        let (gate, _) = gate();
        let here = peer();
        let mut tokens = Vec::new();
        for _ in 0..=Session::MOST_TOKENS {
            let token = gate.offer(&here, Scope::Read).unwrap().token;
            drop(admit(&gate, &here, Some(&token)).await.unwrap());
            tokens.push(token);
        }
        let error = admit(&gate, &here, Some(&tokens[0])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        drop(admit(&gate, &here, Some(&tokens[1])).await.unwrap());
    }

    #[tokio::test]
    async fn a_bad_token_is_refused_even_within_a_session() {
        let (gate, _) = gate();
        let here = peer();
        let offer = gate.offer(&here, Scope::ReadWrite).unwrap();
        admit(&gate, &here, Some(&offer.token)).await.unwrap();
        let guess = "0".repeat(64);
        let error = admit(&gate, &here, Some(&guess)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        admit(&gate, &here, None).await.unwrap();
    }

    #[tokio::test]
    async fn a_session_ends_when_it_idles_and_not_while_a_call_runs() {
        let (gate, clock) = gate();
        let here = peer();
        let offer = gate.offer(&here, Scope::ReadWrite).unwrap();
        let call = admit(&gate, &here, Some(&offer.token)).await.unwrap();
        clock.advance(LIMITS.session_idle * 2);
        assert_eq!(gate.sessions(), 1);
        drop(call);
        clock.advance(LIMITS.session_idle - Duration::from_nanos(1));
        drop(admit(&gate, &here, None).await.unwrap());
        clock.advance(LIMITS.session_idle);
        let error = admit(&gate, &here, Some(&offer.token)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        assert_eq!(gate.sessions(), 0);
    }

    #[tokio::test]
    async fn a_session_ends_with_its_connection() {
        let (gate, _) = gate();
        let here = peer();
        let offer = gate.offer(&here, Scope::ReadWrite).unwrap();
        let call = admit(&gate, &here, Some(&offer.token)).await.unwrap();
        drop(here);
        assert_eq!(gate.sessions(), 1);
        drop(call);
        assert_eq!(gate.sessions(), 0);
    }

    #[tokio::test]
    async fn the_scope_holds_and_a_fresh_token_changes_it() {
        let (gate, _) = gate();
        let here = peer();
        let read = gate.offer(&here, Scope::Read).unwrap().token;
        let write = |token: Option<Vec<u8>>| {
            let (gate, here) = (&gate, &here);
            async move { gate.admit(here, token.as_deref(), Access::Write).await }
        };
        let error = write(Some(read.into_bytes())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        drop(admit(&gate, &here, None).await.unwrap());
        let fresh = gate.offer(&here, Scope::Write).unwrap().token;
        drop(write(Some(fresh.into_bytes())).await.unwrap());
        let error = admit(&gate, &here, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert_eq!(gate.sessions(), 1);
    }

    #[tokio::test]
    async fn tokens_and_sessions_are_capped_and_idle_sessions_make_room() {
        let (gate, clock) = gate();
        let peers = [peer(), peer(), peer()];
        let tokens: Vec<String> = peers
            .iter()
            .map(|peer| gate.offer(peer, Scope::Read).unwrap().token)
            .collect();
        let error = gate.offer(&peers[0], Scope::Read).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert_eq!(error.retry_after(), Some(LIMITS.token_ttl));
        drop(admit(&gate, &peers[0], Some(&tokens[0])).await.unwrap());
        drop(admit(&gate, &peers[1], Some(&tokens[1])).await.unwrap());
        let error = admit(&gate, &peers[2], Some(&tokens[2])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(error.retry_after().is_some());
        // A fresh token for a live session needs no more room.
        let fresh = gate.offer(&peers[0], Scope::Read).unwrap().token;
        drop(admit(&gate, &peers[0], Some(&fresh)).await.unwrap());
        clock.advance(LIMITS.session_idle);
        let late = gate.offer(&peers[2], Scope::Read).unwrap().token;
        drop(admit(&gate, &peers[2], Some(&late)).await.unwrap());
        assert_eq!(gate.sessions(), 1);
    }

    #[tokio::test]
    async fn calls_beyond_the_streams_wait_their_turn() {
        let limits = GateLimits {
            max_streams: 2,
            ..LIMITS
        };
        let gate = Gate::new(limits, Arc::new(ManualClock::default()));
        let here = peer();
        let offer = gate.offer(&here, Scope::Read).unwrap();
        assert!(offer.streams <= 2);
        let mut permits = Vec::new();
        for _ in 0..offer.streams {
            permits.push(admit(&gate, &here, Some(&offer.token)).await.unwrap());
        }
        let next = admit(&gate, &here, None);
        futures::pin_mut!(next);
        assert!(futures::poll!(&mut next).is_pending());
        permits.pop();
        next.await.unwrap();
    }
}
