//! The names that build tools give to blobs, and hashing by their functions.

use std::fmt;
use std::sync::LazyLock;

use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use zako_core::alias::AliasKey;
use zako_core::cas::{CasError, ErrorKind, Result};
use zako_core::{Digest, Hash};

use crate::proto::reapi::{self, digest_function::Value};

/// The longest hash, in bytes.
const LONGEST: usize = 64;

/// A function that names blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DigestFunction {
    /// What nearly all tools use.
    Sha256,
    /// Zako's own.
    Blake3,
    /// What some old caches hold.
    Sha1,
    /// SHA-2 with 384 bits.
    Sha384,
    /// SHA-2 with 512 bits.
    Sha512,
}

/// The name of a blob in a protocol of build tools: a hash by some function, and its
/// size in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RemoteDigest {
    function: DigestFunction,
    /// Zeros behind the hash.
    hash: [u8; LONGEST],
    size: u64,
}

/// A hash under way.
#[derive(Clone)]
pub struct RemoteHasher {
    function: DigestFunction,
    state: State,
    count: u64,
}

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    Blake3(Box<zako_digest::hash::Hasher>),
    Sha1(Sha1),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl DigestFunction {
    /// All of them, the most used first.
    pub const ALL: [Self; 5] = [
        Self::Sha256,
        Self::Blake3,
        Self::Sha1,
        Self::Sha384,
        Self::Sha512,
    ];

    /// The length of its hashes in bytes.
    pub const fn hash_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 | Self::Blake3 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Its name in resource names, lower-case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Blake3 => "blake3",
            Self::Sha1 => "sha1",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// The function of this name, in any case.
    pub fn of_name(name: &str) -> Option<Self> {
        let named = |function: &Self| name.eq_ignore_ascii_case(function.name());
        Self::ALL.into_iter().find(named)
    }

    /// The function that hashes of so many hex digits are taken to be of, where none is
    /// named.
    pub fn of_hex_len(digits: usize) -> Option<Self> {
        let fits = |function: &Self| 2 * function.hash_len() == digits;
        Self::ALL.into_iter().find(fits)
    }

    /// Its number in the Remote Execution API.
    pub const fn wire(self) -> Value {
        match self {
            Self::Sha256 => Value::Sha256,
            Self::Blake3 => Value::Blake3,
            Self::Sha1 => Value::Sha1,
            Self::Sha384 => Value::Sha384,
            Self::Sha512 => Value::Sha512,
        }
    }

    /// The function of a request; `None` where it names none, and hashes tell by their
    /// length.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a function that isn't offered.
    pub fn of_wire(number: i32) -> Result<Option<Self>> {
        if number == Value::Unknown as i32 {
            return Ok(None);
        }
        let numbered = |function: &Self| function.wire() as i32 == number;
        let function = Self::ALL.into_iter().find(numbered);
        function.map(Some).ok_or_else(|| {
            let name =
                Value::try_from(number).map_or("an unknown one", |value| value.as_str_name());
            let text = format!("the digest function {name} ({number}) is not offered here");
            CasError::new(ErrorKind::InvalidArgument, text)
        })
    }

    /// The digest of some bytes.
    pub fn digest(self, data: &[u8]) -> RemoteDigest {
        let mut hasher = RemoteHasher::new(self);
        hasher.update(data);
        hasher.finish()
    }
}

impl RemoteDigest {
    /// The blob of `size` bytes whose hash is written so, in hex digits.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] says what is wrong.
    pub fn parse(function: Option<DigestFunction>, hex: &str, size: u64) -> Result<Self> {
        let wrong = |what: String| Err(CasError::new(ErrorKind::InvalidArgument, what));
        let Some(function) = function.or_else(|| DigestFunction::of_hex_len(hex.len())) else {
            let digits = hex.len();
            return wrong(format!(
                "a hash has 40 (SHA-1), 64 (SHA-256, BLAKE3), 96 (SHA-384) or 128 (SHA-512) \
                 hex digits, not {digits}"
            ));
        };
        if hex.len() != 2 * function.hash_len() {
            return wrong(format!(
                "a hash by {} has {} hex digits, not {}",
                function.name(),
                2 * function.hash_len(),
                hex.len()
            ));
        }
        let mut hash = [0; LONGEST];
        for (byte, pair) in hash.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            match (nibble(pair[0]), nibble(pair[1])) {
                (Some(high), Some(low)) => *byte = high << 4 | low,
                _ => return wrong("a hash has a character that is not a hex digit".to_owned()),
            }
        }
        Ok(Self {
            function,
            hash,
            size,
        })
    }

    /// The digest in a message.
    ///
    /// # Errors
    /// As [`parse`](Self::parse); also if the size is negative.
    pub fn of_wire(function: Option<DigestFunction>, digest: &reapi::Digest) -> Result<Self> {
        let size = u64::try_from(digest.size_bytes).map_err(|_| {
            let text = format!("a digest's size is {}", digest.size_bytes);
            CasError::new(ErrorKind::InvalidArgument, text)
        })?;
        Self::parse(function, &digest.hash, size)
    }

    /// The digest as a message.
    pub fn to_wire(self) -> reapi::Digest {
        reapi::Digest {
            hash: self.hex(),
            // What is stored is far shorter than 2^63 bytes.
            size_bytes: i64::try_from(self.size).unwrap_or(i64::MAX),
        }
    }

    /// A blob by its own name.
    pub fn of_blake3(digest: &Digest) -> Self {
        let mut hash = [0; LONGEST];
        hash[..Hash::LEN].copy_from_slice(digest.hash().as_bytes());
        Self {
            function: DigestFunction::Blake3,
            hash,
            size: digest.size(),
        }
    }

    /// The blob of `size` bytes with this hash; `None` if that is of another length.
    pub(crate) fn of_hash(function: DigestFunction, bytes: &[u8], size: u64) -> Option<Self> {
        let mut hash = [0; LONGEST];
        if bytes.len() != function.hash_len() {
            return None;
        }
        hash[..bytes.len()].copy_from_slice(bytes);
        Some(Self {
            function,
            hash,
            size,
        })
    }

    /// The blob's own name, if that is what this is.
    pub fn blake3(&self) -> Option<Digest> {
        (self.function == DigestFunction::Blake3)
            .then(|| Digest::new(Hash::from_bytes(self.first32()), self.size))
    }

    /// The function.
    pub fn function(&self) -> DigestFunction {
        self.function
    }

    /// The hash.
    pub fn hash(&self) -> &[u8] {
        &self.hash[..self.function.hash_len()]
    }

    /// The hash in lower-case hex digits.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
        let mut hex = String::with_capacity(2 * self.function.hash_len());
        for byte in self.hash() {
            hex.push(digit(byte >> 4));
            hex.push(digit(byte & 15));
        }
        hex
    }

    /// The same hash for a blob of this size.
    #[must_use]
    pub fn with_size(mut self, size: u64) -> Self {
        self.size = size;
        self
    }

    /// The size of the blob in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether this names the empty blob.
    pub fn is_empty_blob(&self) -> bool {
        // Asked for every blob that is looked up, so nothing is hashed for it.
        static EMPTY: LazyLock<[RemoteDigest; DigestFunction::ALL.len()]> =
            LazyLock::new(|| DigestFunction::ALL.map(|function| function.digest(&[])));
        self.size == 0 && EMPTY.contains(self)
    }

    /// Under what the blob's own name is found. The hash is its own key: to have one
    /// taken by other bytes, these would have to hash to it.
    pub(crate) fn key(&self) -> AliasKey {
        let mut key = match self.function.hash_len() {
            0..=32 => self.first32(),
            // All of it counts.
            _ => *zako_digest::hash::bytes(self.hash()).hash().as_bytes(),
        };
        // One hash by two functions has two keys.
        key[0] ^= self.function.wire() as u8;
        AliasKey(key)
    }

    fn first32(&self) -> [u8; 32] {
        let mut first = [0; 32];
        first.copy_from_slice(&self.hash[..32]);
        first
    }
}

impl RemoteHasher {
    /// Nothing hashed yet.
    pub fn new(function: DigestFunction) -> Self {
        let state = match function {
            DigestFunction::Sha256 => State::Sha256(Sha256::new()),
            DigestFunction::Blake3 => State::Blake3(Box::default()),
            DigestFunction::Sha1 => State::Sha1(Sha1::new()),
            DigestFunction::Sha384 => State::Sha384(Sha384::new()),
            DigestFunction::Sha512 => State::Sha512(Sha512::new()),
        };
        Self {
            function,
            state,
            count: 0,
        }
    }

    /// Adds bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.count += data.len() as u64;
        match &mut self.state {
            State::Sha256(state) => state.update(data),
            State::Blake3(state) => {
                state.update(data);
            }
            State::Sha1(state) => state.update(data),
            State::Sha384(state) => state.update(data),
            State::Sha512(state) => state.update(data),
        }
    }

    /// The digest of all bytes that were added.
    pub fn finish(self) -> RemoteDigest {
        let mut hash = [0; LONGEST];
        let mut fill = |bytes: &[u8]| hash[..bytes.len()].copy_from_slice(bytes);
        match self.state {
            State::Sha256(state) => fill(&state.finalize()),
            State::Blake3(state) => fill(state.finish().hash().as_bytes()),
            State::Sha1(state) => fill(&state.finalize()),
            State::Sha384(state) => fill(&state.finalize()),
            State::Sha512(state) => fill(&state.finalize()),
        }
        RemoteDigest {
            function: self.function,
            hash,
            size: self.count,
        }
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

impl fmt::Display for RemoteDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.function.name(), self.hex(), self.size)
    }
}

impl fmt::Debug for RemoteDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for RemoteHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteHasher")
            .field("function", &self.function)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_standards() {
        // FIPS 180-4 and BLAKE3 test vectors of the empty input.
        for (function, hex) in [
            (
                DigestFunction::Sha256,
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            (
                DigestFunction::Blake3,
                "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
            ),
            (
                DigestFunction::Sha1,
                "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            ),
            (
                DigestFunction::Sha384,
                "38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da\
                 274edebfe76f65fbd51ad2f14898b95b",
            ),
            (
                DigestFunction::Sha512,
                "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce\
                 47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
            ),
        ] {
            let digest = function.digest(&[]);
            assert_eq!(digest.hex(), hex);
            assert!(digest.is_empty_blob());
            let parsed = RemoteDigest::parse(Some(function), hex, 0).unwrap();
            assert_eq!(parsed, digest);
            let number = function.wire() as i32;
            assert_eq!(DigestFunction::of_wire(number).unwrap(), Some(function));
            assert_eq!(DigestFunction::of_name(function.name()), Some(function));
        }
        let abc = DigestFunction::Sha256.digest(b"abc");
        assert!(abc.hex().starts_with("ba7816bf8f01cfea"));
        assert_eq!(abc.size(), 3);
    }

    #[test]
    fn a_hash_tells_its_function_by_its_length() {
        let sha256 = DigestFunction::Sha256.digest(b"x");
        let parsed = RemoteDigest::parse(None, &sha256.hex().to_uppercase(), 1).unwrap();
        assert_eq!(parsed, sha256);
        assert_eq!(parsed.blake3(), None);
        let own = zako_digest::hash::bytes(b"x");
        assert_eq!(RemoteDigest::of_blake3(&own).blake3(), Some(own));
        assert_eq!(
            RemoteDigest::of_blake3(&own),
            DigestFunction::Blake3.digest(b"x")
        );
    }

    #[test]
    fn what_is_no_digest_is_told_why() {
        for (function, hex, text) in [
            (None, "ab", "hex digits, not 2"),
            (Some(DigestFunction::Sha1), "ab", "sha1 has 40 hex digits"),
            (None, &*"g".repeat(64), "not a hex digit"),
            (None, &*"é".repeat(32), "not a hex digit"),
        ] {
            let error = RemoteDigest::parse(function, hex, 0).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(text), "{error}");
        }
        let negative = reapi::Digest {
            hash: "ab".repeat(32),
            size_bytes: -1,
        };
        assert!(RemoteDigest::of_wire(None, &negative).is_err());
        assert!(DigestFunction::of_wire(3).is_err());
        assert!(DigestFunction::of_wire(99).is_err());
        assert_eq!(DigestFunction::of_wire(0).unwrap(), None);
    }
}
