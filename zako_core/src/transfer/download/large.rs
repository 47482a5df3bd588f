//! Fetching one large blob.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;

use super::place::Draft;
use super::{DiskUse, Want, joined};
use crate::cas::{Cas, CasError, ErrorKind, Result};
use crate::transfer::TransferOptions;
use crate::transfer::retry::Retry;
use crate::{BlobRange, Digest};

/// Steps that may wait for the disk.
const AHEAD: usize = 4;

/// Fetches a blob into its files; goes on where a transient error interrupted it.
pub(super) async fn fetch_large(
    cas: Arc<dyn Cas>,
    options: Arc<TransferOptions>,
    want: Want,
    moved: mpsc::Sender<u64>,
    disk: DiskUse,
) -> Result<u64> {
    let digest = want.digest;
    let (sender, receiver) = mpsc::channel(AHEAD);
    let writing = tokio::task::spawn_blocking(move || {
        let _disk = disk;
        write(&want, receiver)
    });

    let fetched = fetch(&*cas, &options, digest, &sender, &moved).await;
    if fetched.is_ok() {
        // When the disk gave up it says why below.
        let _ = sender.send(Message::End).await;
    }
    drop(sender);
    let written = joined(writing.await);
    fetched.and(written)?;
    Ok(1)
}

async fn fetch(
    cas: &dyn Cas,
    options: &TransferOptions,
    digest: Digest,
    disk: &mpsc::Sender<Message>,
    moved: &mpsc::Sender<u64>,
) -> Result<()> {
    let mut retry = Retry::new(options);
    let (mut at, mut furthest, mut anew) = (0, 0, false);
    while at < digest.size() {
        let before = at;
        match fetch_from(cas, digest, &mut at, &mut furthest, disk, moved).await {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                let corrupt = error.kind() == ErrorKind::Corrupt;
                if corrupt && anew {
                    return Err(error);
                }
                if at > before && !corrupt {
                    retry.progressed();
                }
                retry.wait(error).await?;
                if corrupt {
                    // The store can get it in another way; what came is not to be gone on with.
                    (at, anew) = (0, true);
                    if disk.send(Message::Anew).await.is_err() {
                        break;
                    }
                }
            }
        }
    }
    Ok(())
}

enum Message {
    Data(Bytes),
    /// What was sent was wrong; all comes again.
    Anew,
    /// All was sent; without it the fetch was given up.
    End,
}

/// Whether the disk still takes the bytes.
async fn fetch_from(
    cas: &dyn Cas,
    digest: Digest,
    at: &mut u64,
    furthest: &mut u64,
    disk: &mpsc::Sender<Message>,
    moved: &mpsc::Sender<u64>,
) -> Result<bool> {
    let mut blob = cas.fetch(&digest, BlobRange::from_start(*at)).await?;
    while let Some(data) = blob.next().await.transpose()? {
        let length = data.len() as u64;
        if length > digest.size() - *at {
            return Err(wrong_length(digest, "more"));
        }
        if disk.send(Message::Data(data)).await.is_err() {
            return Ok(false);
        }
        *at += length;
        let further = at.saturating_sub(*furthest);
        *furthest += further;
        // The receiver lives as long as this task.
        let _ = moved.send(further).await;
    }
    if *at < digest.size() {
        return Err(wrong_length(digest, "fewer"));
    }
    Ok(true)
}

fn wrong_length(digest: Digest, what: &str) -> CasError {
    let text = format!("the store gave {what} bytes than the blob has");
    CasError::new(ErrorKind::Corrupt, text).with_digest(digest)
}

fn write(want: &Want, mut messages: mpsc::Receiver<Message>) -> Result<()> {
    let Some(first) = want.targets.first() else {
        return Ok(());
    };
    let mut draft = Draft::begin(first)?;
    while let Some(message) = messages.blocking_recv() {
        match message {
            Message::Data(data) => draft.write(&data)?,
            Message::Anew => draft = Draft::begin(first)?,
            Message::End => return draft.place(want),
        }
    }
    Ok(())
}
