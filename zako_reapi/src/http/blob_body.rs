//! A blob as a body of known length.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::StreamExt;
use http_body::{Body, Frame, SizeHint};
use zako_core::cas::{Blob, CasError, ErrorKind};

/// The bytes of an opened blob. The last ones come when the store has checked all of them:
/// behind a body of known length there is no place to tell of damage.
pub(super) struct BlobBody {
    blob: Blob,
    /// What is not given yet.
    left: u64,
    /// What the blob has yet to read.
    unread: u64,
    /// The last step that was read: it is given when the next one is there.
    held: Bytes,
}

impl BlobBody {
    pub(super) fn new(blob: Blob) -> Self {
        Self {
            left: blob.len(),
            unread: blob.len(),
            // A slow reader keeps no file of the store open for its extent.
            blob: blob.without_extent(),
            held: Bytes::new(),
        }
    }

    /// The bytes that can be given now.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, CasError>> {
        loop {
            let Some(step) = ready!(self.blob.poll_next_unpin(cx)).transpose()? else {
                return Poll::Ready(match self.unread {
                    0 => Ok(std::mem::take(&mut self.held)),
                    _ => Err(self.wrong_length("fewer")),
                });
            };
            match self.unread.checked_sub(step.len() as u64) {
                Some(unread) => self.unread = unread,
                None => return Poll::Ready(Err(self.wrong_length("more"))),
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
    type Data = Bytes;
    type Error = CasError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CasError>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(match ready!(this.poll_bytes(cx)) {
            Ok(bytes) => {
                this.left -= bytes.len() as u64;
                Ok(Frame::data(bytes))
            }
            Err(error) => {
                this.left = 0;
                Err(error)
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn body(size: usize, steps: Vec<Result<&'static [u8], CasError>>) -> BlobBody {
        let digest = zako_digest::hash::bytes(b"any");
        let steps = steps.into_iter().map(|step| step.map(Bytes::from_static));
        let steps = futures::stream::iter(steps);
        BlobBody::new(Blob::from_stream(digest, 0..size as u64, steps))
    }

    #[tokio::test]
    async fn a_body_that_is_whole_has_been_checked() {
        let whole = body(6, vec![Ok(b"abc"), Ok(b"def")]);
        assert_eq!(whole.size_hint().exact(), Some(6));
        assert_eq!(whole.collect().await.unwrap().to_bytes(), "abcdef");
        let damaged = CasError::new(ErrorKind::Corrupt, "damaged");
        let mut late = body(6, vec![Ok(b"abc"), Ok(b"def"), Err(damaged)]);
        let first = late.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "abc");
        assert!(late.frame().await.unwrap().is_err());
        for steps in [vec![Ok(&b"ab"[..])], vec![Ok(&b"abcd"[..]), Ok(b"efg")]] {
            assert!(body(6, steps).collect().await.is_err());
        }
    }
}
