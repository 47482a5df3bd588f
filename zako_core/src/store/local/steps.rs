//! Writing an upload to its file step by step.
//!
//! A step is collected, then hashed and written by a blocking thread while the
//! next one is collected; another shows it to the witness, which may be slower than
//! both. No thread waits for a slow client.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes, BytesMut};
use tokio::task::JoinHandle;

use super::LocalStore;
use super::large::disk_bytes;
use super::upload::{ROOM_STEP, Upload};
use crate::cas::{CasError, ErrorKind, Result, Witness};
use crate::observe::trace;
use crate::store::upload_name::UploadName;

/// Bytes that are hashed and written at once.
const STEP: usize = 512 << 10;

/// Smaller pieces are copied together.
const COPY_BELOW: usize = 64 << 10;

/// What all uploads of a store may hold for their next steps, in bytes. Beyond it a step is
/// what was given at once, however short: many uploads that stand still hold nothing.
const MOST_HELD: u64 = 128 << 20;

/// An upload and what is collected for it.
pub(super) struct Steps {
    store: LocalStore,
    name: UploadName,
    /// The most bytes that it may have.
    most: u64,
    /// Collected for the next step.
    pending: Vec<Bytes>,
    pending_bytes: usize,
    held_memory: Held,
    /// Small pieces behind those, copied together.
    tail: BytesMut,
    held: u64,
    /// The file system was full once, and room was made.
    relieved: bool,
    state: State,
    watch: Watch,
    /// How many bytes the witness saw: more than are written, when a step has to be
    /// written again.
    seen: u64,
}

/// The memory that an upload holds for a step, counted together with that of all uploads.
struct Held {
    bytes: u64,
    all: Arc<AtomicU64>,
}

/// The witness of an upload; none for most.
enum Watch {
    Idle(Option<Box<dyn Witness>>),
    Busy(JoinHandle<Box<dyn Witness>>),
    Lost,
}

enum State {
    Idle(Box<Upload>),
    /// Gives the bytes back that it could not write.
    Busy(JoinHandle<(Box<Upload>, Vec<Bytes>, Result<()>)>),
    /// A step failed; what was written before it is still worth keeping.
    Failed(Option<Box<Upload>>, CasError),
}

impl Steps {
    pub(super) fn new(store: LocalStore, mut upload: Upload) -> Self {
        Self {
            watch: Watch::Idle(upload.witness.take()),
            seen: upload.length(),
            held_memory: Held::none(&store.shared.held_for_steps),
            pending_bytes: 0,
            store,
            name: upload.name(),
            most: upload.most(),
            pending: Vec::new(),
            tail: BytesMut::new(),
            held: upload.length(),
            relieved: false,
            state: State::Idle(Box::new(upload)),
        }
    }

    pub(super) fn held(&self) -> u64 {
        self.held
    }

    pub(super) async fn write(&mut self, data: Bytes) -> Result<()> {
        self.collect(data)?;
        if self.pending_bytes >= STEP || self.held_memory.is_short() {
            self.flush().await?;
        }
        Ok(())
    }

    /// Takes the next bytes, which a later write writes.
    pub(super) fn collect(&mut self, data: Bytes) -> Result<()> {
        if let State::Failed(_, error) = &self.state {
            return Err(error.clone());
        }
        let length = data.len() as u64;
        if length > self.most.saturating_sub(self.held) {
            return Err(self.name.too_long(self.most));
        }
        self.held += length;
        self.pending_bytes += data.len();
        if data.len() >= COPY_BELOW {
            self.pending.extend(take_tail(&mut self.tail));
            self.pending.push(data);
        } else {
            // A small piece may be all that keeps a large receive buffer alive.
            self.tail.extend_from_slice(&data);
        }
        self.count();
        Ok(())
    }

    /// Counts the memory of what is collected.
    fn count(&mut self) {
        let pieces: usize = self.pending.iter().map(Bytes::len).sum();
        let bytes = pieces + self.tail.capacity();
        self.held_memory.set(bytes as u64);
    }

    /// The upload with all bytes written, and room for what its file takes more.
    pub(super) async fn complete(self) -> Result<Box<Upload>> {
        let store = self.store.clone();
        let (upload, outcome) = self.into_upload().await;
        outcome?;
        let mut upload = upload.ok_or_else(panicked)?;
        let rounding = disk_bytes(upload.length()) - upload.length();
        if upload.room().left() < rounding {
            let more = store.make_room(rounding).await?;
            upload.room().join(more);
        }
        Ok(upload)
    }

    pub(super) async fn park(self) -> Result<u64> {
        let (upload, _) = self.into_upload().await;
        let Some(upload) = upload else {
            return Ok(0);
        };
        let length = upload.length();
        // Its drop parks it, which may remove a file.
        blocking(move || drop(upload)).await?;
        Ok(length)
    }

    pub(super) async fn discard(self) -> Result<()> {
        let (upload, _) = self.into_upload().await;
        if let Some(mut upload) = upload {
            blocking(move || upload.discard()).await?;
        }
        Ok(())
    }

    /// Waits for the step under way.
    async fn settle(&mut self) -> Result<()> {
        if let State::Busy(step) = &mut self.state {
            // Cancelled here, the next call waits again.
            self.state = match step.await {
                Ok((upload, _, Ok(()))) => State::Idle(upload),
                // Eviction may relieve a full file system, once.
                Ok((upload, unwritten, Err(error)))
                    if error.kind() == ErrorKind::NoSpace && !self.relieved =>
                {
                    self.relieved = true;
                    self.pending_bytes += unwritten.iter().map(Bytes::len).sum::<usize>();
                    self.pending.splice(0..0, unwritten);
                    self.count();
                    State::Idle(upload)
                }
                Ok((upload, _, Err(error))) => State::Failed(Some(upload), error),
                Err(_) => State::Failed(None, panicked()),
            };
        }
        if let Watch::Busy(showing) = &mut self.watch {
            self.watch = match showing.await {
                Ok(witness) => Watch::Idle(Some(witness)),
                Err(_) => Watch::Lost,
            };
        }
        match (&self.state, &self.watch) {
            (State::Failed(_, error), _) => Err(error.clone()),
            (_, Watch::Lost) => Err(self.fail(panicked())),
            _ => Ok(()),
        }
    }

    /// Begins to write what is collected.
    async fn flush(&mut self) -> Result<()> {
        self.settle().await?;
        self.pending.extend(take_tail(&mut self.tail));
        if self.held_memory.is_short() {
            // What is left of its buffer goes with the last bytes in it.
            self.tail = BytesMut::new();
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        let State::Idle(upload) = &mut self.state else {
            return Ok(());
        };
        let bytes = self.pending_bytes as u64;
        let squeezed = self.relieved && !self.store.shared.space.has_room(0);
        if upload.room().left() < bytes || squeezed {
            let rest = self.most - upload.length();
            let more = bytes.max(ROOM_STEP.min(rest));
            match self.store.make_room(more).await {
                Ok(more) => upload.room().join(more),
                Err(error) => return Err(self.fail(self.name.mark(error))),
            }
        }
        self.spawn_step();
        Ok(())
    }

    /// No await lies between taking the upload out and putting the step in, so a
    /// dropped future can't lose it.
    fn spawn_step(&mut self) {
        let mut pending = std::mem::take(&mut self.pending);
        let bytes = std::mem::take(&mut self.pending_bytes) as u64;
        let held = self.held_memory.take();
        self.show(&pending);
        let failed = State::Failed(None, panicked());
        self.state = match std::mem::replace(&mut self.state, failed) {
            State::Idle(mut upload) => State::Busy(spawn(move || {
                let written = upload.write(&pending, bytes);
                if written.is_ok() {
                    // Nobody may ask for the outcome for long.
                    pending = Vec::new();
                }
                drop(held);
                (upload, pending, written)
            })),
            other => other,
        };
    }

    /// Begins to show the witness a step.
    fn show(&mut self, step: &[Bytes]) {
        let (Watch::Idle(witness @ Some(_)), State::Idle(upload)) = (&mut self.watch, &self.state)
        else {
            return;
        };
        let mut seen = self.seen - upload.length();
        let mut step = step.to_vec();
        step.retain_mut(|data| {
            let skip = seen.min(data.len() as u64);
            seen -= skip;
            data.advance(skip as usize);
            !data.is_empty()
        });
        self.seen += step.iter().map(|data| data.len() as u64).sum::<u64>();
        if let Some(mut witness) = witness.take() {
            self.watch = Watch::Busy(spawn(move || {
                step.iter().for_each(|data| witness.update(data));
                witness
            }));
        }
    }

    fn fail(&mut self, error: CasError) -> CasError {
        let failed = State::Failed(None, error.clone());
        if let State::Idle(upload) = std::mem::replace(&mut self.state, failed) {
            self.state = State::Failed(Some(upload), error.clone());
        }
        error
    }

    /// The upload, once nothing is under way.
    async fn into_upload(mut self) -> (Option<Box<Upload>>, Result<()>) {
        let outcome = loop {
            if let Err(error) = self.flush().await {
                break Err(error);
            }
            if let Err(error) = self.settle().await {
                break Err(error);
            }
            // A step that has to be tried again is pending again.
            if self.pending.is_empty() && self.tail.is_empty() {
                break Ok(());
            }
        };
        match self.state {
            State::Idle(mut upload) => {
                if let Watch::Idle(witness) = self.watch {
                    upload.witness = witness;
                }
                (Some(upload), outcome)
            }
            State::Failed(upload, _) => (upload, outcome),
            State::Busy(_) => (None, outcome),
        }
    }
}

impl Held {
    fn none(all: &Arc<AtomicU64>) -> Self {
        let all = Arc::clone(all);
        Self { bytes: 0, all }
    }

    /// From now on so much.
    fn set(&mut self, bytes: u64) {
        // Wraps around where it is less than before, and so does the sum.
        let more = bytes.wrapping_sub(self.bytes);
        self.all.fetch_add(more, Ordering::Relaxed);
        self.bytes = bytes;
    }

    /// All of it, and nothing in its place.
    fn take(&mut self) -> Self {
        let none = Self::none(&self.all);
        std::mem::replace(self, none)
    }

    /// Whether uploads hold as much as they may.
    fn is_short(&self) -> bool {
        self.all.load(Ordering::Relaxed) > MOST_HELD
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn take_tail(tail: &mut BytesMut) -> Option<Bytes> {
    (!tail.is_empty()).then(|| tail.split().freeze())
}

/// Runs file I/O on a thread that may wait for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    spawn(work).await.map_err(|_| panicked())
}

/// Work of [`blocking`] and the like that is not done.
static JOBS: AtomicU64 = AtomicU64::new(0);

/// How much work waits for a thread or runs on one.
pub(super) fn jobs() -> u64 {
    JOBS.load(Ordering::Relaxed)
}

fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    /// Counts down also when the work panics or is never begun.
    struct Job;
    impl Drop for Job {
        fn drop(&mut self) {
            JOBS.fetch_sub(1, Ordering::Relaxed);
        }
    }
    JOBS.fetch_add(1, Ordering::Relaxed);
    let job = Job;
    let span = trace::current();
    tokio::task::spawn_blocking(move || {
        let _job = job;
        span.in_scope(work)
    })
}

fn panicked() -> CasError {
    CasError::new(
        ErrorKind::Internal,
        "a thread of the store ended in the middle of its work",
    )
}
