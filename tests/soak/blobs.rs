//! The blobs of a run, and what must be true of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use zako_core::Digest;
use zako_reapi::digest::{DigestFunction, RemoteDigest};

use crate::site::{Moment, Site};

/// A blob by both names that clients have for it.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) digest: Digest,
    pub(crate) remote: RemoteDigest,
    pub(crate) data: Bytes,
}

/// What is known of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was acknowledged, or found.
    Present,
    /// It was never stored, or its deletion was acknowledged.
    Absent,
    /// Something was begun and not acknowledged, or it was evicted.
    Open,
}

/// A blob that one worker stores and deletes, so that its fate is known for certain.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) content: Content,
    pub(crate) fate: Fate,
    /// In which life of the server, and until when at least.
    leased: Option<(u64, Instant)>,
    /// What an acknowledged interruption of its upload left.
    pub(crate) parked: u64,
}

/// A blob that many workers store at once and nobody deletes.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) content: Content,
    pub(crate) stored: AtomicBool,
}

impl Content {
    pub(crate) fn new(seed: u64, at: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let length = match at % 12 {
            0 => rng.random_range(1_100_000..3_000_000),
            1 | 2 => rng.random_range(100_000..600_000),
            3..=6 => rng.random_range(4_000..40_000),
            _ => rng.random_range(1..4_000),
        };
        let data = noise(rng.random(), length);
        let function = match at % 4 {
            0 => DigestFunction::Blake3,
            _ => DigestFunction::Sha256,
        };
        Self {
            digest: zako_digest::hash::bytes(&data),
            remote: function.digest(&data),
            data: data.into(),
        }
    }

    /// Panics unless these are the bytes of the blob from `at` on.
    #[track_caller]
    pub(crate) fn check(&self, found: &[u8], at: usize) {
        let right = self.data.get(at..at + found.len()) == Some(found);
        assert!(right, "wrong bytes of {} from {at} on", self.digest);
    }
}

impl Own {
    pub(crate) fn new(content: Content) -> Self {
        Self {
            content,
            fate: Fate::Absent,
            leased: None,
            parked: 0,
        }
    }

    /// Something begins that may leave it present or absent.
    pub(crate) fn begin(&mut self) -> Fate {
        let before = self.fate;
        self.fate = Fate::Open;
        self.parked = 0;
        before
    }

    /// It ended. What failed and would have changed nothing has changed nothing.
    pub(crate) fn end(&mut self, before: Fate, after: Fate, acknowledged: bool) {
        if acknowledged || before == after {
            self.fate = after;
        }
        if acknowledged && after == Fate::Absent {
            self.leased = None;
        }
    }

    /// An answer said that it is leased, or not there.
    #[track_caller]
    pub(crate) fn negotiated(&mut self, site: &Site, moment: Moment, present: bool) {
        self.seen(site, moment, present);
        if present {
            self.leased = Some((moment.life, moment.began + site.lease));
        }
    }

    /// An answer said whether it is there.
    #[track_caller]
    pub(crate) fn seen(&mut self, site: &Site, moment: Moment, present: bool) {
        let digest = &self.content.digest;
        match self.fate {
            Fate::Absent => assert!(!present, "{digest} came back"),
            Fate::Present if !present => {
                assert!(site.evicts, "{digest} was lost");
                let in_lease = self.leased.is_some_and(|(life, until)| {
                    life == moment.life && site.is_calm(moment) && Instant::now() < until
                });
                assert!(!in_lease, "{digest} was leased, and went");
                self.fate = Fate::Open;
            }
            Fate::Present => {}
            Fate::Open if present => self.fate = Fate::Present,
            // An evicted one may be back after a crash.
            Fate::Open if site.evicts => {}
            Fate::Open => self.fate = Fate::Absent,
        }
    }
}

impl Shared {
    pub(crate) fn new(content: Content) -> Self {
        Self {
            content,
            stored: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_stored(&self) -> bool {
        self.stored.load(Ordering::Acquire)
    }

    /// An answer to a question that was asked when it was `stored` or not.
    #[track_caller]
    pub(crate) fn seen(&self, site: &Site, stored: bool, present: bool) {
        let lost = stored && !present && !site.evicts;
        assert!(!lost, "{} was lost", self.content.digest);
    }
}

/// Bytes that don't compress and differ from seed to seed (splitmix64).
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut state = seed;
    for word in bytes.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mixed = (mixed ^ (mixed >> 31)).to_le_bytes();
        word.copy_from_slice(&mixed[..word.len()]);
    }
    bytes
}
