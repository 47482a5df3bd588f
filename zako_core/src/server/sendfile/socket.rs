//! A connection's socket, which sends files in the place of their stand-ins.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::slots::Road;
use crate::cas::FileExtent;
use crate::transport::socket::Socket as Gathered;
use crate::transport::stream::Stream;

/// Reads and writes `stream`.
pub(in crate::server) struct Socket {
    socket: Gathered,
    road: Arc<Road>,
}

impl Socket {
    pub(in crate::server) fn new(stream: Stream, road: Arc<Road>) -> Self {
        Self {
            socket: Gathered::new(stream),
            road,
        }
    }

    fn check(&self) -> Result<()> {
        match self.road.is_broken() {
            true => Err(Error::other("a blob could not be read while it was sent")),
            false => Ok(()),
        }
    }

    /// Writes what stands before the part of a file, and as much of the part as the
    /// socket takes.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        before: &[IoSlice<'_>],
        part: &FileExtent,
        length: usize,
    ) -> Poll<Result<usize>> {
        ready!(self.poll_drain(cx))?;
        let mut written = 0;
        let wanted: usize = before.iter().map(|slice| slice.len()).sum();
        if wanted > 0 {
            written = ready!(self.poll_try(cx, |socket| send_more(socket, before)))?;
            if written < wanted {
                return Poll::Ready(Ok(written));
            }
        }
        match self.poll_try(cx, |socket| send_part(socket, part, length)) {
            Poll::Ready(Ok(sent)) => Poll::Ready(Ok(written + sent)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // The rest waits for its turn; what was written counts.
            Poll::Pending if written > 0 => Poll::Ready(Ok(written)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Writes what was gathered.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.check()?;
        self.socket.poll_drain(cx)
    }

    /// Does a system call as soon as the socket can be written to.
    fn poll_try<T>(
        &self,
        cx: &mut Context<'_>,
        mut call: impl FnMut(std::os::fd::BorrowedFd<'_>) -> Result<T>,
    ) -> Poll<Result<T>> {
        let stream = self.socket.stream();
        loop {
            ready!(stream.poll_write_ready(cx))?;
            match stream.try_write(&mut call) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn send_more(socket: std::os::fd::BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> Result<usize> {
    use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
    let mut control = SendAncillaryBuffer::default();
    // The part follows at once: no packet of its own for a few bytes.
    let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
    Ok(sendmsg(socket, slices, &mut control, flags)?)
}

#[cfg(target_os = "linux")]
fn send_part(
    socket: std::os::fd::BorrowedFd<'_>,
    part: &FileExtent,
    length: usize,
) -> Result<usize> {
    let mut offset = part.offset;
    match rustix::fs::sendfile(socket, &*part.file, Some(&mut offset), length)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        sent => Ok(sent),
    }
}

#[cfg(not(target_os = "linux"))]
fn send_more(_: std::os::fd::BorrowedFd<'_>, _: &[IoSlice<'_>]) -> Result<usize> {
    Err(ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn send_part(_: std::os::fd::BorrowedFd<'_>, _: &FileExtent, _: usize) -> Result<usize> {
    Err(ErrorKind::Unsupported.into())
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
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
        self.check()?;
        for (at, slice) in slices.iter().enumerate() {
            if let Some(part) = self.road.slots.part(slice)? {
                return self.poll_send(cx, &slices[..at], &part, slice.len());
            }
        }
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        // Otherwise stand-ins would be read, in small pieces.
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.check()?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.check()?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
