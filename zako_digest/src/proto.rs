//! Conversions between digests, ranges and their protobuf messages.

use bytes::Bytes;
use zako_protobuf::{digest, range};

use crate::{BlobRange, Digest, Hash};

/// A protobuf digest whose hash is not 32 bytes long.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest's blake3 field has {length} bytes, not 32")]
pub struct DigestProtoError {
    length: usize,
}

impl TryFrom<&digest::Digest> for Digest {
    type Error = DigestProtoError;

    fn try_from(message: &digest::Digest) -> Result<Self, DigestProtoError> {
        let hash = <[u8; 32]>::try_from(&message.blake3[..]).map_err(|_| DigestProtoError {
            length: message.blake3.len(),
        })?;
        Ok(Self::new(Hash::from_bytes(hash), message.size_bytes))
    }
}

impl TryFrom<digest::Digest> for Digest {
    type Error = DigestProtoError;

    fn try_from(message: digest::Digest) -> Result<Self, DigestProtoError> {
        Self::try_from(&message)
    }
}

impl From<Digest> for digest::Digest {
    fn from(digest: Digest) -> Self {
        Self {
            size_bytes: digest.size(),
            blake3: Bytes::copy_from_slice(digest.hash().as_bytes()),
        }
    }
}

impl From<range::BlobRange> for BlobRange {
    /// Every pair of numbers is a range; [`BlobRange::resolve`] tells whether a
    /// blob has it.
    fn from(message: range::BlobRange) -> Self {
        match message.length {
            Some(length) => Self::new(message.start, length),
            None => Self::from_start(message.start),
        }
    }
}

impl From<BlobRange> for range::BlobRange {
    fn from(range: BlobRange) -> Self {
        Self {
            start: range.start(),
            length: range.length(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip() {
        let digest = crate::hash::bytes(b"abc");
        let message = digest::Digest::from(digest);
        assert_eq!(Digest::try_from(&message), Ok(digest));
        for range in [
            BlobRange::FULL,
            BlobRange::from_start(3),
            BlobRange::new(3, 0),
        ] {
            assert_eq!(BlobRange::from(range::BlobRange::from(range)), range);
        }
    }

    #[test]
    fn a_hash_of_another_length_is_refused() {
        for length in [0, 31, 33, 64] {
            let message = digest::Digest {
                size_bytes: 1,
                blake3: vec![0; length].into(),
            };
            let error = Digest::try_from(message).unwrap_err();
            assert!(error.to_string().contains(&length.to_string()));
        }
    }
}
