//! Tokens: issued once, redeemed once.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use rand::TryRngCore;
use rand::rngs::OsRng;
use subtle::ConstantTimeEq;

use super::PeerIdentity;
use crate::Hash;
use crate::cas::{CasError, ErrorKind, Result};

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It reads blobs.
    Read,
    /// It stores or deletes blobs.
    Write,
}

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Scope {
    /// Everything.
    #[default]
    ReadWrite,
    /// Reading only.
    Read,
    /// Storing and deleting only.
    Write,
}

/// What a token is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) scope: Scope,
    pub(super) streams: u32,
    /// Only this holder may redeem it.
    pub(super) identity: Option<PeerIdentity>,
}

/// The outstanding tokens. Only their hashes are kept, so that a look into this
/// process's memory gives nothing to redeem.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// By the first bytes of the hash, which say nothing about the token.
    issued: HashMap<u64, Issued>,
    /// In the order of expiry, which is that of issue.
    expiries: VecDeque<(Instant, u64)>,
}

#[derive(Debug)]
struct Issued {
    hash: TokenHash,
    expires: Instant,
    grant: Grant,
}

/// The BLAKE3 hash of a token.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenHash(Hash);

impl Scope {
    /// Whether it allows a call that does this.
    pub const fn allows(self, access: Access) -> bool {
        matches!(
            (self, access),
            (Self::ReadWrite, _) | (Self::Read, Access::Read) | (Self::Write, Access::Write)
        )
    }
}

impl Grant {
    /// Whether this holder may use it.
    pub(super) fn is_for(&self, holder: Option<PeerIdentity>) -> bool {
        self.identity.is_none() || self.identity == holder
    }
}

impl TokenHash {
    pub(super) fn of(token: &[u8]) -> Self {
        Self(*zako_digest::hash::bytes(token).hash())
    }

    /// Compares in a time that doesn't depend on the hashes.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }

    fn slot(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = *self.0.as_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

impl Tokens {
    /// A new token: 64 hex digits.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] if `cap` are outstanding.
    pub(super) fn issue(
        &mut self,
        grant: Grant,
        now: Instant,
        ttl: Duration,
        cap: usize,
    ) -> Result<String> {
        self.expire(now);
        if self.issued.len() >= cap {
            let error = CasError::new(ErrorKind::NoSpace, "too many tokens are outstanding");
            let retry = self
                .expiries
                .front()
                .map_or(ttl, |(expires, _)| expires.saturating_duration_since(now));
            return Err(error.with_retry_after(retry));
        }
        let expires = now + ttl;
        loop {
            let mut secret = [0; 32];
            OsRng.try_fill_bytes(&mut secret).map_err(|error| {
                CasError::new(ErrorKind::Io, "the system gives no random numbers")
                    .with_source(error)
            })?;
            let token = Hash::from_bytes(secret).to_string();
            let hash = TokenHash::of(token.as_bytes());
            let slot = hash.slot();
            if self.issued.contains_key(&slot) {
                continue;
            }
            let issued = Issued {
                hash,
                expires,
                grant,
            };
            self.issued.insert(slot, issued);
            self.expiries.push_back((expires, slot));
            return Ok(token);
        }
    }

    /// What the token is worth; it is worth nothing from then on. A token that
    /// another peer presents is not used up.
    pub(super) fn redeem(
        &mut self,
        hash: &TokenHash,
        identity: Option<PeerIdentity>,
        now: Instant,
    ) -> Option<Grant> {
        self.expire(now);
        let issued = self.issued.get(&hash.slot())?;
        if !issued.hash.is(hash) || issued.expires <= now {
            return None;
        }
        let grant = issued.grant;
        if !grant.is_for(identity) {
            return None;
        }
        self.issued.remove(&hash.slot());
        Some(grant)
    }

    /// How many can be redeemed.
    pub(super) fn outstanding(&mut self, now: Instant) -> usize {
        self.expire(now);
        self.issued.len()
    }

    /// Whether the token can still be redeemed, unless it expired.
    pub(super) fn is_outstanding(&self, hash: &TokenHash) -> bool {
        let issued = self.issued.get(&hash.slot());
        issued.is_some_and(|issued| issued.hash.is(hash))
    }

    /// Makes a token worth nothing.
    pub(super) fn revoke(&mut self, hash: &TokenHash) {
        if self.is_outstanding(hash) {
            self.issued.remove(&hash.slot());
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((expires, slot)) = self.expiries.front() {
            let redeemed = !self.issued.contains_key(slot);
            if *expires > now && !redeemed {
                break;
            }
            // A slot that was redeemed and taken again has a later expiry.
            if self
                .issued
                .get(slot)
                .is_some_and(|issued| issued.expires <= now)
            {
                self.issued.remove(slot);
            }
            self.expiries.pop_front();
        }
        // Redeemed ones behind one that is not: keep the queue near the map's size.
        if self.expiries.len() > 2 * self.issued.len() + 64 {
            let issued = &self.issued;
            self.expiries.retain(|(_, slot)| issued.contains_key(slot));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);
    const GRANT: Grant = Grant {
        scope: Scope::ReadWrite,
        streams: 4,
        identity: None,
    };

    fn redeem(tokens: &mut Tokens, token: &str, now: Instant) -> Option<Grant> {
        tokens.redeem(&TokenHash::of(token.as_bytes()), None, now)
    }

    #[test]
    fn a_token_is_worth_its_grant_once() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let token = tokens.issue(GRANT, now, TTL, 10).unwrap();
        assert_eq!(token.len(), 64);
        assert_eq!(redeem(&mut tokens, &token[..63], now), None);
        assert_eq!(redeem(&mut tokens, &token, now), Some(GRANT));
        assert_eq!(redeem(&mut tokens, &token, now), None);
        assert!(tokens.issued.is_empty());
    }

    #[test]
    fn a_token_expires() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let token = tokens.issue(GRANT, now, TTL, 10).unwrap();
        let last = now + TTL - Duration::from_nanos(1);
        let other = tokens.issue(GRANT, now, TTL, 10).unwrap();
        assert_eq!(redeem(&mut tokens, &other, last), Some(GRANT));
        assert_eq!(redeem(&mut tokens, &token, now + TTL), None);
    }

    #[test]
    fn the_cap_counts_what_can_still_be_redeemed() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let first = tokens.issue(GRANT, now, TTL, 2).unwrap();
        tokens.issue(GRANT, now, TTL, 2).unwrap();
        let later = now + Duration::from_secs(10);
        let error = tokens.issue(GRANT, later, TTL, 2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert_eq!(error.retry_after(), Some(Duration::from_secs(20)));
        redeem(&mut tokens, &first, later).unwrap();
        tokens.issue(GRANT, later, TTL, 2).unwrap();
        assert!(tokens.issue(GRANT, later, TTL, 2).is_err());
        tokens.issue(GRANT, now + TTL, TTL, 2).unwrap();
    }

    #[test]
    fn redeemed_tokens_leave_nothing_behind() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let _kept = tokens.issue(GRANT, now, TTL, 10).unwrap();
        for _ in 0..1000 {
            let token = tokens.issue(GRANT, now, TTL, 10).unwrap();
            redeem(&mut tokens, &token, now).unwrap();
        }
        assert!(tokens.expiries.len() < 100, "{}", tokens.expiries.len());
    }

    #[test]
    fn a_bound_token_is_for_its_peer_alone() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let bound = Grant {
            identity: Some(PeerIdentity::User(7)),
            ..GRANT
        };
        let token = tokens.issue(bound, now, TTL, 10).unwrap();
        let hash = TokenHash::of(token.as_bytes());
        assert_eq!(tokens.redeem(&hash, None, now), None);
        let other = Some(PeerIdentity::User(8));
        assert_eq!(tokens.redeem(&hash, other, now), None);
        assert_eq!(tokens.redeem(&hash, bound.identity, now), Some(bound));
    }
}
