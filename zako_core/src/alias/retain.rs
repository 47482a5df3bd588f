//! Dropping aliases that name nothing any more.
//!
//! Between the question whether a blob is there and the removal of its alias, the blob may
//! come back, and its alias be inserted again, which changes nothing in the table. So
//! aliases are marked when they are asked about, inserting takes the mark off, and only
//! what has its mark still is removed.

use std::collections::HashSet;

use super::index::Cursor;
use super::{Alias, AliasKey, AliasTable, is_past};
use crate::Digest;
use crate::cas::{Cas, CasError, ErrorKind, Lease, Result};

/// Aliases that are asked about at once.
const ASKED_AT_ONCE: usize = 1 << 12;

impl AliasTable {
    /// Asks about all aliases, some at a time, and removes those that are not to be
    /// kept; how many that were. `keep` answers for each in order. Drops what has
    /// expired without asking.
    ///
    /// An alias that is inserted after it was asked about stays, also if it is the same.
    ///
    /// # Errors
    /// Those of `keep` and of [`remove`](Self::remove); [`ErrorKind::InvalidArgument`] if
    /// `keep` gives fewer or more answers than it was asked for.
    pub async fn retain<F, A>(&self, mut keep: F) -> Result<u64>
    where
        F: FnMut(Vec<(AliasKey, Alias)>) -> A,
        A: Future<Output = Result<Vec<bool>>>,
    {
        let index = &self.shared.index;
        let mark = self.shared.next_mark();
        let mut cursor = Cursor::default();
        let mut removed = 0;
        loop {
            let now = self.shared.now();
            let (mut asked, mut unwanted) = (Vec::new(), Vec::new());
            let seen = index.walk(&mut cursor, ASKED_AT_ONCE, Some(mark), |key, alias| {
                if is_past(&alias, now) {
                    unwanted.push(key);
                } else {
                    asked.push((key, alias));
                }
            });
            if seen == 0 {
                return Ok(removed);
            }
            let keys: Vec<AliasKey> = asked.iter().map(|(key, _)| *key).collect();
            let kept = if asked.is_empty() {
                Vec::new()
            } else {
                keep(asked).await?
            };
            if kept.len() != keys.len() {
                let text = format!("{} answers about {} aliases", kept.len(), keys.len());
                return Err(CasError::new(ErrorKind::InvalidArgument, text));
            }
            for (key, kept) in keys.into_iter().zip(kept) {
                if kept {
                    index.unmark(&key, index.hash(&key));
                } else {
                    unwanted.push(key);
                }
            }
            let gone = self.remove_marked(unwanted, Some(mark)).await?;
            removed += gone.into_iter().filter(|gone| *gone).count() as u64;
        }
    }

    /// Removes the aliases of blobs that this store doesn't have; how many that were.
    /// Leases nothing.
    ///
    /// A blob has to be stored before its alias is inserted.
    ///
    /// # Errors
    /// Those of [`Cas::missing`] and of [`remove`](Self::remove).
    pub async fn retain_stored(&self, store: &dyn Cas) -> Result<u64> {
        let is_stored = |asked: Vec<(AliasKey, Alias)>| async move {
            let digests: Vec<Digest> = asked.iter().map(|(_, alias)| alias.digest).collect();
            let missing = store.missing(&digests, Lease::None).await?;
            let missing: HashSet<Digest> = missing.into_iter().collect();
            let stored = digests.iter().map(|digest| !missing.contains(digest));
            Ok(stored.collect())
        };
        self.retain(is_stored).await
    }
}
