//! A connection's socket, with fewer system calls than HTTP/2 asks for.

use std::io::{ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::inbox::Inbox;
use super::outbox::Outbox;
use super::stream::Stream;

/// Reads and writes a stream. After a flush it must be polled again as soon as the task
/// is woken.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Stream,
    inbox: Inbox,
    outbox: Outbox,
}

impl Socket {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
        }
    }

    /// To be written to when nothing waits any more ([`poll_drain`](Self::poll_drain)).
    #[cfg(unix)]
    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Writes what was gathered.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        while !self.outbox.waiting().is_empty() {
            let written = Pin::new(&mut self.stream).poll_write(cx, self.outbox.waiting());
            match ready!(written)? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                written => self.outbox.written(written),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let Self { stream, inbox, .. } = &mut *self;
        inbox.poll_read(stream, cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        if let Some(taken) = self.outbox.take(slices) {
            return Poll::Ready(Ok(taken));
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if self.outbox.postpones() {
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (near, _) = listener.accept().await.unwrap();
        (Socket::new(Stream::Tcp(near)), far.unwrap())
    }

    #[tokio::test]
    async fn what_comes_is_read_in_order_whatever_the_buffer_holds() {
        let (mut near, mut far) = pair().await;
        let bytes: Vec<u8> = (0..300_000u32).map(|at| (at % 251) as u8).collect();
        let sent = bytes.clone();
        let sending = tokio::spawn(async move {
            for (at, piece) in sent.chunks(9_001).enumerate() {
                far.write_all(piece).await.unwrap();
                if at % 3 == 0 {
                    // The reader finds nothing, and must be woken by what is next.
                    tokio::task::yield_now().await;
                }
            }
        });
        let mut read = Vec::new();
        for room in [1, 100, 8_133, 40_000].into_iter().cycle() {
            let mut buffer = vec![0; room];
            match near.read(&mut buffer).await.unwrap() {
                0 => break,
                count => read.extend_from_slice(&buffer[..count]),
            }
        }
        sending.await.unwrap();
        assert!(read == bytes);
    }

    #[tokio::test]
    async fn a_question_for_each_answer_never_waits() {
        let (mut near, mut far) = pair().await;
        for turn in 0..100 {
            far.write_all(&[turn; 10]).await.unwrap();
            let mut question = [0; 10];
            near.read_exact(&mut question).await.unwrap();
            near.write_all(&question).await.unwrap();
            // The first flush may be put off until the task is woken, which it is.
            near.flush().await.unwrap();
            near.flush().await.unwrap();
            let mut answer = [0; 10];
            far.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, [turn; 10]);
        }
    }
}
