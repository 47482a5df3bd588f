//! Compressing an answer on its way.

use std::io::{self, Write};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::OwnedSemaphorePermit;
use zako_core::cas::{Blob, CasError, ErrorKind, Result};
use zstd::stream::write::Encoder;

/// The fastest of zstd's usual levels: the client waits.
const LEVEL: i32 = 1;

/// What is compressed at once, in bytes, so that other requests get their turn.
const STEP: usize = 128 << 10;

/// Not worth the try, in bytes.
pub(super) const SHORTEST: u64 = 512;

/// A blob on its way through zstd.
struct Compressing {
    blob: Blob,
    encoder: Encoder<'static, Vec<u8>>,
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
    let mut encoder = Encoder::new(Vec::new(), LEVEL)?;
    encoder.set_pledged_src_size(Some(blob.len()))?;
    let compressing = Compressing {
        blob,
        encoder,
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
                        let rest = self.encoder.finish().map_err(broken)?;
                        return Ok((rest.into(), None));
                    }
                }
            }
            let input = self.input.split_to(self.input.len().min(STEP));
            self.encoder.write_all(&input).map_err(broken)?;
            let output = std::mem::take(self.encoder.get_mut());
            if !output.is_empty() {
                return Ok((output.into(), Some(self)));
            }
        }
    }
}

fn broken(error: io::Error) -> CasError {
    CasError::new(ErrorKind::Internal, "compressing an answer").with_source(error)
}
