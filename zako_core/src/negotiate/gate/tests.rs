//! What a gate lets through.

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
    let mut gate = Gate::new(LIMITS, clock.clone());
    // Streams follow from them; tests run on machines with one, too.
    gate.cores = 2;
    (gate, clock)
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
