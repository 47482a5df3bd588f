//! Caches that are told apart by what they drop.

mod fifo;
mod lru;
mod s3_fifo;
mod sieve;
pub mod zako;

pub use fifo::Fifo;
pub use lru::Lru;
pub use s3_fifo::S3Fifo;
pub use sieve::Sieve;

use crate::trace::Request;

/// A cache of so many bytes.
pub trait Policy {
    /// Whether the blob was there; it is afterwards, if it can be held at all.
    fn request(&mut self, request: Request) -> bool;

    /// Bytes that were copied to keep them.
    fn moved(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wants blobs of one byte, a letter each; the letters of those that were there.
    pub(super) fn hits(policy: &mut dyn Policy, letters: &str) -> String {
        letters
            .bytes()
            .filter(|&letter| {
                policy.request(Request {
                    time: 0,
                    key: u64::from(letter),
                    size: 1,
                })
            })
            .map(char::from)
            .collect()
    }
}
