//! A connection: a socket of either kind, or TLS over one.

use std::io::{self, IoSlice};
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

#[cfg(unix)]
use tokio::io::Interest;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// A connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    #[cfg(feature = "tls")]
    Tls(Box<super::tls::TlsStream>),
}

/// Does the same with a stream of any kind.
macro_rules! either {
    ($stream:expr, $name:ident => $done:expr) => {
        match $stream {
            Stream::Tcp($name) => $done,
            #[cfg(unix)]
            Stream::Unix($name) => $done,
            #[cfg(feature = "tls")]
            Stream::Tls($name) => $done,
        }
    };
}

/// Does the same with a socket of either kind, and something else with TLS.
#[cfg(unix)]
macro_rules! socket {
    ($stream:expr, $name:ident => $done:expr, $tls:pat => $other:expr) => {
        match $stream {
            Stream::Tcp($name) => $done,
            Stream::Unix($name) => $done,
            #[cfg(feature = "tls")]
            Stream::Tls($tls) => $other,
        }
    };
}

impl Stream {
    /// Whether what is written to the socket is what the peer reads.
    #[cfg(unix)]
    pub(crate) fn is_plain(&self) -> bool {
        socket!(self, _stream => true, _ => false)
    }
}

#[cfg(unix)]
impl Stream {
    /// Ready when something can be written, as far as is known.
    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        socket!(self, stream => stream.poll_write_ready(cx), _ => Poll::Ready(Ok(())))
    }

    /// Does a system call that writes, if the stream [is plain](Self::is_plain);
    /// `WouldBlock` if it has to wait for [`poll_write_ready`](Self::poll_write_ready).
    pub(crate) fn try_write<T>(
        &self,
        call: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        socket!(
            self,
            stream => stream.try_io(Interest::WRITABLE, || call(stream.as_fd())),
            _ => Err(io::ErrorKind::Unsupported.into())
        )
    }
}

#[cfg(target_os = "linux")]
impl Stream {
    /// Reads once, as soon as there is something, into `buffer`; how many bytes.
    pub(crate) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            std::task::ready!(socket!(self, stream => stream.poll_read_ready(cx), tls => {
                let mut buffer = ReadBuf::new(buffer);
                let read = Pin::new(tls).poll_read(cx, &mut buffer);
                return read.map_ok(|()| buffer.filled().len());
            }))?;
            match self.try_receive(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return Poll::Ready(done),
            }
        }
    }

    /// Reads what is there at this moment, whatever was known of it before.
    #[cfg(feature = "tls")]
    pub(crate) fn receive_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        use rustix::net::{RecvFlags, recv};
        socket!(
            self,
            stream => Ok(recv(stream.as_fd(), buffer, RecvFlags::DONTWAIT)?.0),
            _ => Err(io::ErrorKind::Unsupported.into())
        )
    }

    fn try_receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        use rustix::net::{RecvFlags, recv};
        let mut last = None;
        let mut call = |socket: BorrowedFd<'_>| {
            let (received, _) = recv(socket, &mut *buffer, RecvFlags::empty())?;
            if received > 0 && received < buffer.len() {
                // That was all, and epoll tells of more: no call to find that out.
                last = Some(received);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(received)
        };
        let outcome = socket!(
            self,
            stream => stream.try_io(Interest::READABLE, || call(stream.as_fd())),
            _ => Err(io::ErrorKind::Unsupported.into())
        );
        last.map_or(outcome, Ok)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        either!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}
