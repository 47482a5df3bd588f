//! A witness that wants one blob, and remembers how much it saw.

#![allow(unreachable_pub, reason = "several tests have this module")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use zako_core::Digest;
use zako_core::cas::{CasError, Result, Witness};
use zako_digest::hash::Hasher;

pub struct Wants {
    digest: Digest,
    hasher: Hasher,
    seen: Arc<AtomicU64>,
}

pub fn wants(digest: Digest) -> Box<dyn Witness> {
    counting(digest, &Arc::default())
}

/// Counts the bytes that it sees.
pub fn counting(digest: Digest, seen: &Arc<AtomicU64>) -> Box<dyn Witness> {
    Box::new(Wants {
        digest,
        hasher: Hasher::new(),
        seen: Arc::clone(seen),
    })
}

impl Witness for Wants {
    fn update(&mut self, data: &[u8]) {
        self.hasher.update(data);
        self.seen.fetch_add(data.len() as u64, Ordering::Relaxed);
    }

    fn check(&mut self) -> Result<()> {
        let actual = self.hasher.finish();
        match actual == self.digest {
            true => Ok(()),
            false => Err(CasError::mismatch(self.digest, actual)),
        }
    }
}
