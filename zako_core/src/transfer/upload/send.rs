//! The tasks of an upload.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;

use super::Upload;
use crate::Digest;
use crate::cas::{Cas, CasError, ErrorKind, Lease, Result};
use crate::transfer::retry::Retry;
use crate::transfer::{Source, TransferOptions, file};

/// What a task has done.
pub(super) enum Done {
    Negotiated {
        missing: Vec<Upload>,
        skipped: Count,
    },
    Sent {
        sent: Count,
        skipped: Count,
    },
}

#[derive(Clone, Copy, Default)]
pub(super) struct Count {
    pub(super) blobs: u64,
    pub(super) bytes: u64,
}

impl Count {
    fn add(&mut self, bytes: u64) {
        self.blobs += 1;
        self.bytes += bytes;
    }
}

/// Asks which of the blobs the store lacks.
pub(super) async fn negotiate(
    cas: Arc<dyn Cas>,
    options: Arc<TransferOptions>,
    uploads: Vec<Upload>,
) -> Result<Done> {
    let digests: Vec<Digest> = uploads.iter().map(|upload| upload.digest).collect();
    let mut retry = Retry::new(&options);
    let missing: HashSet<Digest> = loop {
        match cas.missing(&digests, Lease::Default).await {
            Ok(missing) => break missing.into_iter().collect(),
            Err(error) => retry.wait(error).await?,
        }
    };
    let mut skipped = Count::default();
    let mut uploads = uploads;
    uploads.retain(|upload| {
        let is_missing = missing.contains(&upload.digest);
        if !is_missing {
            skipped.add(upload.digest.size());
        }
        is_missing
    });
    Ok(Done::Negotiated {
        missing: uploads,
        skipped,
    })
}

/// Stores small blobs in one batch.
pub(super) async fn send_small(
    cas: Arc<dyn Cas>,
    options: Arc<TransferOptions>,
    uploads: Vec<Upload>,
    moved: mpsc::Sender<u64>,
) -> Result<Done> {
    let mut open = read(uploads).await?;
    let mut sent = Count::default();
    let mut retry = Retry::new(&options);
    while !open.is_empty() {
        let batch = open
            .iter()
            .map(|(upload, data)| (upload.digest, data.clone()))
            .collect();
        let outcomes = cas.put_batch(batch).await;
        if outcomes.len() != open.len() {
            let text = "the store answered for another number of blobs than asked";
            return Err(CasError::new(ErrorKind::Internal, text));
        }
        let before = sent.bytes;
        let mut failure = None;
        let mut again = Vec::new();
        for ((upload, data), outcome) in open.into_iter().zip(outcomes) {
            match outcome {
                Ok(_) => sent.add(data.len() as u64),
                Err(error) if error.is_transient() => {
                    failure = Some(error);
                    again.push((upload, data));
                }
                Err(error) => return Err(file::explain(error, &upload.source, upload.digest)),
            }
        }
        let bytes = sent.bytes - before;
        if bytes > 0 {
            retry.progressed();
            // The receiver lives as long as this task.
            let _ = moved.send(bytes).await;
        }
        if let Some(error) = failure {
            retry.wait(error).await?;
        }
        open = again;
    }
    Ok(Done::Sent {
        sent,
        skipped: Count::default(),
    })
}

/// The bytes of small blobs. A thread that may block reads them if any is in a file.
async fn read(uploads: Vec<Upload>) -> Result<Vec<(Upload, Bytes)>> {
    let in_memory = |upload: &Upload| matches!(upload.source, Source::Bytes(_));
    let all_in_memory = uploads.iter().all(in_memory);
    let read = move || {
        uploads
            .into_iter()
            .map(|upload| {
                let data = file::read_whole(&upload.source, upload.digest)?;
                Ok((upload, data))
            })
            .collect()
    };
    if all_in_memory {
        return read();
    }
    tokio::task::spawn_blocking(read)
        .await
        .unwrap_or_else(|error| {
            Err(CasError::new(ErrorKind::Internal, "reading ended early").with_source(error))
        })
}

/// Stores a large blob, from where an earlier upload of it was interrupted.
pub(super) async fn send_large(
    cas: Arc<dyn Cas>,
    options: Arc<TransferOptions>,
    upload: Upload,
    moved: mpsc::Sender<u64>,
) -> Result<Done> {
    let mut sending = Sending {
        upload,
        moved,
        held_at_first: None,
        reached: 0,
    };
    let mut retry = Retry::new(&options);
    loop {
        let reached = sending.reached;
        let Err((error, offset)) = sending.attempt(&*cas).await else {
            break;
        };
        if sending.reached > reached {
            retry.progressed();
        }
        let begin_again = match error.kind() {
            // Another upload of the blob may have moved what is held.
            ErrorKind::NotHeld => true,
            // It may be the bytes held from before that were wrong.
            ErrorKind::Mismatch => offset > 0 && error.path().is_none(),
            _ => false,
        };
        if begin_again {
            retry.wait_anyway(error).await
        } else {
            retry.wait(error).await
        }
        .map_err(|error| sending.explain(error))?;
    }
    Ok(sending.done())
}

struct Sending {
    upload: Upload,
    moved: mpsc::Sender<u64>,
    /// What the store had before; its size if it was present by then.
    held_at_first: Option<u64>,
    /// The farthest that any attempt got.
    reached: u64,
}

impl Sending {
    /// One attempt; the error with the offset at which it began.
    async fn attempt(&mut self, cas: &dyn Cas) -> Result<(), (CasError, u64)> {
        let digest = self.upload.digest;
        let offset = cas.held(&digest).await.map_err(|error| (error, 0))?;
        let mut writer = match cas.writer(&digest, offset).await {
            Ok(writer) => writer,
            Err(error) if error.is_already_exists() => {
                self.held_at_first.get_or_insert(digest.size());
                return Ok(());
            }
            Err(error) => return Err((error, offset)),
        };
        self.held_at_first.get_or_insert(offset);
        self.reached = self.reached.max(offset);
        let mut at = offset;
        let mut steps = file::steps(&self.upload.source, digest, offset);
        while let Some(step) = steps.next().await {
            let data = match step {
                Ok(data) => data,
                Err(error) => {
                    // What a changed file gave is of no use.
                    let _ = match error.kind() {
                        ErrorKind::Mismatch => writer.discard().await,
                        _ => writer.park().await.map(|_| ()),
                    };
                    return Err((error, offset));
                }
            };
            at += data.len() as u64;
            writer.write(data).await.map_err(|error| (error, offset))?;
            if at > self.reached {
                let _ = self.moved.send(at - self.reached).await;
                self.reached = at;
            }
        }
        let stored = writer.commit().await;
        stored.map(|_| ()).map_err(|error| (error, offset))
    }

    fn explain(&self, error: CasError) -> CasError {
        file::explain(error, &self.upload.source, self.upload.digest)
    }

    fn done(&self) -> Done {
        let size = self.upload.digest.size();
        let held = self.held_at_first.unwrap_or(0);
        let (mut sent, mut skipped) = (Count::default(), Count::default());
        if held == size {
            skipped.add(size);
        } else {
            sent.add(size - held);
            skipped.bytes = held;
        }
        Done::Sent { sent, skipped }
    }
}
