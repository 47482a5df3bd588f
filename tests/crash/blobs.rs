//! The blobs that the load puts and deletes, and what is known of them.

use std::collections::HashMap;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use zako_core::Digest;

use crate::server_process::noise;

/// Tasks that put load on a server at once.
pub(crate) const TASKS: usize = 4;

/// Blobs of each task, and blobs that all of them put.
const EACH: usize = 24;

#[derive(Clone)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) data: Bytes,
}

/// All blobs there are. A task's own ones are deleted, too, and by this task only,
/// so that each fate is known for certain; those that are shared are never deleted.
pub(crate) struct Blobs {
    pub(crate) own: Vec<Vec<Blob>>,
    pub(crate) shared: Vec<Blob>,
}

/// What is known of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was acknowledged, or found after a restart.
    Present,
    /// Its deletion was acknowledged, or it was not found after a restart.
    Absent,
    /// Something was begun and not acknowledged; or it was evicted.
    Open,
}

/// What is known of all blobs.
#[derive(Clone, Default)]
pub(crate) struct Known {
    fates: HashMap<Digest, Fate>,
    /// Bytes that an acknowledged interruption of an upload left.
    parked: HashMap<Digest, u64>,
}

impl Blobs {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut group = || (0..EACH).map(|at| Blob::new(at, &mut rng)).collect();
        Self {
            own: (0..TASKS).map(|_| group()).collect(),
            shared: group().into_iter().chain([Blob::empty()]).collect(),
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Blob> {
        self.own.iter().flatten().chain(&self.shared)
    }
}

impl Blob {
    fn new(at: usize, rng: &mut StdRng) -> Self {
        let length = match at % 12 {
            0 => rng.random_range(600_000..1_000_000),
            1 => rng.random_range(40_000..300_000),
            2..=5 => rng.random_range(2_000..40_000),
            _ => rng.random_range(1..2_000),
        };
        let data = noise(rng.random(), length);
        Self {
            digest: zako_digest::hash::bytes(&data),
            data,
        }
    }

    fn empty() -> Self {
        Self {
            digest: Digest::EMPTY,
            data: Bytes::new(),
        }
    }
}

impl Known {
    pub(crate) fn fate(&self, digest: &Digest) -> Fate {
        // A new store has nothing.
        self.fates.get(digest).copied().unwrap_or(Fate::Absent)
    }

    pub(crate) fn set(&mut self, digest: Digest, fate: Fate) {
        self.fates.insert(digest, fate);
    }

    /// Something begins that leaves the blob as `after` says; gives back what
    /// [`end`](Self::end) needs.
    pub(crate) fn begin(&mut self, digest: Digest) -> Fate {
        let before = self.fate(&digest);
        self.set(digest, Fate::Open);
        // Its upload goes on, or a deletion may take it along.
        self.parked.remove(&digest);
        before
    }

    /// It ended. What failed and would have changed nothing has changed nothing.
    pub(crate) fn end(&mut self, digest: Digest, before: Fate, after: Fate, acknowledged: bool) {
        if acknowledged || before == after {
            self.set(digest, after);
        }
    }

    pub(crate) fn park(&mut self, digest: Digest, held: u64) {
        self.parked.insert(digest, held);
    }

    pub(crate) fn forget_parked(&mut self, digest: &Digest) {
        self.parked.remove(digest);
    }

    pub(crate) fn parked(&self, digest: &Digest) -> u64 {
        self.parked.get(digest).copied().unwrap_or(0)
    }

    /// Takes up what a task knows of its own blobs and of those that it shares:
    /// whatever one task was told is true.
    pub(crate) fn learn(&mut self, task: &Self, own: &[Blob], shared: &[Blob]) {
        for Blob { digest, .. } in own {
            self.set(*digest, task.fate(digest));
            match task.parked(digest) {
                0 => self.forget_parked(digest),
                held => self.park(*digest, held),
            }
        }
        for Blob { digest, .. } in shared {
            match (self.fate(digest), task.fate(digest)) {
                (Fate::Present, _) | (_, Fate::Present) => self.set(*digest, Fate::Present),
                (Fate::Absent, Fate::Absent) => {}
                _ => self.set(*digest, Fate::Open),
            }
        }
    }
}
