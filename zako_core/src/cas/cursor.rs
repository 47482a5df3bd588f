//! How far the reading of an opened blob has come.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where the next step of a blob begins, in bytes from the blob's first. The steps
/// move it on, and so does [`Blob::skip_bytes`](super::Blob::skip_bytes).
///
/// Only who has the blob uses either, so that nobody else moves it meanwhile.
#[derive(Clone, Debug)]
pub struct Cursor(Arc<AtomicU64>);

impl Cursor {
    /// A cursor at `offset`.
    pub fn new(offset: u64) -> Self {
        Self(Arc::new(AtomicU64::new(offset)))
    }

    /// Where it stands.
    pub fn offset(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Moves it on.
    pub fn advance(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}
