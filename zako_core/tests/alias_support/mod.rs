//! What tests of aliases share.

#![allow(unreachable_pub, reason = "several tests have this module")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use zako_core::alias::{Alias, AliasKey};
use zako_core::store::Clock;
use zako_core::{Digest, Hash};

/// A clock that a test sets.
#[derive(Clone, Debug, Default)]
pub struct TestClock(Arc<AtomicU64>);

impl TestClock {
    #[allow(dead_code, reason = "some tests let it stand")]
    pub fn set(&self, unix_seconds: u64) {
        self.0.store(unix_seconds, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.monotonic()
    }
}

/// The key of this number.
pub fn key(number: u64) -> AliasKey {
    AliasKey::derive("zako 2026-11 tests", &[&number.to_le_bytes()])
}

/// An alias of the blob of this number.
pub fn alias(number: u64) -> Alias {
    let mut hash = [7; 32];
    hash[..8].copy_from_slice(&number.to_le_bytes());
    Alias::new(Digest::new(Hash::from_bytes(hash), number))
}
