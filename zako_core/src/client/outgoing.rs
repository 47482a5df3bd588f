//! The bodies of this side's calls.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::buf::Chain;
use bytes::{Buf, Bytes};
use http_body::{Body, Frame as HttpFrame, SizeHint};
use tokio::sync::mpsc;
use tonic::Status;

use crate::transport::grpc::BatchWriter;
use crate::transport::grpc::frame::{Frame, Framer, PayloadField, prefix};

/// A message's prefix and its payload: together they go into one HTTP/2 frame,
/// and neither is copied for it.
pub(super) type Piece = Chain<Bytes, Bytes>;

/// The body of a call.
#[derive(Debug)]
pub(super) enum Outgoing {
    Generated(tonic::body::Body),
    Chunks(Chunks),
    Batch(BatchWriter),
}

/// The body of an upload's call: metadata, then chunks.
#[derive(Debug)]
pub(super) struct Chunks {
    metadata: Option<Bytes>,
    steps: mpsc::Receiver<Step>,
    chunk: Bytes,
    framer: Framer,
    any: bool,
    interrupted: bool,
    ended: bool,
}

/// What a writer gives to the body of its call.
#[derive(Debug)]
pub(super) enum Step {
    Chunk(Bytes),
    /// Without it the end of the queue is an interruption.
    End,
}

impl Chunks {
    pub(super) fn new(metadata: Bytes, max_payload: usize, steps: mpsc::Receiver<Step>) -> Self {
        Self {
            metadata: Some(metadata),
            steps,
            chunk: Bytes::new(),
            framer: Framer::new(PayloadField::Chunk, max_payload),
            any: false,
            interrupted: false,
            ended: false,
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, Status>>> {
        loop {
            if let Some(metadata) = self.metadata.take() {
                return Poll::Ready(Some(Ok(metadata.chain(Bytes::new()))));
            }
            if let Some(Frame { prefix, payload }) = self.framer.next_frame(&mut self.chunk) {
                self.any = true;
                return Poll::Ready(Some(Ok(prefix.chain(payload))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match ready!(self.steps.poll_recv(cx)) {
                Some(Step::Chunk(chunk)) => self.chunk = chunk,
                Some(Step::End) => {
                    self.ended = true;
                    if !self.any {
                        // Metadata alone would be a question, not an upload.
                        let empty = prefix(PayloadField::Chunk, 0);
                        return Poll::Ready(Some(Ok(empty.chain(Bytes::new()))));
                    }
                }
                // The connection takes this byte, which begins a message, when all
                // before it is on its way; a reset drops what isn't.
                None if !self.interrupted => {
                    self.interrupted = true;
                    let byte = Bytes::from_static(&[0]);
                    return Poll::Ready(Some(Ok(byte.chain(Bytes::new()))));
                }
                None => {
                    self.ended = true;
                    let error = Status::cancelled("the upload was interrupted");
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

impl Body for Outgoing {
    type Data = Piece;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<HttpFrame<Piece>, Status>>> {
        match &mut *self {
            Self::Generated(body) => Pin::new(body)
                .poll_frame(cx)
                .map_ok(|frame| frame.map_data(|data| data.chain(Bytes::new()))),
            Self::Chunks(chunks) => chunks
                .poll_piece(cx)
                .map(|piece| piece.map(|piece| piece.map(HttpFrame::data))),
            Self::Batch(batch) => {
                let piece = match batch.last_blob() {
                    Some((head, blob)) => Some(head.chain(blob)),
                    None => batch.next_piece().map(|piece| piece.chain(Bytes::new())),
                };
                Poll::Ready(piece.map(|piece| Ok(HttpFrame::data(piece))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Generated(body) => body.is_end_stream(),
            Self::Chunks(chunks) => {
                chunks.ended && !chunks.interrupted && chunks.any && chunks.chunk.is_empty()
            }
            Self::Batch(batch) => batch.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Generated(body) => body.size_hint(),
            Self::Chunks(_) | Self::Batch(_) => SizeHint::default(),
        }
    }
}

impl From<tonic::body::Body> for Outgoing {
    fn from(body: tonic::body::Body) -> Self {
        Self::Generated(body)
    }
}
