//! The bytes of a blob that is read compressed.

use std::io;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tonic::Status;
use zako_core::cas::Blob;
use zako_core::server::{Share, to_status};

use crate::compression::Compressor;

/// A blob on its way through zstd.
struct Packing {
    blob: Blob,
    compressor: Compressor,
    /// What was read and is not compressed.
    input: Bytes,
    _share: Share,
}

/// The blob as one zstd frame, made as it is asked for. Where there is no memory to
/// compress it, the frame has its bytes as they are.
pub(super) fn pack(
    blob: Blob,
    mut share: Share,
) -> Result<impl Stream<Item = Result<Bytes, Status>> + Send, Status> {
    let compressor = match share.grow(Compressor::memory(blob.len())) {
        Ok(()) => Compressor::new(blob.len()),
        Err(_) => Ok(Compressor::stored(blob.len())),
    };
    let packing = Packing {
        compressor: compressor.map_err(broken)?,
        // A slow reader keeps no file of the store open for its extent.
        blob: blob.without_extent(),
        input: Bytes::new(),
        _share: share,
    };
    let parts = stream::try_unfold(Some(packing), async |packing| match packing {
        Some(packing) => packing.next().await.map(Some),
        None => Ok(None),
    });
    Ok(parts)
}

impl Packing {
    /// The next bytes, and what is to do behind them.
    async fn next(mut self) -> Result<(Bytes, Option<Self>), Status> {
        loop {
            if self.input.is_empty() {
                match self.blob.next().await {
                    Some(Ok(data)) => self.input = data,
                    Some(Err(error)) => return Err(to_status(&error)),
                    None => return Ok((self.compressor.finish().map_err(broken)?, None)),
                }
            }
            let part = self.compressor.step(&mut self.input).map_err(broken)?;
            if !part.is_empty() {
                return Ok((part, Some(self)));
            }
            // What can be compressed well gives nothing for long.
            tokio::task::consume_budget().await;
        }
    }
}

fn broken(error: io::Error) -> Status {
    tracing::warn!(%error, "a blob could not be compressed");
    Status::internal("the blob can't be compressed")
}
