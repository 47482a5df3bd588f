//! The spans of transfers: which blobs, and which transport they took.

use async_trait::async_trait;
use bytes::Bytes;
use tracing::field::Empty;
use tracing::{Instrument, Span, debug_span};

use crate::Digest;
use crate::cas::{BlobWriter, Result, Stored};

/// A download; its transport is recorded when it is chosen.
pub(super) fn download(digest: &Digest) -> Span {
    debug_span!("download", %digest, transport = Empty)
}

/// An upload; its transport is recorded when it is chosen.
pub(super) fn upload(digest: &Digest) -> Span {
    debug_span!("upload", %digest, transport = Empty)
}

/// Small blobs in one call.
pub(super) fn batch_download(blobs: usize) -> Span {
    debug_span!("batch_download", blobs, transport = "grpc")
}

/// Small blobs in one call.
pub(super) fn batch_upload(blobs: usize) -> Span {
    debug_span!("batch_upload", blobs, transport = "grpc")
}

/// Notes the transport that a transfer takes, or goes on with.
pub(super) fn took(span: &Span, by_rdma: bool) {
    span.record("transport", if by_rdma { "rdma" } else { "grpc" });
}

/// A writer whose steps are in the span of its upload.
pub(super) fn writer(span: Span, writer: Box<dyn BlobWriter>) -> Box<dyn BlobWriter> {
    match span.is_disabled() {
        true => writer,
        false => Box::new(Spanned { writer, span }),
    }
}

struct Spanned {
    writer: Box<dyn BlobWriter>,
    span: Span,
}

#[async_trait]
impl BlobWriter for Spanned {
    fn digest(&self) -> &Digest {
        self.writer.digest()
    }

    fn held(&self) -> u64 {
        self.writer.held()
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        let span = self.span.clone();
        self.writer.write(data).instrument(span).await
    }

    async fn commit(self: Box<Self>) -> Result<Stored> {
        self.writer.commit().instrument(self.span).await
    }

    async fn park(self: Box<Self>) -> Result<u64> {
        self.writer.park().instrument(self.span).await
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        self.writer.discard().instrument(self.span).await
    }
}
