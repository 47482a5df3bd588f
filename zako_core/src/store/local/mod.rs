//! The store on local disk: small blobs in append-only segments, large ones in
//! files of their own, an index in memory. The layout on disk is in
//! [FORMAT.md](https://github.com/zako-dev/zako/blob/main/zako_core/src/store/FORMAT.md).

mod appender;
mod cas;
mod committer;
mod emptying;
mod eviction;
mod footer;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod index;
pub mod io;
mod janitor;
mod job;
mod large;
mod leases;
mod maintain;
mod meta;
mod opening;
mod options;
mod partial;
mod pool;
mod quarantine;
mod read;
mod record;
mod recover;
mod runs;
mod scan;
mod segment;
mod shared;
mod small_writer;
mod space;
mod staging;
mod steps;
mod tally;
mod upload;
mod verify;
mod waiting;
mod writer;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

pub use options::{Clock, Durability, StoreOptions, SystemClock, VerifyOnRead};
use parking_lot::Mutex;

use self::appender::Appender;
use self::committer::Committer;
use self::janitor::{Janitor, Request};
use self::job::Job;
use self::record::Stream;
use self::shared::{Scrubber, Shared, stopped};
use self::steps::blocking;
use crate::cas::{CasError, ErrorKind, Result};

/// A store in a folder of this machine. Cheap to clone; all clones are the same
/// store.
///
/// One process at a time has it open. It ends when it is [closed](Self::close) or
/// its last clone drops; killed instead, it loses nothing that was acknowledged.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// use zako_core::cas::CasExt;
/// use zako_core::store::{LocalStore, StoreOptions};
///
/// let folder = tempfile::tempdir()?;
/// let mut options = StoreOptions::default();
/// options.max_bytes = Some(64 << 20);
/// let store = LocalStore::open(folder.path(), options).await?;
/// let (digest, _) = store.put_bytes("hello").await?;
/// assert_eq!(store.fetch_bytes(&digest).await?, "hello");
/// store.close().await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct LocalStore {
    shared: Arc<Shared>,
    threads: Threads,
}

/// The ways to the store's threads, which end when the last of these drops.
#[derive(Clone, Debug)]
struct Threads {
    committer: Arc<Sender<Job>>,
    janitor: Arc<Sender<Request>>,
    /// Taken by the call that closes the store.
    running: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

/// As [`Threads`], without keeping them going.
#[derive(Clone, Debug)]
struct WeakThreads {
    committer: Weak<Sender<Job>>,
    janitor: Weak<Sender<Request>>,
    running: Weak<Mutex<Vec<JoinHandle<()>>>>,
}

impl LocalStore {
    /// Opens the store in a folder, or makes one there if the folder is absent or
    /// empty. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] if another process has it, [`ErrorKind::Format`] if the
    /// folder is something else or of another version, [`ErrorKind::Io`].
    pub async fn open(path: impl AsRef<Path>, options: StoreOptions) -> Result<Self> {
        let store = Self::open_in_background(path, options).await?;
        store.opened().await?;
        Ok(store)
    }

    /// As [`open`](Self::open), without waiting until the index is rebuilt: calls
    /// wait for that instead, and fail with its error if it fails. A server can
    /// listen at once.
    ///
    /// # Errors
    /// Those of [`open`](Self::open) that are known before the index is rebuilt.
    pub async fn open_in_background(path: impl AsRef<Path>, options: StoreOptions) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let shared = blocking(move || recover::prepare(&path, options)).await??;
        let (committer, jobs) = channel();
        let (janitor, requests) = channel();
        let threads = Threads {
            committer: Arc::new(committer),
            janitor: Arc::new(janitor),
            running: Arc::default(),
        };
        let inner = Arc::clone(&shared);
        let committer = spawn("zako-commit", &shared, move || {
            let contents = {
                let _unless_it_panics = inner.opening.guard();
                let contents = recover::contents(&inner);
                if let Err(error) = &contents {
                    inner.opening.finish(Err(error.clone()));
                }
                contents.map(|open| {
                    let appender =
                        |stream, active| Appender::new(Arc::clone(&inner), stream, active);
                    let appenders = (
                        appender(Stream::Probation, open.probation),
                        appender(Stream::Main, open.main),
                    );
                    inner.opening.finish(Ok(()));
                    appenders
                })
            };
            if let Ok((probation, main)) = contents {
                Committer::new(inner, jobs, probation, main).run();
            }
        })?;
        let work = Janitor::new(
            Arc::clone(&shared),
            requests,
            Arc::downgrade(&threads.committer),
        );
        let janitor = spawn("zako-janitor", &shared, move || work.run())?;
        threads.running.lock().extend([janitor, committer]);
        let store = Self { shared, threads };
        store.set_scrub_rate(store.shared.options.scrub_rate);
        Ok(store)
    }

    /// Re-hashes everything again and again at this rate, in bytes a second, or no more;
    /// from the beginning, whatever rate it was before. Needs a tokio runtime.
    pub fn set_scrub_rate(&self, rate: Option<u64>) {
        let scrubbing = rate.map(|rate| {
            let weak = WeakThreads {
                committer: Arc::downgrade(&self.threads.committer),
                janitor: Arc::downgrade(&self.threads.janitor),
                running: Arc::downgrade(&self.threads.running),
            };
            let scrub = verify::scrub(Arc::downgrade(&self.shared), weak, rate);
            let task = tokio::spawn(scrub).abort_handle();
            Scrubber { rate, task }
        });
        let before = std::mem::replace(&mut *self.shared.scrubber.lock(), scrubbing);
        if let Some(before) = before {
            before.task.abort();
        }
    }

    /// How fast everything is re-hashed, in bytes a second, if it is.
    pub fn scrub_rate(&self) -> Option<u64> {
        self.shared
            .scrubber
            .lock()
            .as_ref()
            .map(|scrubber| scrubber.rate)
    }

    /// Waits until a store that was [opened in the
    /// background](Self::open_in_background) has its index.
    ///
    /// # Errors
    /// Why it can't be rebuilt: the store is of no use then.
    pub async fn opened(&self) -> Result<()> {
        self.shared.opening.wait().await
    }

    /// How much of the index is rebuilt, from 0 to 1; `None` when it is whole or can't be.
    pub fn opening_share(&self) -> Option<f64> {
        self.shared.opening.share()
    }

    /// Ends the store cleanly, so that it opens fast: what is under way is
    /// finished, later calls fail with [`ErrorKind::Closed`].
    ///
    /// The folder's lock is given back when the last clone, blob and writer of
    /// this store is dropped, too.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] if the store was closed before.
    pub async fn close(&self) -> Result<()> {
        if self.shared.closed.swap(true, Ordering::AcqRel) {
            return Err(stopped());
        }
        // The janitor first: it waits for the committer's answers.
        let _ = self.threads.janitor.send(Request::Stop);
        let (committer, running) = (
            Arc::clone(&self.threads.committer),
            std::mem::take(&mut *self.threads.running.lock()),
        );
        blocking(move || {
            let mut running = running.into_iter();
            let janitor = running.next().map(JoinHandle::join);
            let _ = committer.send(Job::Close);
            let committer = running.next().map(JoinHandle::join);
            match (janitor, committer) {
                (Some(Ok(())), Some(Ok(()))) => Ok(()),
                _ => Err(CasError::new(
                    ErrorKind::Internal,
                    "a thread of the store had failed before it was closed",
                )),
            }
        })
        .await?
    }

    /// The folder of the store.
    pub fn path(&self) -> &Path {
        &self.shared.root
    }

    /// The most bytes that the store may take on disk.
    pub fn max_bytes(&self) -> u64 {
        self.shared.sizes.cap
    }
}

fn spawn(
    name: &str,
    shared: &Shared,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|error| CasError::io("starting a thread of the store", &shared.root, error))
}

/// The store, if anybody still has it.
fn upgrade(shared: &Weak<Shared>, threads: &WeakThreads) -> Option<LocalStore> {
    Some(LocalStore {
        shared: shared.upgrade()?,
        threads: Threads {
            committer: threads.committer.upgrade()?,
            janitor: threads.janitor.upgrade()?,
            running: threads.running.upgrade()?,
        },
    })
}
