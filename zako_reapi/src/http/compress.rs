//! Compressing an answer on its way.

use std::io;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::OwnedSemaphorePermit;
use zako_core::cas::{Blob, CasError, ErrorKind, Result};

use crate::compression::{Compressor, LEVEL};

/// Not worth the try, in bytes.
pub(super) const SHORTEST: u64 = 512;

/// A blob on its way through zstd.
struct Compressing {
    blob: Blob,
    compressor: Compressor,
    input: Bytes,
    _permit: OwnedSemaphorePermit,
}

/// Bytes that are at hand, if they get shorter.
pub(super) fn whole(data: &[u8]) -> Option<Bytes> {
    let compressed = zstd::bulk::compress(data, LEVEL).ok()?;
    (compressed.len() < data.len()).then(|| compressed.into())
}

/// The bytes of a blob as a zstd stream.
///
/// # Errors
/// zstd can't be set up.
pub(super) fn stream(
    blob: Blob,
    permit: OwnedSemaphorePermit,
) -> io::Result<BoxStream<'static, Result<Bytes>>> {
    let compressing = Compressing {
        compressor: Compressor::new(blob.len())?,
        blob,
        input: Bytes::new(),
        _permit: permit,
    };
    let steps = stream::try_unfold(Some(compressing), |compressing| async {
        match compressing {
            Some(compressing) => compressing.next().await.map(Some),
            None => Ok(None),
        }
    });
    Ok(steps.boxed())
}

impl Compressing {
    /// The next bytes, and what is left to do behind them.
    async fn next(mut self) -> Result<(Bytes, Option<Self>)> {
        loop {
            if self.input.is_empty() {
                match self.blob.next().await.transpose()? {
                    Some(data) => self.input = data,
                    None => {
                        let rest = self.compressor.finish().map_err(broken)?;
                        return Ok((rest, None));
                    }
                }
            }
            let output = self.compressor.step(&mut self.input).map_err(broken)?;
            if !output.is_empty() {
                return Ok((output, Some(self)));
            }
        }
    }
}

fn broken(error: io::Error) -> CasError {
    CasError::new(ErrorKind::Internal, "compressing an answer").with_source(error)
}
