//! The keys of aliases.

use std::fmt;

use blake3::Hasher;
use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};

/// What an alias is found by: 32 bytes that are derived by BLAKE3 from what the name is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AliasKey(pub [u8; 32]);

/// A kind of aliases, whose keys are no other kind's. To make one costs as much as a
/// key; keep it where many keys are derived.
#[derive(Clone, Copy)]
pub struct AliasKind(ContextKey);

impl AliasKey {
    /// The key of what these parts name. The context says what kind of name it is, as
    /// in [`blake3::derive_key`]: a constant, such as `"zako 2026-11 sha256 of a blob"`.
    ///
    /// Each part is preceded by its length, so no two lists of parts are the same bytes.
    pub fn derive(context: &'static str, parts: &[&[u8]]) -> Self {
        AliasKind::new(context).key(parts)
    }
}

impl AliasKind {
    /// The kind of this context, which is a constant.
    pub fn new(context: &'static str) -> Self {
        Self(hash_derive_key_context(context))
    }

    /// As [`AliasKey::derive`].
    pub fn key(&self, parts: &[&[u8]]) -> AliasKey {
        let mut hasher = Hasher::new_from_context_key(&self.0);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        AliasKey(hasher.finalize().into())
    }
}

impl fmt::Debug for AliasKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AliasKey({})", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for AliasKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AliasKind")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_names_have_one_key() {
        let keys = [
            AliasKey::derive("one", &[]),
            AliasKey::derive("one", &[b""]),
            AliasKey::derive("one", &[b"", b""]),
            AliasKey::derive("one", &[b"ab", b"c"]),
            AliasKey::derive("one", &[b"a", b"bc"]),
            AliasKey::derive("one", &[b"abc"]),
            AliasKey::derive("two", &[b"abc"]),
        ];
        for (at, key) in keys.iter().enumerate() {
            assert!(!keys[at + 1..].contains(key), "{at}");
        }
    }

    #[test]
    fn a_key_is_blake3s() {
        let key = blake3::derive_key("one", b"\x03\0\0\0\0\0\0\0abc");
        assert_eq!(AliasKey::derive("one", &[b"abc"]), AliasKey(key));
    }
}
