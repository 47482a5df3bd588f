//! A blob, or a part of one, opened for reading.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::{BoxStream, Stream};

use super::{CasError, Cursor, ErrorKind, Result};
use crate::Digest;

/// An opened blob: a stream of [`Bytes`] steps that are not copied on their way,
/// and where there is one, the place in a file where they lie.
///
/// The steps together are exactly [`range`](Self::range), or the stream ends
/// with an error. Dropping it frees everything.
pub struct Blob {
    digest: Digest,
    range: Range<u64>,
    extent: Option<FileExtent>,
    /// There if the steps are the extent's bytes as they are.
    cursor: Option<Cursor>,
    steps: Steps,
}

/// Where the bytes of an opened blob lie in a file, for mmap, sendfile or a
/// registered memory region. The file stays readable as long as this is held,
/// even when the blob is evicted.
///
/// Bytes read from here have not been verified.
#[derive(Clone, Debug)]
pub struct FileExtent {
    /// The open file.
    pub file: Arc<File>,
    /// Where the first byte of the range lies.
    pub offset: u64,
}

enum Steps {
    /// A small blob is one step; no boxed stream is needed for it.
    One(Option<Bytes>),
    Many(BoxStream<'static, Result<Bytes>>),
}

impl Blob {
    /// A blob, or the part `range` of it, whose bytes are at hand.
    pub fn from_bytes(digest: Digest, range: Range<u64>, data: Bytes) -> Self {
        Self {
            digest,
            range,
            extent: None,
            cursor: None,
            steps: Steps::One(Some(data)),
        }
    }

    /// A blob, or the part `range` of it, whose bytes come from `steps`.
    pub fn from_stream(
        digest: Digest,
        range: Range<u64>,
        steps: impl Stream<Item = Result<Bytes>> + Send + 'static,
    ) -> Self {
        Self {
            digest,
            range,
            extent: None,
            cursor: None,
            steps: Steps::Many(steps.boxed()),
        }
    }

    /// Says where the bytes lie in a file.
    #[must_use]
    pub fn with_extent(mut self, extent: FileExtent) -> Self {
        self.extent = Some(extent);
        self
    }

    /// Says where the bytes lie in a file, and that the steps are these bytes, read
    /// from `cursor` on and not checked on their way, so that they can be skipped.
    #[must_use]
    pub fn with_raw_extent(mut self, extent: FileExtent, cursor: Cursor) -> Self {
        self.extent = Some(extent);
        self.cursor = Some(cursor);
        self
    }

    /// Lets go of the place in a file. The steps stay.
    #[must_use]
    pub fn without_extent(mut self) -> Self {
        self.extent = None;
        self.cursor = None;
        self
    }

    /// The name of the blob.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The part of it that was opened.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The number of bytes that were opened.
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Whether nothing was opened: an empty blob, or an empty range.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the bytes lie in a file, if they do.
    pub fn extent(&self) -> Option<&FileExtent> {
        self.extent.as_ref()
    }

    /// Where the bytes lie, if to take them from there is as good as to take the
    /// steps: the store would check nothing on the way. What was taken from there is
    /// told by [`skip_bytes`](Self::skip_bytes).
    pub fn raw_extent(&self) -> Option<&FileExtent> {
        self.cursor.as_ref().and(self.extent.as_ref())
    }

    /// Leaves out the next bytes of the steps. Only for a blob with a
    /// [`raw_extent`](Self::raw_extent), and not while a step is being waited for.
    pub fn skip_bytes(&mut self, bytes: u64) {
        if let Some(cursor) = &self.cursor {
            cursor.advance(bytes);
        }
    }

    /// All the bytes, at once. Not copied if there is just one step.
    ///
    /// # Errors
    /// The first error of a step.
    pub async fn bytes(mut self) -> Result<Bytes> {
        if let Steps::One(data) = &mut self.steps {
            return Ok(data.take().unwrap_or_default());
        }
        let Some(first) = self.next().await.transpose()? else {
            return Ok(Bytes::new());
        };
        if first.len() as u64 == self.len() {
            // A checked stream reports damage after its last step.
            return match self.next().await {
                None => Ok(first),
                Some(Err(error)) => Err(error),
                Some(Ok(_)) => Err(self.surplus()),
            };
        }
        let mut data = BytesMut::from(&first[..]);
        while let Some(step) = self.next().await {
            data.extend_from_slice(&step?);
        }
        Ok(data.freeze())
    }

    fn surplus(&self) -> CasError {
        CasError::new(
            ErrorKind::Corrupt,
            "the store gave more bytes than asked for",
        )
        .with_digest(self.digest)
    }
}

impl Stream for Blob {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        match &mut self.steps {
            Steps::One(data) => Poll::Ready(data.take().filter(|data| !data.is_empty()).map(Ok)),
            Steps::Many(steps) => steps.poll_next_unpin(cx),
        }
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob")
            .field("digest", &self.digest)
            .field("range", &self.range)
            .field("extent", &self.extent)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_blob_without_extent_holds_no_file_and_keeps_its_bytes() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let data = Bytes::from_static(b"bytes");
        let digest = zako_digest::hash::bytes(&data);
        let extent = FileExtent {
            file: Arc::clone(&file),
            offset: 0,
        };
        let blob = Blob::from_bytes(digest, 0..5, data.clone()).with_extent(extent);
        let blob = blob.without_extent();
        assert!(blob.extent().is_none());
        assert_eq!(Arc::strong_count(&file), 1);
        assert_eq!(blob.bytes().await.unwrap(), data);
    }
}
