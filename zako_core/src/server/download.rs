//! The answer to a Download: the blob's own bytes between a few of framing.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures::StreamExt;
use http_body::{Body, Frame};
use tonic::{Code, Status};
use tracing::Span;

use super::connection::Shared;
use super::sendfile::{AnswerBuf, ExtentBuf, Road, SLOT};
use super::status::to_status;
use super::transport::trailers;
use crate::cas::{Blob, CasError, ErrorKind, FileExtent};
use crate::negotiate::StreamPermit;
use crate::observe::trace::{self, UntilDropped};
use crate::transport::grpc::frame::{Framer, PayloadField};

/// Yields a prefix and a payload for each message, and trailers at the end. Takes
/// the next step of the blob when the last one is on its way: as a part of a file that
/// is in memory and needs no check, or else as the bytes that the store reads.
pub(super) struct DownloadBody {
    blob: Blob,
    road: Arc<Road>,
    framer: Framer,
    /// The part of the last step that is not framed yet.
    step: Bytes,
    /// Belongs to the prefix that was yielded last.
    payload: Option<AnswerBuf>,
    /// What the blob has yet to give.
    left: u64,
    asked: Option<std::time::Instant>,
    shared: Arc<Shared>,
    /// Given back as soon as the last frame is taken.
    permit: Option<StreamPermit>,
    /// From the first byte to the last one.
    network: UntilDropped,
    ended: bool,
}

impl DownloadBody {
    pub(super) fn new(
        blob: Blob,
        road: Arc<Road>,
        permit: Option<StreamPermit>,
        field: PayloadField,
        shared: Arc<Shared>,
    ) -> Self {
        let network = trace::step!(
            "network send",
            zako.digest = %blob.digest(),
            zako.bytes = blob.len() as i64,
            zako.transport = "grpc",
        );
        Self {
            left: blob.len(),
            blob: match blob.raw_extent() {
                // Its steps keep the file open too.
                Some(_) => blob,
                // A slow reader keeps no file of the store open for its extent.
                None => blob.without_extent(),
            },
            road,
            framer: Framer::new(field, shared.options.download_message_bytes),
            step: Bytes::new(),
            payload: None,
            asked: None,
            shared,
            permit,
            network: UntilDropped(network),
            ended: false,
        }
    }

    /// The next message as a part of a file.
    fn extent(&mut self) -> Option<ExtentBuf> {
        // A step that is being read comes first.
        if self.asked.is_some() {
            return None;
        }
        let extent = self.blob.raw_extent()?;
        let began = std::time::Instant::now();
        let length = self.framer.max_payload().min(SLOT);
        // The last message is read: when the body has ended nobody watches whether the
        // peer takes it, and until then it would keep the file.
        if self.left <= length as u64 {
            return None;
        }
        let part = FileExtent {
            file: Arc::clone(&extent.file),
            offset: extent.offset + (self.blob.len() - self.left),
        };
        let part = ExtentBuf::new(&self.road, part, length)?;
        self.blob.skip_bytes(length as u64);
        self.left -= length as u64;
        let time = &self.shared.gate.service_time();
        time.record(length, began.elapsed());
        Some(part)
    }

    fn end(&mut self, status: &Status) -> Frame<AnswerBuf> {
        self.permit = None;
        self.network = UntilDropped(Span::none());
        self.ended = true;
        Frame::trailers(trailers(status))
    }

    /// The next step; `None` at the end of the blob.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        let asked = *self.asked.get_or_insert_with(std::time::Instant::now);
        let Poll::Ready(step) = self.blob.poll_next_unpin(cx) else {
            return Poll::Pending;
        };
        self.asked = None;
        let step = match step {
            Some(Ok(step)) => step,
            Some(Err(error)) => return Poll::Ready(Err(to_status(&error))),
            None if self.left == 0 => return Poll::Ready(Ok(None)),
            None => return Poll::Ready(Err(to_status(&self.wrong_length("fewer")))),
        };
        let time = &self.shared.gate.service_time();
        time.record(step.len(), asked.elapsed());
        Poll::Ready(match self.left.checked_sub(step.len() as u64) {
            Some(left) => {
                self.left = left;
                Ok(Some(step))
            }
            None => Err(to_status(&self.wrong_length("more"))),
        })
    }

    fn wrong_length(&self, how: &str) -> CasError {
        let message = format!("the store gave {how} bytes than the blob has");
        CasError::new(ErrorKind::Internal, message).with_digest(*self.blob.digest())
    }
}

impl Body for DownloadBody {
    type Data = AnswerBuf;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<AnswerBuf>, Status>>> {
        let this = self.get_mut();
        if let Some(payload) = this.payload.take() {
            return Poll::Ready(Some(Ok(Frame::data(payload))));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        loop {
            if let Some(frame) = this.framer.next_frame(&mut this.step) {
                this.payload = Some(AnswerBuf::Bytes(frame.payload));
                return Poll::Ready(Some(Ok(Frame::data(AnswerBuf::Bytes(frame.prefix)))));
            }
            if let Some(extent) = this.extent() {
                let prefix = this.framer.prefix(extent.remaining());
                this.payload = Some(AnswerBuf::Extent(extent));
                return Poll::Ready(Some(Ok(Frame::data(AnswerBuf::Bytes(prefix)))));
            }
            match this.poll_step(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Some(step))) => this.step = step,
                Poll::Ready(Ok(None)) => {
                    return Poll::Ready(Some(Ok(this.end(&Status::new(Code::Ok, "")))));
                }
                Poll::Ready(Err(status)) => return Poll::Ready(Some(Ok(this.end(&status)))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.payload.is_none()
    }
}
