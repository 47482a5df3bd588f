//! Noticing connections that never begin to speak HTTP/2.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stall::Stalling;

/// The length of the HTTP/2 client preface in bytes.
const PREFACE_LEN: usize = 24;

/// A stream that tells when the peer's preface has come. From then on HTTP/2's own
/// pings watch the peer, except while nothing can be written: then the stream does.
pub(super) struct Greeted<S> {
    stream: Stalling<S>,
    came: usize,
    greeted: Arc<AtomicBool>,
}

impl<S> Greeted<S> {
    /// The stream, and what becomes true.
    pub(super) fn new(stream: S, stall: Duration) -> (Self, Arc<AtomicBool>) {
        let greeted = Arc::new(AtomicBool::new(false));
        let watched = Self {
            stream: Stalling::new(stream, stall),
            came: 0,
            greeted: Arc::clone(&greeted),
        };
        (watched, greeted)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.came < PREFACE_LEN {
            self.came += buf.filled().len() - before;
            if self.came >= PREFACE_LEN {
                self.greeted.store(true, Ordering::Relaxed);
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, b: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, b)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_breaks_the_stream_and_a_slow_one_does_not() {
        let (near, mut far) = tokio::io::duplex(10);
        let (mut near, _) = Greeted::new(near, Duration::from_secs(60));
        let writing = tokio::spawn(async move { near.write_all(&[7; 100]).await });
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(59)).await;
            far.read_exact(&mut [0; 10]).await.unwrap();
        }
        let error = writing.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
