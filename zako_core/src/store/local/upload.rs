//! The file of an upload under way: hashed as it is written, adopted as a blob or
//! parked in the end.

use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use zako_digest::hash::Hasher;

use super::io::{BackendFile, read_exact_at, write_all_at};
use super::large::disk_bytes;
use super::partial::{Parked, Ticket};
use super::shared::Shared;
use super::space::Room;
use crate::Digest;
use crate::cas::{CasError, ErrorKind, Result, StagedSize, Stored, UploadKey, Witness};
use crate::observe::Synced;
use crate::observe::trace::{self, Parts};
use crate::store::upload_name::UploadName;

/// Room is reserved in pieces, so that an upload that never comes reserves little.
pub(super) const ROOM_STEP: u64 = 8 << 20;

/// After so many bytes the system is asked to begin writing them to disk, so that
/// the sync at the end finds little left to do.
const WRITEBACK_STEP: u64 = 8 << 20;

/// Its drop parks it, whichever thread that happens on.
pub(super) struct Upload {
    shared: Arc<Shared>,
    name: UploadName,
    /// There until it drops.
    ticket: Option<Ticket>,
    /// The most bytes that it may have.
    most: u64,
    path: PathBuf,
    file: Arc<dyn BackendFile>,
    hasher: Hasher,
    /// Its bytes were found to be the blob's before they were written, and are not
    /// hashed.
    known: bool,
    /// Of a staged upload.
    pub(super) witness: Option<Box<dyn Witness>>,
    length: u64,
    /// The end of what is preallocated.
    allocated: u64,
    room: Room,
    /// Whether bytes of an earlier upload were taken over.
    resumed: bool,
    /// Found when the store opened, and not looked at since.
    recovered: bool,
    /// Nobody will resume it: its drop discards it.
    discarding: bool,
    finished: bool,
    writing: Parts,
    hashing: Parts,
}

/// What became of a staged upload.
pub(super) enum Ended {
    /// It is a blob with a file of its own, or existed.
    Stored(Digest, Stored),
    /// It fits in a record, for which these are the bytes. Nothing is left of it.
    Small(Digest, Bytes),
}

impl Upload {
    /// An upload of a blob.
    pub(super) fn open(shared: Arc<Shared>, digest: Digest, offset: u64) -> Result<Self> {
        if offset == 0 {
            return Self::begin(shared, digest.into(), digest.size());
        }
        let parked = Self::claim(&shared, &digest.into(), digest.size(), offset)?;
        let (mut upload, hasher) = Self::resume(shared, digest.into(), digest.size(), parked)?;
        upload.cut(offset)?;
        match hasher {
            Some(hasher) if hasher.count() == offset => upload.hasher = *hasher,
            _ => upload.hash_again()?,
        }
        Ok(upload)
    }

    /// An upload of a blob whose digest is not known.
    pub(super) fn stage(shared: Arc<Shared>, key: UploadKey, most: u64) -> Result<Self> {
        Self::begin(shared, key.into(), most)
    }

    /// As [`stage`](Self::stage), behind `offset` bytes of an interrupted one.
    pub(super) fn stage_from(
        shared: Arc<Shared>,
        key: UploadKey,
        most: u64,
        offset: u64,
        witness: Box<dyn Witness>,
    ) -> Result<Self> {
        let name = UploadName::from(key);
        let parked = Self::claim(&shared, &name, most, offset)?;
        let (mut upload, _) = Self::resume(shared, name, most, parked)?;
        if upload.recovered && upload.is_a_blob()? {
            upload.discard();
            return Err(name.not_held(offset, 0));
        }
        upload.recovered = false;
        upload.cut(offset)?;
        upload.witness = Some(witness);
        upload.hash_again()?;
        Ok(upload)
    }

    /// As this, with somebody who sees the bytes to come.
    pub(super) fn watched(mut self, witness: Box<dyn Witness>) -> Self {
        self.witness = Some(witness);
        self
    }

    /// An upload of bytes that nobody will resume to send, and that aren't hashed if
    /// they are `known` to be the blob's.
    pub(super) fn of_memory(shared: Arc<Shared>, digest: Digest, known: bool) -> Result<Self> {
        let mut upload = Self::open(shared, digest, 0)?;
        upload.discarding = true;
        upload.known = known;
        Ok(upload)
    }

    pub(super) fn name(&self) -> UploadName {
        self.name
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn most(&self) -> u64 {
        self.most
    }

    /// Room for the bytes to come.
    pub(super) fn room(&mut self) -> &mut Room {
        &mut self.room
    }

    fn begin(shared: Arc<Shared>, name: UploadName, most: u64) -> Result<Self> {
        let (path, file) = shared.partials.create(&name)?;
        Ok(Self::new(shared, name, most, path, file))
    }

    fn claim(shared: &Shared, name: &UploadName, most: u64, offset: u64) -> Result<Parked> {
        let Some(parked) = shared.partials.claim(name) else {
            return Err(name.not_held(offset, 0));
        };
        let held = parked.length.min(most);
        if held < offset {
            shared.partials.keep(*name, parked);
            return Err(name.not_held(offset, held));
        }
        Ok(parked)
    }

    fn resume(
        shared: Arc<Shared>,
        name: UploadName,
        most: u64,
        parked: Parked,
    ) -> Result<(Self, Option<Box<Hasher>>)> {
        let file = match shared.partials.open(&parked) {
            Ok(file) => file,
            Err(error) => {
                shared.partials.discard(&parked);
                return Err(name.mark(error));
            }
        };
        let mut upload = Self::new(shared, name, most, parked.path, file);
        upload.length = parked.length;
        upload.resumed = true;
        upload.recovered = parked.recovered;
        Ok((upload, parked.hasher))
    }

    fn new(
        shared: Arc<Shared>,
        name: UploadName,
        most: u64,
        path: PathBuf,
        file: Arc<dyn BackendFile>,
    ) -> Self {
        Self {
            room: Room::empty(&shared.space),
            ticket: Some(shared.partials.enter(name)),
            shared,
            name,
            most,
            path,
            file,
            hasher: Hasher::new(),
            known: false,
            witness: None,
            length: 0,
            allocated: 0,
            resumed: false,
            recovered: false,
            discarding: false,
            finished: false,
            writing: Parts::default(),
            hashing: Parts::default(),
        }
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

    /// Whether the file, as it is, is a blob of the store: after a loss of power it
    /// may be the blob's own, under its former name, and must not be written to. For
    /// an upload with a digest the store finds out when it opens.
    fn is_a_blob(&self) -> Result<bool> {
        let mut hasher = Hasher::new();
        self.read(|data| {
            hasher.update(data);
        })?;
        Ok(self.shared.index.contains(&hasher.finish()))
    }

    fn hash_again(&mut self) -> Result<()> {
        let (mut hasher, mut witness) = (Hasher::new(), self.witness.take());
        let read = self.read(|data| {
            hasher.update(data);
            if let Some(witness) = &mut witness {
                witness.update(data);
            }
        });
        self.witness = witness;
        self.hasher = hasher;
        read
    }

    /// Shows all bytes, in order.
    fn read(&self, mut show: impl FnMut(&[u8])) -> Result<()> {
        let mut buffer = self.shared.pool.take(super::pool::STEP);
        let mut at = 0;
        while at < self.length {
            let step = (self.length - at).min(buffer.len() as u64) as usize;
            read_exact_at(&*self.file, &mut buffer[..step], at)
                .map_err(|error| CasError::io("resuming an upload", &self.path, error))?;
            show(&buffer[..step]);
            at += step as u64;
        }
        Ok(())
    }

    /// Writes the next bytes, for which there is room.
    pub(super) fn write(&mut self, data: &[Bytes], bytes: u64) -> Result<()> {
        self.preallocate(bytes);
        let mut slices: Vec<IoSlice<'_>> = data.iter().map(|data| IoSlice::new(data)).collect();
        let began = self.writing.begin(trace::parts!("disk write"));
        let written = write_all_at(&*self.file, &mut slices, self.length);
        self.writing.end(began, bytes);
        if let Err(error) = written {
            let error = CasError::io("writing an upload", &self.path, error);
            self.shared.note_full(&error);
            // What a short write left behind the end must not be taken for held.
            let _ = self.file.set_len(self.length);
            self.allocated = 0;
            return Err(self.name.mark(error));
        }
        self.room.take(bytes);
        self.shared.partials.count_written(bytes);
        let before = self.length;
        self.length += bytes;
        if !self.known {
            let began = self.hashing.begin(trace::parts!("hash"));
            for data in data {
                self.hasher.update(data);
            }
            self.hashing.end(began, bytes);
        }
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
        // A writer is given no more bytes than the upload may have.
        let rest = self.most.saturating_sub(self.length);
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

    /// Checks that it is this blob, makes it durable, and publishes it.
    pub(super) fn finish(&mut self, digest: &Digest) -> Result<Stored> {
        if self.length != digest.size() {
            self.discard();
            return Err(self.name.too_short(self.length));
        }
        let actual = match self.known {
            true => *digest,
            false => self.hasher.finish(),
        };
        if actual != *digest {
            self.discard();
            return Err(match self.resumed {
                true => self.name.mark(CasError::new(ErrorKind::Stale, STALE)),
                false => CasError::mismatch(*digest, actual),
            });
        }
        self.adopt(digest)
    }

    /// Checks the upload and stores it under the digest that it has.
    pub(super) fn finish_staged(&mut self, size: StagedSize) -> Result<Ended> {
        if !size.allows(self.length) {
            self.discard();
            return Err(self.name.too_short(self.length));
        }
        let checked = self.witness.as_mut().map_or(Ok(()), |one| one.check());
        if let Err(error) = checked {
            self.discard();
            return Err(match error.kind() {
                ErrorKind::Mismatch if self.resumed => {
                    CasError::new(ErrorKind::Stale, STALE).with_source(error)
                }
                _ => error,
            });
        }
        let digest = self.hasher.finish();
        if self.shared.index.contains(&digest) {
            self.discard();
            return Ok(Ended::Stored(digest, Stored::Existing));
        }
        if digest.size() <= self.shared.sizes.large_from {
            let mut data = Vec::with_capacity(self.length as usize);
            self.read(|step| data.extend_from_slice(step))?;
            // Before the record is there: a crash in between leaves nothing.
            self.discard();
            return Ok(Ended::Small(digest, data.into()));
        }
        // More may have been taken ahead than came.
        if let Err(error) = self.file.trim() {
            tracing::debug!(%error, "a blob keeps room that it doesn't need");
        }
        let stored = self.adopt(&digest)?;
        self.shared.partials.discard_of(&digest.into());
        Ok(Ended::Stored(digest, stored))
    }

    fn adopt(&mut self, digest: &Digest) -> Result<Stored> {
        // In every durability: the name alone, without the bytes, would be believed
        // when the store opens.
        (self.writing, self.hashing) = Default::default();
        let began = Instant::now();
        let syncing = trace::step!("disk sync");
        let synced = syncing.in_scope(|| self.file.sync_data());
        drop(syncing);
        if let Some(observer) = &self.shared.options.observer {
            observer.synced(Synced::File, began.elapsed());
        }
        if let Err(error) = synced {
            // After a failed sync nobody knows what is on disk.
            let error = CasError::io("syncing an upload", &self.path, error);
            self.discard();
            return Err(error.with_digest(*digest));
        }
        let shared = Arc::clone(&self.shared);
        let stored = shared.large.adopt(&shared, digest, &self.path)?;
        match stored {
            Stored::New => {
                self.finished = true;
                self.room.take(disk_bytes(self.length) - self.length);
                shared.partials.uncount(self.length);
            }
            Stored::Existing => self.discard(),
        }
        shared.partials.discard_of(&self.name);
        Ok(stored)
    }

    pub(super) fn discard(&mut self) {
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
            // A staged one is shown to another witness, and hashed again on the way.
            hasher: match self.name {
                UploadName::Blob(_) => Some(Box::new(std::mem::take(&mut self.hasher))),
                UploadName::Staged(_) => None,
            },
            recovered: self.recovered,
        }
    }
}

/// What is told of a resumed upload that isn't what it should be.
const STALE: &str = "the resumed upload doesn't have the blob's hash; it was dropped";

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        if self.discarding {
            self.discard();
        }
        if self.finished {
            self.shared.partials.leave(&self.name, ticket);
        } else {
            if let Err(error) = self.file.trim() {
                tracing::debug!(%error, "a parked upload keeps room that it doesn't need");
            }
            let parked = self.parked();
            self.shared.partials.park(self.name, ticket, parked);
        }
    }
}
