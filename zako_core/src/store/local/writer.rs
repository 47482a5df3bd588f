//! Storing a large blob step by step: hashed and written as it comes.
//!
//! A step is collected, then hashed and written by a blocking thread while the
//! next one is collected. No thread waits for a slow client.

use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::task::JoinHandle;
use zako_digest::hash::Hasher;

use super::LocalStore;
use super::io::{BackendFile, read_exact_at, write_all_at};
use super::large::disk_bytes;
use super::partial::Parked;
use super::shared::Shared;
use super::space::Room;
use crate::Digest;
use crate::cas::{BlobWriter, CasError, ErrorKind, Result, Stored};

/// Bytes that are hashed and written at once.
const STEP: usize = 512 << 10;

/// Smaller pieces are copied together.
const COPY_BELOW: usize = 64 << 10;

/// Room is reserved in pieces, so that an upload that never comes reserves little.
const ROOM_STEP: u64 = 8 << 20;

/// After so many bytes the system is asked to begin writing them to disk, so that
/// the sync at the end finds little left to do.
const WRITEBACK_STEP: u64 = 8 << 20;

/// A [`BlobWriter`] of a large blob.
pub(super) struct LargeWriter {
    store: LocalStore,
    digest: Digest,
    /// Collected for the next step.
    pending: Vec<Bytes>,
    pending_bytes: usize,
    /// Small pieces behind those, copied together.
    tail: BytesMut,
    held: u64,
    /// The file system was full once, and room was made.
    relieved: bool,
    state: State,
}

enum State {
    Idle(Box<Upload>),
    /// Gives the bytes back that it could not write.
    Busy(JoinHandle<(Box<Upload>, Vec<Bytes>, Result<()>)>),
    /// A step failed; what was written before it is still worth keeping.
    Failed(Option<Box<Upload>>, CasError),
}

/// The file of an upload. Its drop parks it, whichever thread that happens on.
struct Upload {
    shared: Arc<Shared>,
    digest: Digest,
    path: PathBuf,
    file: Arc<dyn BackendFile>,
    hasher: Hasher,
    length: u64,
    /// The end of what is preallocated.
    allocated: u64,
    room: Room,
    /// Whether bytes of an earlier upload were taken over.
    resumed: bool,
    /// Nobody will resume it: its drop discards it.
    discarding: bool,
    finished: bool,
}

impl LargeWriter {
    /// A writer whose next byte is the one at `offset`.
    pub(super) async fn open(store: &LocalStore, digest: &Digest, offset: u64) -> Result<Self> {
        let room = Room::empty(&store.shared.space);
        let (shared, digest) = (Arc::clone(&store.shared), *digest);
        let upload = blocking(move || Upload::open(shared, digest, offset, room)).await??;
        Ok(Self {
            store: store.clone(),
            digest,
            pending: Vec::new(),
            pending_bytes: 0,
            tail: BytesMut::new(),
            held: upload.length,
            relieved: false,
            state: State::Idle(Box::new(upload)),
        })
    }

    /// As this, for bytes that nobody will resume to send.
    pub(super) fn discarding(mut self) -> Self {
        if let State::Idle(upload) = &mut self.state {
            upload.discarding = true;
        }
        self
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
                    State::Idle(upload)
                }
                Ok((upload, _, Err(error))) => State::Failed(Some(upload), error),
                Err(_) => State::Failed(None, panicked()),
            };
        }
        match &self.state {
            State::Failed(_, error) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Begins to write what is collected.
    async fn flush(&mut self) -> Result<()> {
        self.settle().await?;
        self.pending.extend(take_tail(&mut self.tail));
        if self.pending.is_empty() {
            return Ok(());
        }
        let State::Idle(upload) = &mut self.state else {
            return Ok(());
        };
        let bytes = self.pending_bytes as u64;
        let squeezed = self.relieved && !self.store.shared.space.has_room(0);
        if upload.room.left() < bytes || squeezed {
            let rest = self.digest.size() - upload.length;
            let more = bytes.max(ROOM_STEP.min(rest));
            match self.store.make_room(more).await {
                Ok(more) => upload.room.join(more),
                Err(error) => return Err(self.fail(error.with_digest(self.digest))),
            }
        }
        self.spawn_step();
        Ok(())
    }

    /// No await lies between taking the upload out and putting the step in, so a
    /// dropped future can't lose it.
    fn spawn_step(&mut self) {
        let (pending, bytes) = (std::mem::take(&mut self.pending), self.pending_bytes);
        self.pending_bytes = 0;
        let failed = State::Failed(None, panicked());
        self.state = match std::mem::replace(&mut self.state, failed) {
            State::Idle(mut upload) => State::Busy(tokio::task::spawn_blocking(move || {
                let written = upload.write(&pending, bytes as u64);
                (upload, pending, written)
            })),
            other => other,
        };
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
            State::Idle(upload) => (Some(upload), outcome),
            State::Failed(upload, _) => (upload, outcome),
            State::Busy(_) => (None, outcome),
        }
    }
}

#[async_trait]
impl BlobWriter for LargeWriter {
    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn held(&self) -> u64 {
        self.held
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        if let State::Failed(_, error) = &self.state {
            return Err(error.clone());
        }
        let length = data.len() as u64;
        if length > self.digest.size() - self.held {
            return Err(CasError::new(
                ErrorKind::Mismatch,
                format!(
                    "more bytes than the blob's {} were given",
                    self.digest.size()
                ),
            )
            .with_digest(self.digest));
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
        if self.pending_bytes >= STEP {
            self.flush().await?;
        }
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<Stored> {
        let digest = self.digest;
        let store = self.store.clone();
        let (upload, outcome) = self.into_upload().await;
        outcome?;
        let mut upload = upload.ok_or_else(panicked)?;
        let rounding = disk_bytes(digest.size()) - digest.size();
        if upload.room.left() < rounding {
            upload.room.join(store.make_room(rounding).await?);
        }
        blocking(move || upload.finish()).await?
    }

    async fn park(self: Box<Self>) -> Result<u64> {
        let (upload, _) = self.into_upload().await;
        let Some(upload) = upload else {
            return Ok(0);
        };
        let length = upload.length;
        // Its drop parks it, which may remove a file.
        blocking(move || drop(upload)).await?;
        Ok(length)
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        let (upload, _) = self.into_upload().await;
        if let Some(mut upload) = upload {
            blocking(move || upload.discard()).await?;
        }
        Ok(())
    }
}

impl Upload {
    fn open(shared: Arc<Shared>, digest: Digest, offset: u64, room: Room) -> Result<Self> {
        if offset == 0 {
            let (path, file) = shared.partials.create(&digest)?;
            return Ok(Self {
                shared,
                digest,
                path,
                file,
                hasher: Hasher::new(),
                length: 0,
                allocated: 0,
                room,
                resumed: false,
                discarding: false,
                finished: false,
            });
        }
        let Some(parked) = shared.partials.claim(&digest) else {
            return Err(CasError::not_held(digest, offset, 0));
        };
        if parked.length < offset {
            let held = parked.length;
            shared.partials.park(digest, parked);
            return Err(CasError::not_held(digest, offset, held));
        }
        let file = match shared.partials.open(&parked) {
            Ok(file) => file,
            Err(error) => {
                shared.partials.discard(&parked);
                return Err(error.with_digest(digest));
            }
        };
        let Parked {
            path,
            length,
            hasher,
            ..
        } = parked;
        let mut upload = Self {
            shared,
            digest,
            path,
            file,
            hasher: Hasher::new(),
            length,
            allocated: 0,
            room,
            resumed: true,
            discarding: false,
            finished: false,
        };
        upload.cut(offset)?;
        match hasher {
            Some(hasher) if hasher.count() == offset => upload.hasher = *hasher,
            _ => upload.hash_again()?,
        }
        Ok(upload)
    }

    /// Drops what is behind `offset`: the client sends it again.
    fn cut(&mut self, offset: u64) -> Result<()> {
        let more = self.length - offset;
        if more > 0 {
            let wrap = |error| CasError::io("cutting an upload", &self.path, error);
            self.file.set_len(offset).map_err(wrap)?;
            self.length = offset;
            self.allocated = 0;
            self.shared.partials.uncount(more);
            self.shared.space.free(more);
        }
        Ok(())
    }

    fn hash_again(&mut self) -> Result<()> {
        let mut buffer = self.shared.pool.take(super::pool::STEP);
        let mut at = 0;
        while at < self.length {
            let step = (self.length - at).min(buffer.len() as u64) as usize;
            read_exact_at(&*self.file, &mut buffer[..step], at)
                .map_err(|error| CasError::io("resuming an upload", &self.path, error))?;
            self.hasher.update(&buffer[..step]);
            at += step as u64;
        }
        Ok(())
    }

    fn write(&mut self, data: &[Bytes], bytes: u64) -> Result<()> {
        self.preallocate(bytes);
        let mut slices: Vec<IoSlice<'_>> = data.iter().map(|data| IoSlice::new(data)).collect();
        if let Err(error) = write_all_at(&*self.file, &mut slices, self.length) {
            let error = CasError::io("writing an upload", &self.path, error);
            self.shared.note_full(&error);
            // What a short write left behind the end must not be taken for held.
            let _ = self.file.set_len(self.length);
            self.allocated = 0;
            return Err(error.with_digest(self.digest));
        }
        for data in data {
            self.hasher.update(data);
        }
        self.room.take(bytes);
        self.shared.partials.count_written(bytes);
        let before = self.length;
        self.length += bytes;
        let (from, to) = (before / WRITEBACK_STEP, self.length / WRITEBACK_STEP);
        if from != to {
            let from = from * WRITEBACK_STEP;
            self.file.start_writeback(from, to * WRITEBACK_STEP - from);
        }
        Ok(())
    }

    /// Takes disk for the next bytes and more behind them: the pages that are written
    /// then need no room set aside one by one.
    fn preallocate(&mut self, bytes: u64) {
        let end = self.length + bytes;
        // A writer is given no more bytes than the blob has.
        let rest = self.digest.size().saturating_sub(self.length);
        // For a short rest the call costs as much as it saves.
        if end > self.allocated && rest > ROOM_STEP / 8 {
            let step = ROOM_STEP.max(bytes).min(rest);
            let taken = self.file.preallocate(self.length, step);
            // Where it can't be done, or a disk is full, it isn't asked for at each step.
            self.allocated = match taken {
                true => self.length + step,
                false => end + ROOM_STEP,
            };
        }
    }

    /// Checks the blob, makes it durable, and publishes it.
    fn finish(&mut self) -> Result<Stored> {
        if self.length != self.digest.size() {
            let text = format!("only {} of the blob's bytes were given", self.length);
            self.discard();
            return Err(CasError::new(ErrorKind::Mismatch, text).with_digest(self.digest));
        }
        let actual = self.hasher.finish();
        if actual != self.digest {
            let resumed = self.resumed;
            self.discard();
            return Err(if resumed {
                CasError::new(
                    ErrorKind::Stale,
                    "the resumed upload doesn't have the blob's hash; it was dropped",
                )
                .with_digest(self.digest)
            } else {
                CasError::mismatch(self.digest, actual)
            });
        }
        // In every durability: the name alone, without the bytes, would be believed
        // when the store opens.
        if let Err(error) = self.file.sync_data() {
            // After a failed sync nobody knows what is on disk.
            let error = CasError::io("syncing an upload", &self.path, error);
            self.discard();
            return Err(error.with_digest(self.digest));
        }
        let shared = Arc::clone(&self.shared);
        let stored = shared.large.adopt(&shared, &self.digest, &self.path)?;
        match stored {
            Stored::New => {
                self.finished = true;
                self.room.take(disk_bytes(self.length) - self.length);
                shared.partials.uncount(self.length);
            }
            Stored::Existing => self.discard(),
        }
        shared.partials.discard_of(&self.digest);
        Ok(stored)
    }

    fn discard(&mut self) {
        if !std::mem::replace(&mut self.finished, true) {
            let parked = self.parked();
            self.shared.partials.discard(&parked);
        }
    }

    fn parked(&mut self) -> Parked {
        Parked {
            path: std::mem::take(&mut self.path),
            length: self.length,
            since: self.shared.options.clock.wall(),
            hasher: Some(Box::new(std::mem::take(&mut self.hasher))),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.discarding {
            self.discard();
        } else if !self.finished {
            if let Err(error) = self.file.trim() {
                tracing::debug!(%error, "a parked upload keeps room that it doesn't need");
            }
            let parked = self.parked();
            self.shared.partials.park(self.digest, parked);
        }
    }
}

fn take_tail(tail: &mut BytesMut) -> Option<Bytes> {
    (!tail.is_empty()).then(|| tail.split().freeze())
}

/// Runs file I/O on a thread that may wait for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| panicked())
}

fn panicked() -> CasError {
    CasError::new(
        ErrorKind::Internal,
        "a thread of the store ended in the middle of its work",
    )
}
