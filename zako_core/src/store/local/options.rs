//! How a local store is set up.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::io::{Backend, Disk};
use crate::observe::Observer;

/// How a local store is set up. Made by [`StoreOptions::default`], then changed
/// field by field.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The most that the store's folder may take on disk, in bytes. `None`: 80 % of
    /// what is free, counting what the store has, when it opens.
    pub max_bytes: Option<u64>,
    /// When a stored blob is durable.
    pub durability: Durability,
    /// When bytes that are read back are hashed.
    pub verify_on_read: VerifyOnRead,
    /// For how long [`Lease::Default`](crate::cas::Lease::Default) keeps a blob.
    pub lease: Duration,
    /// The longest lease that is given.
    pub max_lease: Duration,
    /// For how long an interrupted upload is kept.
    pub partial_ttl: Duration,
    /// The size at which a segment is sealed, in bytes: at most 256 MiB. `None`:
    /// 256 MiB, less for a store with a small `max_bytes`.
    pub segment_bytes: Option<u64>,
    /// Blobs larger than this get a file of their own, in bytes: at most 8 MiB.
    /// `None`: 1 MiB, less for a store with a small `max_bytes`.
    pub large_from: Option<u64>,
    /// Re-hash everything again and again at this rate, in bytes per second.
    pub scrub_rate: Option<u64>,
    /// The file system.
    pub backend: Arc<dyn Backend>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Is told what happens in the store.
    pub observer: Option<Arc<dyn Observer>>,
}

/// When a stored blob is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// Before it is acknowledged: it survives a loss of power.
    #[default]
    Immediate,
    /// At most this long after it was acknowledged. It survives the end of the
    /// process at once.
    Interval(Duration),
    /// When the system pleases. It survives the end of the process at once.
    None,
}

/// When bytes that are read back are hashed and compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum VerifyOnRead {
    /// Never: readers do, or it is left to scrubbing.
    Never,
    /// The first time that a blob is read whole after the store was opened. A
    /// part of a blob that has a file of its own is not hashed.
    #[default]
    First,
    /// Every time that a blob is read whole.
    Always,
}

/// The clocks that a store reads.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Time since some fixed moment; never goes back. Leases are measured by it.
    fn monotonic(&self) -> Duration;

    /// The time of day. Partial uploads expire by it, since they outlive the process.
    fn wall(&self) -> SystemTime;
}

/// The clocks of this machine.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Durability {
    /// A word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Immediate => "immediate",
            Self::Interval(_) => "interval",
            Self::None => "none",
        }
    }
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            max_bytes: None,
            durability: Durability::default(),
            verify_on_read: VerifyOnRead::default(),
            lease: Duration::from_secs(60 * 60),
            max_lease: Duration::from_secs(24 * 60 * 60),
            partial_ttl: Duration::from_secs(24 * 60 * 60),
            segment_bytes: None,
            large_from: None,
            scrub_rate: None,
            backend: Arc::new(Disk),
            clock: Arc::new(SystemClock::default()),
            observer: None,
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// The sizes that follow from the options.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// The most that the store may take on disk.
    pub(super) cap: u64,
    /// A segment that has reached this is sealed.
    pub(super) segment: u64,
    /// Larger blobs get a file.
    pub(super) large_from: u64,
}

impl Sizes {
    /// Records are placed by 24 bits of 16 bytes.
    const MOST_SEGMENT: u64 = 256 << 20;
    /// A record's length has 24 bits, too.
    const MOST_RECORD: u64 = 8 << 20;

    pub(super) fn of(options: &StoreOptions, free_and_own: u64) -> Self {
        let cap = options
            .max_bytes
            .unwrap_or_else(|| free_and_own / 10 * 8)
            .max(1 << 20);
        // Eviction drops a segment at a time and keeps one in reserve, so a small
        // store needs small ones.
        let segment = options
            .segment_bytes
            .unwrap_or(cap / 64)
            .clamp(64 << 10, Self::MOST_SEGMENT.min(cap / 8));
        let large_from = options
            .large_from
            .unwrap_or(1 << 20)
            .min(segment / 4)
            .min(Self::MOST_RECORD);
        Self {
            cap,
            segment,
            large_from,
        }
    }
}
