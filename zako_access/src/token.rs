//! Tokens that are made once and shown with each call, and the hashes that are kept of
//! them.
//!
//! A token is 256 random bits: there is nothing to guess, so that a plain SHA-256 of it
//! can lie where anyone may read it, as no hash of a password could.

use std::fmt;
use std::str::FromStr;

use rand::TryRngCore;
use rand::rngs::OsRng;
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zako_core::Hash;
use zako_core::access::Secret;

use crate::pattern::from_text;

/// What the tokens that this makes begin with, so that scanners for secrets find them.
pub const TOKEN_PREFIX: &str = "zako_";

/// The SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

/// A new token.
///
/// # Errors
/// The system gives no random numbers.
pub fn new_token() -> Result<Secret, rand::rand_core::OsError> {
    let mut secret = [0; 32];
    OsRng.try_fill_bytes(&mut secret)?;
    Ok(Secret::new(format!(
        "{TOKEN_PREFIX}{}",
        Hash::from_bytes(secret)
    )))
}

impl TokenHash {
    /// That of this token.
    pub fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Compares in a time that doesn't depend on the hashes.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// Its first bytes, which say nothing of the token.
    pub(crate) fn slot(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

impl FromStr for TokenHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Not shown: it may be the token itself, by mistake.
        let hash: Hash = text.parse().map_err(|_| {
            "this is no SHA-256 of a token, which has 64 hex digits; `zako access token --hash` \
             makes it"
                .to_owned()
        })?;
        Ok(Self(*hash.as_bytes()))
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hash::from_bytes(self.0).fmt(f)
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({self})")
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_sha256sum() {
        let hash = TokenHash::of(b"hello");
        let text = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert_eq!(hash.to_string(), text);
        let read: TokenHash = text.parse().unwrap();
        assert!(read.is(&hash) && !read.is(&TokenHash::of(b"hellp")));
    }

    #[test]
    fn a_token_in_the_place_of_its_hash_is_refused_and_not_shown() {
        let token = new_token().unwrap();
        let error = token.expose().parse::<TokenHash>().unwrap_err();
        assert!(!error.contains(token.expose()), "{error}");
        assert!(token.expose().len() == 69 && token != new_token().unwrap());
    }
}
