//! A blob as a body of HTTP/1: its bytes, and nothing else.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::StreamExt;
use http_body::{Body, Frame, SizeHint};

use super::port::FileRoad;
use super::sendfile::{AnswerBuf, ExtentBuf, SLOT};
use crate::cas::{Blob, CasError, ErrorKind, FileExtent};

/// The bytes of an opened blob. Parts of a file that are in memory and need no check
/// come as stand-ins that only the [`stream`](super::PortConnection::stream) of the same
/// connection knows: nothing that looks at the bytes may stand between.
///
/// The last bytes come when the store has checked all of them.
pub struct BlobBody {
    blob: Blob,
    road: FileRoad,
    /// What is not given yet.
    left: u64,
    /// What the blob has yet to read.
    unread: u64,
    /// The last step that was read: it is given when the next one is there.
    held: Bytes,
    /// A step is being read.
    reading: bool,
}

impl BlobBody {
    /// The body of an answer on the connection of `road`.
    pub fn new(blob: Blob, road: FileRoad) -> Self {
        Self {
            left: blob.len(),
            unread: blob.len(),
            blob: match blob.raw_extent() {
                // Its steps keep the file open too.
                Some(_) => blob,
                // A slow reader keeps no file of the store open for its extent.
                None => blob.without_extent(),
            },
            road,
            held: Bytes::new(),
            reading: false,
        }
    }

    /// The next bytes as a part of a file.
    fn extent(&mut self) -> Option<AnswerBuf> {
        // What is being read comes first.
        if self.reading || !self.held.is_empty() {
            return None;
        }
        let extent = self.blob.raw_extent()?;
        let length = self.unread.min(SLOT as u64);
        let part = FileExtent {
            file: std::sync::Arc::clone(&extent.file),
            offset: extent.offset + (self.blob.len() - self.unread),
        };
        let part = ExtentBuf::new(&self.road.0, part, length as usize)?;
        self.blob.skip_bytes(length);
        self.unread -= length;
        Some(AnswerBuf::Extent(part))
    }

    /// The bytes that can be given now.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, CasError>> {
        loop {
            self.reading = true;
            let step = ready!(self.blob.poll_next_unpin(cx)).transpose()?;
            self.reading = false;
            let Some(step) = step else {
                return Poll::Ready(match self.unread {
                    0 => Ok(std::mem::take(&mut self.held)),
                    _ => Err(self.wrong_length("fewer")),
                });
            };
            match self.unread.checked_sub(step.len() as u64) {
                Some(unread) => self.unread = unread,
                None => return Poll::Ready(Err(self.wrong_length("more"))),
            }
            if self.blob.raw_extent().is_some() {
                // There is no check to wait for.
                return Poll::Ready(Ok(step));
            }
            let before = std::mem::replace(&mut self.held, step);
            if !before.is_empty() {
                return Poll::Ready(Ok(before));
            }
        }
    }

    fn wrong_length(&self, how: &str) -> CasError {
        let message = format!("the store gave {how} bytes than the blob has");
        CasError::new(ErrorKind::Internal, message).with_digest(*self.blob.digest())
    }
}

impl Body for BlobBody {
    type Data = AnswerBuf;
    type Error = CasError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<AnswerBuf>, CasError>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let piece = match this.extent() {
            Some(part) => part,
            None => match ready!(this.poll_bytes(cx)) {
                Ok(bytes) => AnswerBuf::Bytes(bytes),
                Err(error) => {
                    this.left = 0;
                    return Poll::Ready(Some(Err(error)));
                }
            },
        };
        this.left -= piece.remaining() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobBody")
            .field("blob", &self.blob)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}
