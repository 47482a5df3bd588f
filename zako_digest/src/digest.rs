//! `Hash` and `Digest`, and their text forms.

use std::fmt;
use std::str::FromStr;

/// A BLAKE3 hash: 32 bytes, written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

/// The name of a blob: its BLAKE3 hash and its size in bytes.
///
/// Written as `<64 hex digits>/<size>`, or `<64 hex digits>-<size>` where a
/// slash can't stand ([`Digest::file_name`]). Both forms parse, upper-case hex too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    hash: Hash,
    size: u64,
}

/// A text that is not a digest; the message says what is wrong and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} in {text:?}\n{pointer}")]
pub struct ParseDigestError {
    kind: ParseDigestErrorKind,
    position: usize,
    text: String,
    pointer: String,
}

/// What is wrong with the text of a digest.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseDigestErrorKind {
    /// A character that is no hex digit stands in the hash.
    #[error("a digest's hash has a character that is not a hex digit")]
    NotHex,
    /// The hash ends before its 64th digit.
    #[error("a digest's hash is shorter than 64 hex digits")]
    HashTooShort,
    /// More hex digits follow the 64th.
    #[error("a digest's hash is longer than 64 hex digits")]
    HashTooLong,
    /// Neither `/` nor `-` follows the hash.
    #[error("a digest's hash is not followed by /<size>")]
    NoSize,
    /// The size is not a decimal number (no sign, no leading zero).
    #[error("a digest's size is not a decimal number")]
    SizeNotDecimal,
    /// The size is 2^64 or more.
    #[error("a digest's size is too large")]
    SizeTooLarge,
}

impl Hash {
    /// The length of a hash in bytes.
    pub const LEN: usize = 32;

    /// The hash of these 32 bytes, as they are.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 lower-case hex digits, without an allocation.
    pub fn hex(&self) -> HexHash {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = [0; 64];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        HexHash(hex)
    }
}

impl Digest {
    /// The digest of the empty blob.
    pub const EMPTY: Self = Self {
        hash: Hash([
            0xaf, 0x13, 0x49, 0xb9, 0xf5, 0xf9, 0xa1, 0xa6, 0xa0, 0x40, 0x4d, 0xea, 0x36, 0xdc,
            0xc9, 0x49, 0x9b, 0xcb, 0x25, 0xc9, 0xad, 0xc1, 0x12, 0xb7, 0xcc, 0x9a, 0x93, 0xca,
            0xe4, 0x1f, 0x32, 0x62,
        ]),
        size: 0,
    };

    /// The digest of `size` bytes whose hash is `hash`.
    pub const fn new(hash: Hash, size: u64) -> Self {
        Self { hash, size }
    }

    /// The BLAKE3 hash of the blob.
    pub const fn hash(&self) -> &Hash {
        &self.hash
    }

    /// The size of the blob in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The text form for places where a slash can't stand: `<64 hex digits>-<size>`.
    pub fn file_name(&self) -> String {
        format!("{}-{}", self.hash, self.size)
    }
}

impl ParseDigestError {
    /// What is wrong.
    pub fn kind(&self) -> ParseDigestErrorKind {
        self.kind
    }

    /// The byte offset in the text at which it is wrong.
    pub fn position(&self) -> usize {
        self.position
    }

    fn new(kind: ParseDigestErrorKind, position: usize, text: &str) -> Self {
        // A hostile text is not echoed at length, nor with its control characters.
        const SHOWN: usize = 160;
        let shown: String = text
            .chars()
            .take(SHOWN)
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect();
        let column = text
            .char_indices()
            .take_while(|(offset, _)| *offset < position)
            .count()
            .min(SHOWN);
        Self {
            kind,
            position,
            pointer: format!("  {shown}\n  {:>width$}", "^", width = column + 1),
            text: shown,
        }
    }
}

/// The 64 hex digits of a [`struct@Hash`]; derefs to `str`.
#[derive(Clone, Copy)]
pub struct HexHash([u8; 64]);

impl std::ops::Deref for HexHash {
    type Target = str;

    fn deref(&self) -> &str {
        // Only ASCII digits are ever written, so the fallback is not reached.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.hex())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.hash, self.size)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        use ParseDigestErrorKind::{HashTooLong, NoSize, SizeNotDecimal, SizeTooLarge};
        let error = |kind, position| ParseDigestError::new(kind, position, text);

        let hash = parse_hash_prefix(text)?;
        let rest = &text.as_bytes()[64..];
        let size = match rest.split_first() {
            Some((b'/' | b'-', size)) => size,
            Some((c, _)) if c.is_ascii_hexdigit() => return Err(error(HashTooLong, 64)),
            Some(_) | None => return Err(error(NoSize, 64)),
        };
        if size.is_empty() {
            return Err(error(SizeNotDecimal, 65));
        }
        if let Some(at) = size.iter().position(|c| !c.is_ascii_digit()) {
            return Err(error(SizeNotDecimal, 65 + at));
        }
        // One number, one text: a digest's text may serve as a key.
        if size.len() > 1 && size[0] == b'0' {
            return Err(error(SizeNotDecimal, 65));
        }
        let size = size
            .iter()
            .try_fold(0u64, |size, c| {
                size.checked_mul(10)?.checked_add(u64::from(c - b'0'))
            })
            .ok_or_else(|| error(SizeTooLarge, 65))?;
        Ok(Self { hash, size })
    }
}

impl FromStr for Hash {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        let hash = parse_hash_prefix(text)?;
        if text.len() > 64 {
            return Err(ParseDigestError::new(
                ParseDigestErrorKind::HashTooLong,
                64,
                text,
            ));
        }
        Ok(hash)
    }
}

fn parse_hash_prefix(text: &str) -> Result<Hash, ParseDigestError> {
    let error = |kind, position| Err(ParseDigestError::new(kind, position, text));
    let bytes = text.as_bytes();
    let mut hash = [0; 32];
    for at in 0..64 {
        let Some(&c) = bytes.get(at) else {
            return error(ParseDigestErrorKind::HashTooShort, at);
        };
        let nibble = match c {
            b'0'..=b'9' => c - b'0',
            b'a'..=b'f' => c - b'a' + 10,
            b'A'..=b'F' => c - b'A' + 10,
            b'/' | b'-' => return error(ParseDigestErrorKind::HashTooShort, at),
            _ => return error(ParseDigestErrorKind::NotHex, at),
        };
        hash[at / 2] = hash[at / 2] << 4 | nibble;
    }
    Ok(Hash(hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ParseDigestErrorKind as Kind;
    use proptest::prelude::*;

    fn failure(text: &str) -> (Kind, usize) {
        let error = text.parse::<Digest>().unwrap_err();
        (error.kind(), error.position())
    }

    #[test]
    fn errors_point_at_the_mistake() {
        let hex = "a".repeat(64);
        assert_eq!(failure(""), (Kind::HashTooShort, 0));
        assert_eq!(failure("abc"), (Kind::HashTooShort, 3));
        assert_eq!(failure("abc/4"), (Kind::HashTooShort, 3));
        assert_eq!(failure(&format!("abx{hex}/4")), (Kind::NotHex, 2));
        assert_eq!(failure(&hex), (Kind::NoSize, 64));
        assert_eq!(failure(&format!("{hex}a/4")), (Kind::HashTooLong, 64));
        assert_eq!(failure(&format!("{hex}:4")), (Kind::NoSize, 64));
        assert_eq!(failure(&format!("{hex}/")), (Kind::SizeNotDecimal, 65));
        assert_eq!(failure(&format!("{hex}/+4")), (Kind::SizeNotDecimal, 65));
        assert_eq!(failure(&format!("{hex}/4x")), (Kind::SizeNotDecimal, 66));
        assert_eq!(failure(&format!("{hex}/04")), (Kind::SizeNotDecimal, 65));
        assert_eq!(
            failure(&format!("{hex}/18446744073709551616")),
            (Kind::SizeTooLarge, 65)
        );
        let text = format!("{hex}/4x")
            .parse::<Digest>()
            .unwrap_err()
            .to_string();
        let caret = text.lines().last().unwrap();
        assert_eq!(caret.find('^'), Some(2 + 66), "{text}");
    }

    #[test]
    fn a_hostile_text_is_not_echoed_whole() {
        let text = "\u{1b}[31m".repeat(10_000);
        let message = text.parse::<Digest>().unwrap_err().to_string();
        assert!(message.len() < 2_000, "{}", message.len());
        assert!(!message.contains('\u{1b}'));
    }

    #[test]
    fn both_forms_and_both_cases_parse() {
        let digest = crate::hash::bytes(b"some bytes");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert_eq!(digest.file_name().parse::<Digest>().unwrap(), digest);
        let upper = digest.to_string().to_uppercase();
        assert_eq!(upper.parse::<Digest>().unwrap(), digest);
        assert_eq!(&*digest.hash().hex(), digest.hash().to_string());
    }

    proptest! {
        #[test]
        fn text_round_trips(hash: [u8; 32], size: u64) {
            let digest = Digest::new(Hash::from_bytes(hash), size);
            prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
            prop_assert_eq!(digest.file_name().parse::<Digest>().unwrap(), digest);
        }

        #[test]
        fn parsing_never_panics_and_accepts_only_canonical_text(text in "\\PC{0,90}") {
            if let Ok(digest) = text.parse::<Digest>() {
                let lower = text.to_lowercase().replace('-', "/");
                prop_assert_eq!(digest.to_string(), lower);
            }
        }

        #[test]
        fn one_changed_character_is_refused_or_another_digest(
            hash: [u8; 32], size: u64, at in 0usize..66, c in any::<char>(),
        ) {
            let digest = Digest::new(Hash::from_bytes(hash), size);
            let mut text: Vec<char> = digest.to_string().chars().collect();
            let old = text[at];
            text[at] = c;
            let text: String = text.into_iter().collect();
            if let Ok(parsed) = text.parse::<Digest>() {
                let same = c.eq_ignore_ascii_case(&old) || (at == 64 && c == '-');
                prop_assert_eq!(parsed == digest, same);
            }
        }
    }
}
