//! Storing many blobs.

mod send;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tracing::Instrument;

use self::send::{Done, negotiate, send_large, send_small};
use super::{BATCH_OVERHEAD, Progress, Source, TransferOptions};
use crate::Digest;
use crate::cas::{Cas, CasError, ErrorKind, Result};
use crate::observe::trace;

/// A blob to be stored.
#[derive(Clone, Debug)]
pub struct Upload {
    /// Its name.
    pub digest: Digest,
    /// Where its bytes are.
    pub source: Source,
}

/// What an upload did. What is `blobs` in all was either sent or skipped.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UploadReport {
    /// Blobs given, duplicates included.
    pub blobs: u64,
    /// The sum of their sizes.
    pub bytes: u64,
    /// Blobs that were sent.
    pub sent_blobs: u64,
    /// Bytes that were sent.
    pub sent_bytes: u64,
    /// Blobs that were present, or given before.
    pub skipped_blobs: u64,
    /// Bytes of these, and those that the store held of interrupted uploads.
    pub skipped_bytes: u64,
}

/// Stores blobs, each once; asks for what is missing while more still come in.
///
/// What the store has is leased for its default time. Memory is bounded by the
/// options, and by the digests, to know duplicates by.
///
/// # Errors
/// The first error of `blobs`; the first one of the store that isn't transient, or
/// stays; [`ErrorKind::Mismatch`] with the path of a file that changed. What was
/// stored until then stays stored, and what was interrupted resumes the next time.
pub async fn upload<S>(
    cas: &Arc<dyn Cas>,
    blobs: S,
    options: &TransferOptions,
    progress: &dyn Progress,
) -> Result<UploadReport>
where
    S: Stream<Item = Result<Upload>> + Send,
{
    let (moved, mut moves) = mpsc::channel(64);
    let mut work = Work::new(cas, options, progress, moved);
    let blobs = blobs.ready_chunks(work.options.negotiate_batch);
    futures::pin_mut!(blobs);
    while !work.is_done() {
        tokio::select! {
            Some(bytes) = moves.recv() => progress.moved(bytes),
            Some(done) = work.tasks.join_next() => work.take(done)?,
            items = blobs.next(), if work.wants_input() => match items {
                Some(items) => work.gather(items)?,
                None => work.input_ended = true,
            },
        }
        work.start();
    }
    while let Ok(bytes) = moves.try_recv() {
        progress.moved(bytes);
    }
    Ok(work.report)
}

/// An upload under way. Its tasks end when it is dropped.
struct Work<'a> {
    cas: Arc<dyn Cas>,
    options: Arc<TransferOptions>,
    progress: &'a dyn Progress,
    report: UploadReport,
    moved: mpsc::Sender<u64>,
    tasks: JoinSet<Result<Done>>,
    negotiating: bool,
    sending: usize,
    seen: HashSet<Digest>,
    /// Not asked for yet.
    gathered: VecDeque<Upload>,
    /// Missing, to be sent in batches.
    small: VecDeque<Upload>,
    /// What `small` takes of a batch.
    small_bytes: u64,
    /// Missing, to be sent alone.
    large: VecDeque<Upload>,
    input_ended: bool,
}

impl<'a> Work<'a> {
    fn new(
        cas: &Arc<dyn Cas>,
        options: &TransferOptions,
        progress: &'a dyn Progress,
        moved: mpsc::Sender<u64>,
    ) -> Self {
        Self {
            cas: Arc::clone(cas),
            options: Arc::new(TransferOptions {
                concurrency: options.concurrency.max(1),
                negotiate_batch: options.negotiate_batch.max(1),
                ..options.clone()
            }),
            progress,
            report: UploadReport::default(),
            moved,
            tasks: JoinSet::new(),
            negotiating: false,
            sending: 0,
            seen: HashSet::new(),
            gathered: VecDeque::new(),
            small: VecDeque::new(),
            small_bytes: 0,
            large: VecDeque::new(),
            input_ended: false,
        }
    }

    fn is_done(&self) -> bool {
        self.input_ended && self.gathered.is_empty() && self.tasks.is_empty()
    }

    fn wants_input(&self) -> bool {
        let batch = self.options.negotiate_batch;
        !self.input_ended
            && self.gathered.len() < batch
            && self.small.len() + self.large.len() < 2 * batch
    }

    fn gather(&mut self, items: Vec<Result<Upload>>) -> Result<()> {
        for item in items {
            let upload = item?;
            let size = upload.digest.size();
            self.report.blobs += 1;
            self.report.bytes += size;
            self.progress.found(1, size);
            if self.seen.insert(upload.digest) {
                self.gathered.push_back(upload);
            } else {
                self.skip(1, size);
            }
        }
        Ok(())
    }

    fn skip(&mut self, blobs: u64, bytes: u64) {
        self.report.skipped_blobs += blobs;
        self.report.skipped_bytes += bytes;
        self.progress.skipped(blobs, bytes);
    }

    fn take(&mut self, done: Result<Result<Done>, JoinError>) -> Result<()> {
        let done = done.unwrap_or_else(|error| {
            let text = "a part of the upload ended early";
            Err(CasError::new(ErrorKind::Internal, text).with_source(error))
        })?;
        match done {
            Done::Negotiated { missing, skipped } => {
                self.negotiating = false;
                self.skip(skipped.blobs, skipped.bytes);
                for upload in missing {
                    if upload.digest.size() <= self.options.small_bytes {
                        self.small_bytes += upload.digest.size() + BATCH_OVERHEAD;
                        self.small.push_back(upload);
                    } else {
                        self.large.push_back(upload);
                    }
                }
            }
            Done::Sent { sent, skipped } => {
                self.sending -= 1;
                self.skip(skipped.blobs, skipped.bytes);
                self.report.sent_blobs += sent.blobs;
                self.report.sent_bytes += sent.bytes;
                self.progress.finished(sent.blobs);
            }
        }
        Ok(())
    }

    /// Starts what can be started.
    fn start(&mut self) {
        if !self.negotiating && !self.gathered.is_empty() {
            // One question at a time: what comes in meanwhile makes the next one.
            let batch = self.gathered.len().min(self.options.negotiate_batch);
            let batch = self.gathered.drain(..batch).collect();
            self.negotiating = true;
            let negotiating = negotiate(Arc::clone(&self.cas), Arc::clone(&self.options), batch);
            self.tasks.spawn(negotiating.instrument(trace::current()));
        }
        while self.sending < self.options.concurrency {
            let last = self.input_ended && self.gathered.is_empty() && !self.negotiating;
            let (cas, options) = (Arc::clone(&self.cas), Arc::clone(&self.options));
            if self.small_bytes >= self.options.batch_bytes {
                let batch = self.small_batch();
                let sending = send_small(cas, options, batch, self.moved.clone());
                self.tasks.spawn(sending.instrument(trace::current()));
            } else if let Some(upload) = self.large.pop_front() {
                let sending = send_large(cas, options, upload, self.moved.clone());
                self.tasks.spawn(sending.instrument(trace::current()));
            } else if !self.small.is_empty() && (last || self.sending == 0) {
                let batch = self.small_batch();
                let sending = send_small(cas, options, batch, self.moved.clone());
                self.tasks.spawn(sending.instrument(trace::current()));
            } else {
                break;
            }
            self.sending += 1;
        }
    }

    fn small_batch(&mut self) -> Vec<Upload> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.small.front() {
            let cost = next.digest.size() + BATCH_OVERHEAD;
            if bytes + cost > self.options.batch_bytes && !batch.is_empty() {
                break;
            }
            bytes += cost;
            batch.extend(self.small.pop_front());
        }
        self.small_bytes -= bytes;
        batch
    }
}
