//! Names for blobs beside their digests: a durable table from keys to digests.
//!
//! A blob that is stored under its BLAKE3 hash is also found under its SHA-256 by an
//! alias; the result of an action by the action's. What a key stands for is the
//! caller's affair ([`AliasKind`]); keys of different kinds don't meet.
//!
//! All aliases are in memory, about 85 bytes each, and in a log on disk, whose layout is in
//! [FORMAT.md](https://github.com/zako-dev/zako/blob/main/zako_core/src/alias/FORMAT.md).
//! The table doesn't know which blobs there are. Its owner asks the store now and then
//! ([`AliasTable::retain_stored`]), and drops what is named in vain.

mod committer;
mod group;
mod index;
mod key;
mod log;
mod options;
mod record;
mod recover;
mod retain;
mod rewrite;
mod shared;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::SystemTime;

pub use key::{AliasKey, AliasKind};
pub use options::AliasOptions;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use self::committer::{Committer, Job};
use self::index::Mark;
use self::record::MOST_SIZE;
use self::shared::{BACKLOG, Shared};
use crate::Digest;
use crate::cas::{CasError, ErrorKind, Result};
use crate::store::Clock;

/// What a key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Alias {
    /// The blob.
    pub digest: Digest,
    /// When the alias ends, in seconds since 1970. A time from 2^32 on, in the year
    /// 2106, is never.
    pub expires: Option<u64>,
}

/// A durable table of [aliases](Alias) in a folder. Cheap to clone; all clones are the
/// same table.
///
/// One process at a time has it open. It ends when it is [closed](Self::close) or its
/// last clone drops, soon after that; killed instead, it loses nothing that was acknowledged, and nothing
/// that was removed comes back.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// use zako_core::Digest;
/// use zako_core::alias::{Alias, AliasKey, AliasOptions, AliasTable};
///
/// let folder = tempfile::tempdir()?;
/// let table = AliasTable::open(folder.path(), AliasOptions::default()).await?;
/// let key = AliasKey::derive("zako 2026-11 an example", &[b"a name"]);
/// let alias = Alias { digest: Digest::EMPTY, expires: None };
/// table.insert(vec![(key, alias)]).await?;
/// assert_eq!(table.find(&key), Some(alias));
/// table.close().await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct AliasTable {
    shared: Arc<Shared>,
    committer: Sender<Job>,
}

/// Aliases that go to the committer at once.
const MOST_AT_ONCE: usize = 1 << 13;

impl Alias {
    /// An alias of this blob that doesn't expire.
    pub const fn new(digest: Digest) -> Self {
        Self {
            digest,
            expires: None,
        }
    }
}

impl AliasTable {
    /// Opens the table in a folder, or makes one there. Needs a tokio runtime. A table
    /// inside a store's folder is opened after the store, which takes no folder for its
    /// own that has something else.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] if another process has it, [`ErrorKind::Format`] if it is of
    /// another version, [`ErrorKind::Io`].
    pub async fn open(dir: impl AsRef<Path>, options: AliasOptions) -> Result<Self> {
        let dir = dir.as_ref().to_owned();
        tokio::task::spawn_blocking(|| Self::open_blocking(dir, options))
            .await
            .map_err(|_| CasError::new(ErrorKind::Internal, "opening the aliases panicked"))?
    }

    fn open_blocking(dir: std::path::PathBuf, options: AliasOptions) -> Result<Self> {
        let opened = recover::open(&dir, &options)?;
        let broken = opened.headless.then(|| {
            CasError::new(ErrorKind::Corrupt, "the header of the log is damaged").with_path(&dir)
        });
        let shared = Arc::new(Shared {
            dir,
            options,
            index: opened.index,
            backlog: Arc::new(Semaphore::new(BACKLOG)),
            closed: AtomicBool::new(false),
            disk_bytes: AtomicU64::new(opened.log.end()),
            damaged: opened.damaged,
            questions: AtomicU32::new(0),
        });
        let (committer, jobs) = channel();
        let work = Committer::new(Arc::clone(&shared), jobs, opened.log, opened.lock, broken);
        std::thread::Builder::new()
            .name("zako-alias".to_owned())
            .spawn(move || work.run())
            .map_err(|error| CasError::io("starting a thread", &shared.dir, error))?;
        Ok(Self { shared, committer })
    }

    /// What the key names, unless that has expired. One shard's read lock; the clock is
    /// read for an alias that can expire.
    pub fn find(&self, key: &AliasKey) -> Option<Alias> {
        let index = &self.shared.index;
        let alias = index.find(key, index.hash(key))?;
        let is_past = alias.expires.is_some() && is_past(&alias, self.shared.now());
        (!is_past).then_some(alias)
    }

    /// As [`find`](Self::find) for many keys; adds to `out` in their order. Faster than
    /// one by one, since reads of memory overlap.
    pub fn find_many(&self, keys: &[AliasKey], out: &mut Vec<Option<Alias>>) {
        let begin = out.len();
        self.shared.index.find_many(keys, out);
        let mut now = None;
        for found in &mut out[begin..] {
            if let Some(alias) = found
                && alias.expires.is_some()
                && is_past(alias, *now.get_or_insert_with(|| self.shared.now()))
            {
                *found = None;
            }
        }
    }

    /// Lets keys name these from now on; the last one of a key wins. Returns when that
    /// is as durable as the options say. What is there already is not written again.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] if the disk or the table is full;
    /// [`ErrorKind::InvalidArgument`] for a blob of 2^48 − 1 bytes or more. Some of the
    /// aliases may be there all the same, also after a restart. [`ErrorKind::Closed`].
    pub async fn insert(&self, mut aliases: Vec<(AliasKey, Alias)>) -> Result<()> {
        self.shared.check_open()?;
        for (_, alias) in &mut aliases {
            if alias.digest.size() > MOST_SIZE {
                let text = "the blob is too large to have an alias";
                let error = CasError::new(ErrorKind::InvalidArgument, text);
                return Err(error.with_digest(alias.digest));
            }
            // 0 is never, on disk; 1 is as long ago.
            alias.expires = alias.expires.map(|expires| expires.max(1));
            alias.expires = alias.expires.filter(|expires| *expires < 1 << 32);
        }
        let is_there = |(key, alias): &_| self.shared.index.is_settled(key, alias);
        if aliases.iter().all(is_there) {
            return Ok(());
        }
        let mut acks = Vec::with_capacity(aliases.len().div_ceil(MOST_AT_ONCE));
        while !aliases.is_empty() {
            let rest = aliases.split_off(aliases.len().min(MOST_AT_ONCE));
            let permit = self.permit(aliases.len()).await?;
            let (ack, done) = oneshot::channel();
            self.send(Job::Insert {
                aliases,
                permit,
                ack,
            })?;
            acks.push(done);
            aliases = rest;
        }
        let mut outcome = Ok(());
        for done in acks {
            outcome = outcome.and(self.answer(done).await);
        }
        outcome
    }

    /// Removes aliases and tells which were there. Returns when that is as durable as
    /// the options say.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] and [`ErrorKind::NoSpace`]: some may be removed all the same,
    /// also after a restart. [`ErrorKind::Closed`].
    pub async fn remove(&self, keys: Vec<AliasKey>) -> Result<Vec<bool>> {
        self.remove_marked(keys, None).await
    }

    async fn remove_marked(
        &self,
        mut keys: Vec<AliasKey>,
        marked: Option<Mark>,
    ) -> Result<Vec<bool>> {
        self.shared.check_open()?;
        let mut removed = Vec::with_capacity(keys.len());
        while !keys.is_empty() {
            let rest = keys.split_off(keys.len().min(MOST_AT_ONCE));
            let permit = self.permit(keys.len()).await?;
            let (ack, done) = oneshot::channel();
            self.send(Job::Remove {
                keys,
                marked,
                permit,
                ack,
            })?;
            removed.extend(self.answer(done).await?);
            keys = rest;
        }
        Ok(removed)
    }

    /// Writes the log anew without what is dead in it, and drops what has expired. The
    /// table does so by itself when most of the log is dead.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::NoSpace`]: the log is as it was then.
    pub async fn compact(&self) -> Result<()> {
        self.shared.check_open()?;
        let (ack, done) = oneshot::channel();
        self.send(Job::Compact { ack })?;
        self.answer(done).await
    }

    /// Ends the table: what is under way is finished and made durable, whatever the
    /// durability. Changes fail with [`ErrorKind::Closed`] from then on; look-ups go on.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] if it was closed before; [`ErrorKind::Io`] if what was
    /// acknowledged could not be made durable.
    pub async fn close(&self) -> Result<()> {
        if self.shared.closed.swap(true, Ordering::AcqRel) {
            return Err(self.shared.closed_error());
        }
        let (ack, done) = oneshot::channel();
        self.send(Job::Close { ack })?;
        self.answer(done).await
    }

    /// The number of aliases, with those that have expired and are not dropped yet.
    pub fn len(&self) -> usize {
        self.shared.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of the log's header and records. While it is open, up to 64 KiB more are
    /// on disk, and another log while it is compacted.
    pub fn disk_bytes(&self) -> u64 {
        self.shared.disk_bytes.load(Ordering::Relaxed)
    }

    /// How many records of the log were passed over when it was opened, since they were
    /// damaged.
    pub fn damaged(&self) -> u64 {
        self.shared.damaged
    }

    async fn permit(&self, aliases: usize) -> Result<OwnedSemaphorePermit> {
        // At most MOST_AT_ONCE.
        let backlog = Arc::clone(&self.shared.backlog);
        let permit = backlog.acquire_many_owned(aliases as u32).await;
        permit.map_err(|_| self.shared.closed_error())
    }

    fn send(&self, job: Job) -> Result<()> {
        self.committer
            .send(job)
            .map_err(|_| self.shared.closed_error())
    }

    async fn answer<T>(&self, done: oneshot::Receiver<Result<T>>) -> Result<T> {
        done.await.map_err(|_| self.shared.closed_error())?
    }
}

/// Whether the alias has expired at this time.
fn is_past(alias: &Alias, now: u64) -> bool {
    alias.expires.is_some_and(|expires| expires <= now)
}

/// Seconds since 1970.
fn unix_seconds(clock: &dyn Clock) -> u64 {
    let since = clock.wall().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
