//! The one thread that appends to the log: group commit.
//!
//! As the store's: it takes all that waits in its queue, writes it with one call, syncs
//! once, publishes to the index, and acknowledges. It also writes the log anew, a step
//! between two groups. Since it alone changes the log and the index, the order of its
//! work is the order of both.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::group::{Answer, Group};
use super::index::{Cursor, Mark};
use super::log::{AppendError, Log};
use super::record::Record;
use super::rewrite::Rewrite;
use super::shared::Shared;
use super::{Alias, AliasKey, is_past};
use crate::cas::{CasError, ErrorKind, Result};
use crate::store::Durability;
use crate::store::local::io::Lock;

/// Work for the committer.
pub(super) enum Job {
    Insert {
        aliases: Vec<(AliasKey, Alias)>,
        /// Bounds what waits in the queue.
        permit: OwnedSemaphorePermit,
        ack: oneshot::Sender<Result<()>>,
    },
    /// Remove aliases; tells which were there.
    Remove {
        keys: Vec<AliasKey>,
        /// Only those that have this mark still: nobody has inserted them since.
        marked: Option<Mark>,
        permit: OwnedSemaphorePermit,
        ack: oneshot::Sender<Result<Vec<bool>>>,
    },
    /// Write the log anew.
    Compact { ack: oneshot::Sender<Result<()>> },
    /// Sync and end.
    Close { ack: oneshot::Sender<Result<()>> },
}

pub(super) struct Committer {
    shared: Arc<Shared>,
    queue: Receiver<Job>,
    log: Log,
    /// Why the log must not be written; it has to be written anew first.
    broken: Option<CasError>,
    group: Group,
    rewrite: Option<Rewrite>,
    /// Who waits for the end of the rewrite.
    compacting: Vec<oneshot::Sender<Result<()>>>,
    /// After a rewrite that failed, none is begun before the log has so many records.
    not_before: u64,
    /// No alias expires before that.
    next_expiry: u64,
    /// When the oldest bytes that are acknowledged and not synced were written.
    unsynced_since: Option<Instant>,
    /// Keeps other processes out until the last write.
    _lock: Box<dyn Lock>,
}

/// What there is to do.
enum Next {
    Job(Job),
    /// Nothing in the queue, but other work.
    Other,
    /// Nothing any more.
    End,
}

/// A log is not written anew for fewer dead records.
const FEWEST_DEAD: u64 = 1 << 16;

impl Committer {
    pub(super) fn new(
        shared: Arc<Shared>,
        queue: Receiver<Job>,
        log: Log,
        lock: Box<dyn Lock>,
        broken: Option<CasError>,
    ) -> Self {
        Self {
            shared,
            queue,
            log,
            broken,
            group: Group::default(),
            rewrite: None,
            compacting: Vec::new(),
            not_before: 0,
            next_expiry: 0,
            unsynced_since: None,
            _lock: lock,
        }
    }

    /// Works until the table is closed or all its handles are dropped.
    pub(super) fn run(mut self) {
        let close = loop {
            match self.next() {
                Next::Job(job) => {
                    if let Some(close) = self.work(job) {
                        break Some(close);
                    }
                }
                Next::Other => {}
                Next::End => break None,
            }
            self.keep_time();
            self.compact();
        };
        let outcome = self.end();
        // The lock is given back before anybody hears of it.
        drop(self);
        if let Some(close) = close {
            let _ = close.send(outcome);
        }
    }

    fn next(&self) -> Next {
        if self.rewrite.is_some() {
            return match self.queue.try_recv() {
                Ok(job) => Next::Job(job),
                Err(TryRecvError::Empty) => Next::Other,
                Err(TryRecvError::Disconnected) => Next::End,
            };
        }
        let (Some(since), Durability::Interval(interval)) =
            (self.unsynced_since, self.shared.options.durability)
        else {
            return self.queue.recv().map_or(Next::End, Next::Job);
        };
        let left = interval.saturating_sub(since.elapsed());
        match self.queue.recv_timeout(left) {
            Ok(job) => Next::Job(job),
            Err(RecvTimeoutError::Timeout) => Next::Other,
            Err(RecvTimeoutError::Disconnected) => Next::End,
        }
    }

    /// Does this job and all that wait behind it. Gives who closes the table, if that
    /// is among them.
    fn work(&mut self, first: Job) -> Option<oneshot::Sender<Result<()>>> {
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Insert {
                    aliases,
                    permit,
                    ack,
                } => match self.stage_insert(&aliases) {
                    Ok(()) => self.group.answer(permit, Answer::Insert(ack)),
                    Err(error) => drop(ack.send(Err(error))),
                },
                Job::Remove {
                    keys,
                    marked,
                    permit,
                    ack,
                } => match self.stage_remove(&keys, marked) {
                    Ok(removed) => self.group.answer(permit, Answer::Remove(removed, ack)),
                    Err(error) => drop(ack.send(Err(error))),
                },
                Job::Compact { ack } => self.begin_compaction(Some(ack)),
                Job::Close { ack } => {
                    self.flush();
                    return Some(ack);
                }
            }
            if self.group.is_full() {
                self.flush();
            }
            next = self.queue.try_recv().ok();
        }
        self.flush();
        None
    }

    fn stage_insert(&mut self, aliases: &[(AliasKey, Alias)]) -> Result<()> {
        self.heal();
        self.check()?;
        self.check_room(aliases)?;
        for (key, alias) in aliases {
            let hash = self.shared.index.hash(key);
            match self.group.latest(key, hash) {
                Some(before) if before == Some(*alias) => continue,
                Some(_) => {}
                None if self.shared.index.find(key, hash) == Some(*alias) => {
                    self.shared.index.unmark(key, hash);
                    continue;
                }
                None => {}
            }
            if let Some(expires) = alias.expires {
                self.next_expiry = self.next_expiry.min(expires);
            }
            let record = Record {
                key: *key,
                alias: Some(*alias),
            };
            self.group.stage(record, hash);
        }
        Ok(())
    }

    fn stage_remove(&mut self, keys: &[AliasKey], marked: Option<Mark>) -> Result<Vec<bool>> {
        self.heal();
        self.check()?;
        let now = self.shared.now();
        let remove = |key: &AliasKey| {
            let hash = self.shared.index.hash(key);
            let before = match self.group.latest(key, hash) {
                // Inserted since it was asked about.
                Some(_) if marked.is_some() => None,
                Some(before) => before,
                None if marked.is_some() && self.shared.index.mark(key, hash) != marked => None,
                None => self.shared.index.find(key, hash),
            };
            let Some(before) = before else {
                return false;
            };
            let record = Record {
                key: *key,
                alias: None,
            };
            self.group.stage(record, hash);
            !is_past(&before, now)
        };
        Ok(keys.iter().map(remove).collect())
    }

    fn check(&self) -> Result<()> {
        self.broken.clone().map_or(Ok(()), Err)
    }

    /// Whether all of these can be held.
    fn check_room(&mut self, aliases: &[(AliasKey, Alias)]) -> Result<()> {
        let most = self.shared.options.max_aliases;
        let index = &self.shared.index;
        if index.len() + self.group.len() + aliases.len() <= most {
            return Ok(());
        }
        // Near the limit it is counted.
        self.flush();
        let is_new = |(key, _): &&(AliasKey, Alias)| {
            let index = &self.shared.index;
            index.find(key, index.hash(key)).is_none()
        };
        let new = aliases.iter().filter(is_new).count();
        if self.shared.index.len() + new > most {
            self.drop_expired();
        }
        if self.shared.index.len() + new > most {
            let text = format!("there is no room for {new} aliases: there may be {most}");
            return Err(CasError::new(ErrorKind::NoSpace, text).with_path(&self.shared.dir));
        }
        self.check()
    }

    /// Takes what has expired out of the index. The log keeps it and needs no removal:
    /// its time is in it.
    fn drop_expired(&mut self) {
        let now = self.shared.now();
        if now < self.next_expiry {
            return;
        }
        let index = &self.shared.index;
        let (mut cursor, mut past, mut next) = (Cursor::default(), Vec::new(), u64::MAX);
        while index.walk(&mut cursor, 1 << 12, None, |key, alias| {
            if is_past(&alias, now) {
                past.push(key);
            } else {
                next = next.min(alias.expires.unwrap_or(u64::MAX));
            }
        }) > 0
        {}
        self.next_expiry = next;
        for key in past {
            index.set(&Record { key, alias: None }, index.hash(&key));
        }
    }

    /// Writes, syncs, publishes and acknowledges the group.
    fn flush(&mut self) {
        let group = std::mem::take(&mut self.group);
        let outcome = self.commit(&group);
        self.shared.set_disk_bytes(&self.log);
        self.group = group.end(&outcome);
    }

    fn commit(&mut self, group: &Group) -> Result<()> {
        if group.is_empty() {
            return Ok(());
        }
        self.check()?;
        match self.log.append(&group.records(self.log.epoch)) {
            Ok(()) => {}
            Err(AppendError::Undone(error)) => return Err(error),
            Err(AppendError::Torn(error)) => return Err(self.poison(error)),
        }
        if self.shared.options.durability == Durability::Immediate {
            self.sync()?;
        } else {
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
        for (record, hash) in group.changes() {
            self.shared.index.set(record, *hash);
        }
        if let Some(rewrite) = &mut self.rewrite
            && let Err(error) = rewrite.append(group)
        {
            self.abandon(error);
        }
        Ok(())
    }

    /// Makes durable what is written.
    fn sync(&mut self) -> Result<()> {
        self.log.sync().map_err(|error| self.poison(error))?;
        self.unsynced_since = None;
        Ok(())
    }

    /// Under steady load the queue never runs dry, and the time has to be kept all the
    /// same.
    fn keep_time(&mut self) {
        if let (Some(since), Durability::Interval(interval)) =
            (self.unsynced_since, self.shared.options.durability)
            && since.elapsed() >= interval
            && self.broken.is_none()
        {
            // What failed is told to whoever comes next, if it can't be healed.
            let _ = self.sync();
        }
    }

    /// Gives up the log: nothing behind what was synced is trusted. All that is
    /// published is in memory, from where another log is written.
    fn poison(&mut self, error: CasError) -> CasError {
        tracing::error!(%error, "the log of aliases is given up");
        self.log.cut();
        self.broken = Some(error.clone());
        self.heal();
        error
    }

    /// Writes another log, if this one is given up.
    fn heal(&mut self) {
        if self.broken.is_none() {
            return;
        }
        self.begin_rewrite();
        while self.rewrite.is_some() {
            self.step();
        }
    }

    fn begin_compaction(&mut self, ack: Option<oneshot::Sender<Result<()>>>) {
        self.compacting.extend(ack);
        self.begin_rewrite();
    }

    fn begin_rewrite(&mut self) {
        if self.rewrite.is_none() {
            match Rewrite::begin(&self.shared) {
                Ok(rewrite) => self.rewrite = Some(rewrite),
                Err(error) => self.abandon(error),
            }
        }
    }

    /// Goes on with writing the log anew, or begins if that is due.
    fn compact(&mut self) {
        if self.rewrite.is_some() {
            return self.step();
        }
        let (records, live) = (self.log.records(), self.shared.index.len() as u64);
        let dead = records.saturating_sub(live);
        if dead >= FEWEST_DEAD.max(live) && records >= self.not_before {
            self.begin_compaction(None);
        }
    }

    fn step(&mut self) {
        let Some(mut rewrite) = self.rewrite.take() else {
            return;
        };
        match rewrite.step(&self.shared) {
            Ok(false) => self.rewrite = Some(rewrite),
            Ok(true) => match rewrite.finish(&self.shared) {
                Ok(log) => self.replace(log),
                Err((error, is_renamed)) => {
                    if is_renamed {
                        // After a crash either log may be there: neither can be
                        // written until another has the name for sure.
                        self.broken = Some(error.clone());
                    }
                    self.abandon(error);
                }
            },
            Err(error) => self.abandon(error),
        }
    }

    fn replace(&mut self, log: Log) {
        self.log = log;
        self.broken = None;
        self.unsynced_since = None;
        self.not_before = 0;
        self.shared.set_disk_bytes(&self.log);
        for ack in self.compacting.drain(..) {
            let _ = ack.send(Ok(()));
        }
    }

    /// The log can't be written anew now.
    fn abandon(&mut self, error: CasError) {
        tracing::warn!(%error, "the log of aliases could not be written anew");
        self.rewrite = None;
        self.shared.remove_new_log();
        self.not_before = self.log.records() / 4 * 5;
        if let Some(broken) = &mut self.broken {
            *broken = error.clone();
        }
        for ack in self.compacting.drain(..) {
            let _ = ack.send(Err(error.clone()));
        }
    }

    fn end(&mut self) -> Result<()> {
        if self.rewrite.take().is_some() {
            self.shared.remove_new_log();
        }
        self.heal();
        self.check()?;
        // Before the sync, and durable with it.
        self.log.trim();
        self.sync()
    }
}
