//! What all workers have in common: their pace, their blobs, and what they may be told.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::blobs::{Content, Own, Shared};
use crate::log::Log;
use crate::site::{Moment, Site};

/// A worker: which operations it does follows from the seed alone.
pub(crate) struct Worker {
    pub(crate) name: String,
    pub(crate) site: Arc<Site>,
    pub(crate) log: Arc<Log>,
    pub(crate) rng: StdRng,
    pub(crate) own: Vec<Own>,
    /// Whether it names blobs by their digests, not by another hash.
    pub(crate) by_digest: bool,
    pub(crate) shared: Arc<Vec<Shared>>,
    /// Set when the run is over.
    pub(crate) over: Arc<AtomicBool>,
    /// Between the beginnings of two operations.
    pub(crate) pause: Duration,
}

/// Blobs of a worker's own.
pub(crate) const OWN: usize = 36;

impl Worker {
    /// Gives it blobs that nobody else has.
    pub(crate) fn with_own(mut self) -> Self {
        self.own = (0..OWN)
            .map(|at| Own::new(Content::new(self.rng.random(), at)))
            .collect();
        self
    }

    /// The generator of a worker's choices.
    pub(crate) fn generator(seed: u64, number: u64) -> StdRng {
        StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(number))
    }

    /// Waits for the next operation's time; `false` when the run is over.
    pub(crate) async fn turn(&self, due: &mut Instant) -> bool {
        // What a slow machine doesn't manage is left out, not caught up with.
        *due = (*due + self.pause).max(Instant::now());
        tokio::time::sleep_until(*due).await;
        !self.over.load(Ordering::Acquire)
    }

    /// Begins an operation.
    pub(crate) async fn begin(&self, what: &'static str, about: impl Debug) -> Moment {
        let moment = self.site.calm().await;
        self.log.count(what, 1);
        self.log.note(&self.name, &format!("{what} {about:?}"));
        moment
    }

    /// An error that is neither for want of room in a small store, nor the server's end.
    #[track_caller]
    pub(crate) fn excuse(&self, moment: Moment, full: bool, error: impl Debug) {
        if full && self.site.evicts {
            self.log.count("refused: full", 1);
            return;
        }
        assert!(
            !self.site.is_calm(moment),
            "{}: a server that is well failed: {error:?}",
            self.name
        );
        self.log.count("cut off", 1);
    }

    pub(crate) fn any_own(&mut self) -> usize {
        self.rng.random_range(0..self.own.len())
    }

    /// In place of a blob that may be forgotten, a new one that was never stored.
    pub(crate) fn replace(&mut self, at: usize) {
        let seed = self.rng.random();
        self.own[at] = Own::new(Content::new(seed, at));
    }

    /// Some of its own, each once.
    pub(crate) fn some_own(&mut self, most: usize) -> Vec<usize> {
        let count = self.rng.random_range(1..=most);
        let mut some: Vec<usize> = (0..count).map(|_| self.any_own()).collect();
        some.sort_unstable();
        some.dedup();
        some
    }

    /// A part of a blob of this length that is not empty.
    pub(crate) fn part(&mut self, length: usize) -> (usize, usize) {
        let from = self.rng.random_range(0..length);
        (from, self.rng.random_range(1..=length - from))
    }
}
