//! The store on local disk: small blobs in append-only segments, large ones in
//! files of their own, an index in memory. The layout on disk is in
//! [FORMAT.md](https://github.com/zako-dev/zako/blob/main/zako_core/src/store/FORMAT.md).

mod appender;
mod committer;
mod eviction;
mod footer;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod index;
pub mod io;
mod janitor;
mod large;
mod leases;
mod meta;
mod options;
mod partial;
mod pool;
mod quarantine;
mod read;
mod record;
mod recover;
mod scan;
mod segment;
mod shared;
mod space;
mod verify;
mod writer;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
pub use options::{Clock, Durability, StoreOptions, SystemClock, VerifyOnRead};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use self::appender::Appender;
use self::committer::{Committer, Job};
use self::index::{MOST_BLOB, Place};
use self::janitor::{Janitor, Request};
use self::leases::MOST_LEASE_SECONDS;
use self::record::{HEADER_LEN, Stream};
use self::shared::{BACKLOG_KIB, Shared, record_footprint, stopped};
use self::space::Room;
use self::writer::{LargeWriter, SmallWriter, blocking};
use crate::cas::{
    Blob, BlobStat, BlobWriter, Cas, CasError, ErrorKind, GcReport, Lease, Location, Maintain,
    Result, Stored, Usage, VerifyReport, VerifyScope,
};
use crate::{BlobRange, Digest};

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
        let path = path.as_ref().to_owned();
        let recovered = blocking(move || recover::open(&path, options)).await??;
        let shared = recovered.shared;

        let (committer, jobs) = channel();
        let (janitor, requests) = channel();
        let threads = Threads {
            committer: Arc::new(committer),
            janitor: Arc::new(janitor),
            running: Arc::default(),
        };
        let appender = |stream, active| Appender::new(Arc::clone(&shared), stream, active);
        let work = Committer::new(
            Arc::clone(&shared),
            jobs,
            appender(Stream::Probation, recovered.probation),
            appender(Stream::Main, recovered.main),
        );
        let committer = spawn("zako-commit", &shared, move || work.run())?;
        let work = Janitor::new(
            Arc::clone(&shared),
            requests,
            Arc::downgrade(&threads.committer),
        );
        let janitor = spawn("zako-janitor", &shared, move || work.run())?;
        threads.running.lock().extend([janitor, committer]);
        if let Some(rate) = shared.options.scrub_rate {
            let weak = WeakThreads {
                committer: Arc::downgrade(&threads.committer),
                janitor: Arc::downgrade(&threads.janitor),
                running: Arc::downgrade(&threads.running),
            };
            tokio::spawn(verify::scrub(Arc::downgrade(&shared), weak, rate));
        }
        Ok(Self { shared, threads })
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

    /// Room for bytes of a new blob, made by eviction if need be.
    async fn make_room(&self, bytes: u64) -> Result<Room> {
        // Others may take what was freed for this one, so it tries more than once.
        const TRIES: usize = 8;
        let shared = &self.shared;
        for _ in 0..TRIES {
            if let Some(room) = shared.space.reserve(bytes, space::Purpose::Store) {
                return Ok(room);
            }
            if bytes > shared.space.cap() {
                break;
            }
            let (ack, freed) = oneshot::channel();
            let request = Request::Free { bytes, ack };
            if self.threads.janitor.send(request).is_err() || !freed.await.unwrap_or(false) {
                break;
            }
        }
        Err(shared.full(bytes))
    }

    /// Hands verified blobs to the committer.
    async fn commit(&self, blobs: Vec<(Digest, Bytes)>) -> Result<Vec<Result<Stored>>> {
        let footprint: u64 = blobs
            .iter()
            .map(|(digest, _)| record_footprint(digest))
            .sum();
        let kib = (footprint / 1024 + 1).min(BACKLOG_KIB as u64) as u32;
        let backlog = Arc::clone(&self.shared.backlog);
        let permit = backlog
            .acquire_many_owned(kib)
            .await
            .map_err(|_| stopped())?;
        let room = self.make_room(footprint).await?;
        let (ack, outcome) = oneshot::channel();
        self.threads
            .committer
            .send(Job::Put {
                blobs,
                room,
                permit,
                ack,
            })
            .map_err(|_| stopped())?;
        outcome.await.map_err(|_| stopped())
    }

    /// As [`commit`](Self::commit). When the file system is full although the cap
    /// is not reached, room is made and it is tried once more.
    async fn commit_evicting(&self, blobs: Vec<(Digest, Bytes)>) -> Result<Vec<Result<Stored>>> {
        let mut outcomes = self.commit(blobs.clone()).await?;
        let full: Vec<usize> = (0..outcomes.len())
            .filter(|&at| matches!(&outcomes[at], Err(error) if error.kind() == ErrorKind::NoSpace))
            .collect();
        if !full.is_empty() {
            let again = full.iter().map(|&at| blobs[at].clone()).collect();
            for (at, outcome) in full.into_iter().zip(self.commit(again).await?) {
                outcomes[at] = outcome;
            }
        }
        Ok(outcomes)
    }

    async fn put_large(&self, digest: &Digest, data: Bytes) -> Result<Stored> {
        let mut writer = match self.writer(digest, 0).await {
            Ok(writer) => writer,
            Err(error) if error.is_already_exists() => return Ok(Stored::Existing),
            Err(error) => return Err(error),
        };
        match writer.write(data).await {
            Ok(()) => writer.commit().await,
            Err(error) => {
                writer.discard().await?;
                Err(error)
            }
        }
    }

    /// Hides a damaged blob and keeps its bytes aside.
    async fn quarantine(&self, digest: &Digest, place: Place, data: Bytes) -> Result<()> {
        let (shared, name) = (Arc::clone(&self.shared), *digest);
        match place {
            Place::Record { .. } => {
                if !data.is_empty() {
                    blocking(move || shared.quarantine.keep(&name, &data)).await?;
                }
                self.bury(name, Some(place)).await?;
            }
            Place::File { number } => {
                blocking(move || shared.large.quarantine(&shared, &name, number)).await??;
            }
        }
        Ok(())
    }

    /// Removes a blob that lies in a record.
    async fn bury(&self, digest: Digest, only_at: Option<Place>) -> Result<bool> {
        let (ack, outcome) = oneshot::channel();
        let job = Job::Delete {
            digest,
            only_at,
            ack,
        };
        self.threads.committer.send(job).map_err(|_| stopped())?;
        outcome.await.map_err(|_| stopped())?
    }

    /// When a lease that is given now ends, in seconds of the store's clock; 0 for
    /// none. Rounded up to the minute, so that leasing a blob again and again
    /// changes nothing most of the time.
    fn lease_end(&self, lease: Lease, now: u32) -> u32 {
        let options = &self.shared.options;
        let length = match lease {
            Lease::None => return 0,
            Lease::Default => options.lease,
            Lease::For(length) => length,
        };
        if length.is_zero() {
            return 0;
        }
        let seconds = length
            .min(options.max_lease)
            .as_secs()
            .clamp(1, MOST_LEASE_SECONDS);
        // At most some days.
        now.saturating_add(seconds as u32)
            .checked_next_multiple_of(60)
            .unwrap_or(u32::MAX)
    }
}

#[async_trait]
impl Cas for LocalStore {
    async fn missing(&self, digests: &[Digest], lease: Lease) -> Result<Vec<Digest>> {
        self.shared.check_open()?;
        let now = self.shared.now();
        let until = self.lease_end(lease, now);
        let (index, ledger) = (&self.shared.index, &self.shared.ledger);
        Ok(digests
            .iter()
            .filter(|digest| !index.lease(digest, until, now, ledger))
            .copied()
            .collect())
    }

    async fn stat(&self, digest: &Digest) -> Result<BlobStat> {
        self.shared.check_open()?;
        let Some(found) = self.shared.index.find(digest) else {
            return Err(CasError::not_found(*digest));
        };
        let left = found.leased_until.saturating_sub(self.shared.now());
        let location = match found.place {
            Place::Record { .. } => Location::Segment,
            Place::File { .. } => Location::File,
        };
        let leased_for = Duration::from_secs(u64::from(left));
        Ok(BlobStat::new(*digest, leased_for, location))
    }

    async fn fetch(&self, digest: &Digest, range: BlobRange) -> Result<Blob> {
        self.shared.check_open()?;
        read::open(self, digest, range).await
    }

    async fn put(&self, digest: &Digest, data: Bytes) -> Result<Stored> {
        self.shared.check_open()?;
        if self.shared.index.contains(digest) {
            return Ok(Stored::Existing);
        }
        if digest.size() > self.shared.sizes.large_from {
            return self.put_large(digest, data).await;
        }
        check_bytes(digest, &data)?;
        let outcomes = self.commit_evicting(vec![(*digest, data)]).await?;
        outcomes
            .into_iter()
            .next()
            .unwrap_or_else(|| Err(stopped()))
    }

    async fn writer(&self, digest: &Digest, offset: u64) -> Result<Box<dyn BlobWriter>> {
        self.shared.check_open()?;
        if self.shared.index.contains(digest) {
            return Err(CasError::already_exists(*digest));
        }
        if digest.size() > self.shared.sizes.large_from {
            if digest.size() > self.shared.space.cap().min(MOST_BLOB) {
                return Err(self.shared.full(digest.size()).with_digest(*digest));
            }
            return Ok(Box::new(LargeWriter::open(self, digest, offset).await?));
        }
        if offset > 0 {
            return Err(CasError::not_held(*digest, offset, 0));
        }
        Ok(Box::new(SmallWriter::new(self.clone(), *digest)))
    }

    async fn held(&self, digest: &Digest) -> Result<u64> {
        self.shared.check_open()?;
        if self.shared.index.contains(digest) {
            return Ok(digest.size());
        }
        Ok(self.shared.partials.held(digest))
    }

    async fn delete(&self, digest: &Digest) -> Result<bool> {
        self.shared.check_open()?;
        match self.shared.index.find(digest).map(|found| found.place) {
            None => Ok(false),
            Some(Place::Record { .. }) => self.bury(*digest, None).await,
            Some(Place::File { .. }) => {
                let (shared, digest) = (Arc::clone(&self.shared), *digest);
                let durable = shared.options.durability == Durability::Immediate;
                blocking(move || {
                    shared.large.remove(&shared, &digest, durable, || {
                        let now = shared.now();
                        shared.index.remove(&digest, now, &shared.ledger).is_some()
                    })
                })
                .await?
            }
        }
    }

    async fn put_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<Stored>> {
        let mut outcomes: Vec<Result<Stored>> = Vec::with_capacity(blobs.len());
        let (mut small, mut places) = (Vec::with_capacity(blobs.len()), Vec::new());
        for (digest, data) in blobs {
            let is_small = digest.size() <= self.shared.sizes.large_from;
            if !is_small || self.shared.index.contains(&digest) {
                outcomes.push(self.put(&digest, data).await);
                continue;
            }
            match check_bytes(&digest, &data).and_then(|()| self.shared.check_open()) {
                Err(error) => outcomes.push(Err(error)),
                Ok(()) => {
                    places.push(outcomes.len());
                    outcomes.push(Ok(Stored::New));
                    small.push((digest, data));
                }
            }
        }
        if small.is_empty() {
            return outcomes;
        }
        let stored = self.commit_evicting(small).await;
        for (at, place) in places.into_iter().enumerate() {
            outcomes[place] = match &stored {
                Ok(stored) => stored[at].clone(),
                Err(error) => Err(error.clone()),
            };
        }
        outcomes
    }
}

#[async_trait]
impl Maintain for LocalStore {
    async fn usage(&self) -> Result<Usage> {
        let shared = &self.shared;
        let (index, segments) = (&shared.index, shared.segments.all());
        let dead = segments
            .iter()
            .map(|segment| {
                segment
                    .length()
                    .saturating_sub(segment.live() + HEADER_LEN as u64)
            })
            .sum();
        Ok(Usage {
            blobs: index.blobs(),
            blob_bytes: index.bytes(),
            disk_bytes: shared.space.used(),
            disk_cap_bytes: shared.space.cap(),
            reclaimable_bytes: dead,
            leased_bytes: shared.ledger.leased(shared.now()),
            partial_bytes: shared.partials.bytes(),
            quarantined_blobs: shared.quarantine.files(),
            durability: shared.options.durability.as_str(),
        })
    }

    async fn verify(
        &self,
        scope: VerifyScope,
        progress: mpsc::Sender<VerifyReport>,
    ) -> Result<VerifyReport> {
        self.shared.check_open()?;
        verify::verify(self, scope, None, &progress).await
    }

    async fn collect_garbage(&self) -> Result<GcReport> {
        self.shared.check_open()?;
        let (ack, report) = oneshot::channel();
        self.threads
            .janitor
            .send(Request::Collect { ack })
            .map_err(|_| stopped())?;
        report.await.map_err(|_| stopped())?
    }
}

fn check_bytes(digest: &Digest, data: &Bytes) -> Result<()> {
    let actual = zako_digest::hash::bytes(data);
    if actual == *digest {
        Ok(())
    } else {
        Err(CasError::mismatch(*digest, actual))
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
