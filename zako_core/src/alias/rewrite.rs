//! Writing the log anew, without its dead records, while changes go on.
//!
//! A step writes some aliases as the index has them, and each group of changes between
//! two steps is appended to both logs. So once all aliases were walked over, the new log
//! says the same as the old one, and takes its name.

use super::group::Group;
use super::index::Cursor;
use super::log::{AppendError, LOG, Log, NEW_LOG};
use super::record::{RECORD_LEN, Record};
use super::shared::Shared;
use super::{AliasKey, is_past};
use crate::cas::{CasError, Result};

/// A log that is being written to take the place of another.
pub(super) struct Rewrite {
    log: Log,
    cursor: Cursor,
}

/// Slots that a step walks over: groups wait as long as writing their records takes.
const STEP: usize = 1 << 13;

impl Rewrite {
    pub(super) fn begin(shared: &Shared) -> Result<Self> {
        Ok(Self {
            log: Log::create(&*shared.options.backend, shared.dir.join(NEW_LOG))?,
            cursor: Cursor::default(),
        })
    }

    /// Writes the next aliases; `true` if there are none left. Those that have expired
    /// are left out, and taken out of the index.
    pub(super) fn step(&mut self, shared: &Shared) -> Result<bool> {
        let (now, epoch) = (shared.now(), self.log.epoch);
        let mut bytes = Vec::with_capacity(STEP * RECORD_LEN);
        let mut past: Vec<AliasKey> = Vec::new();
        let seen = shared
            .index
            .walk(&mut self.cursor, STEP, None, |key, alias| {
                if is_past(&alias, now) {
                    past.push(key);
                } else {
                    let alias = Some(alias);
                    Record { key, alias }.encode(epoch, &mut bytes);
                }
            });
        for key in past {
            let hash = shared.index.hash(&key);
            shared.index.set(&Record { key, alias: None }, hash);
        }
        let from = self.log.end();
        self.write(&bytes)?;
        // So that the sync at the end is short.
        self.log.start_writeback(from);
        Ok(seen == 0)
    }

    /// Writes changes that were made since it was begun.
    pub(super) fn append(&mut self, group: &Group) -> Result<()> {
        self.write(&group.records(self.log.epoch))
    }

    /// Gives the log that has taken the other's place.
    ///
    /// # Errors
    /// With `true` if it may have taken the place all the same.
    pub(super) fn finish(mut self, shared: &Shared) -> Result<Log, (CasError, bool)> {
        self.log.sync().map_err(|error| (error, false))?;
        let backend = &*shared.options.backend;
        self.log.rename(backend, shared.dir.join(LOG))?;
        Ok(self.log)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self.log.append(bytes) {
            Ok(()) => Ok(()),
            Err(AppendError::Undone(error) | AppendError::Torn(error)) => Err(error),
        }
    }
}
