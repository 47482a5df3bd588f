//! A socket whose bytes are encrypted.
//!
//! After the handshake the TLS library sees memory only, and this has the socket: few
//! system calls, each of many records, in either direction.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, BufRead, ErrorKind, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::stream::Stream;

/// What is received at once, at most.
const ROOM: usize = 128 << 10;

/// What is received at once, at least, if it is there: two records.
const LEAST: usize = 34 << 10;

/// What is encrypted ahead of the socket, at most; a peer that reads nothing makes a
/// connection keep so much.
const AHEAD: usize = 64 << 10;

thread_local! {
    /// Of the thread, not of the connection: one that is idle keeps no memory.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; ROOM].into());
}

/// A connection after its handshake.
pub(crate) struct TlsStream {
    socket: Stream,
    session: Connection,
    /// Records that came and are not decrypted yet.
    came: Vec<u8>,
    /// Those before were.
    next: usize,
    /// The peer's end was told that nothing more comes.
    ended: bool,
}

/// What the library writes to.
struct Outlet<'a, 'b> {
    socket: &'a mut Stream,
    cx: &'a mut Context<'b>,
}

impl TlsStream {
    /// `session` has shaken hands over `socket`, and nothing else read from it.
    pub(crate) fn new(socket: TcpStream, mut session: Connection) -> Self {
        session.set_buffer_limit(Some(AHEAD));
        Self {
            socket: Stream::Tcp(socket),
            session,
            came: Vec::new(),
            next: 0,
            ended: false,
        }
    }

    /// Decrypts into `buf` what came, until it is full or nothing whole is left; how many
    /// of the bytes were taken.
    fn decrypt(&mut self, mut came: &[u8], buf: &mut ReadBuf<'_>) -> io::Result<usize> {
        let all = came.len();
        while self.give(buf)? && !came.is_empty() {
            // It takes a part of a record at a time.
            if self.session.read_tls(&mut came)? == 0 {
                // Nothing that comes behind the end counts.
                came = &[];
            }
            self.session
                .process_new_packets()
                .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        }
        Ok(all - came.len())
    }

    /// Gives what is decrypted; whether there is room for more.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<bool> {
        while buf.remaining() > 0 {
            // Not `read`: it would have the room filled with zeros first.
            let chunk = match self.session.reader().into_first_chunk() {
                Ok([]) => {
                    self.ended = true;
                    return Ok(false);
                }
                Ok(chunk) => &chunk[..chunk.len().min(buf.remaining())],
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            buf.put_slice(chunk);
            let given = chunk.len();
            self.session.reader().consume(given);
        }
        Ok(false)
    }

    /// Decrypts what was kept.
    fn decrypt_kept(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        let kept = std::mem::take(&mut self.came);
        let taken = self.decrypt(&kept[self.next..], buf)?;
        self.next += taken;
        if self.next < kept.len() {
            self.came = kept;
        } else {
            // An idle connection keeps no memory.
            self.next = 0;
        }
        Ok(())
    }

    /// Receives once, and decrypts what came.
    fn poll_more(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let room = (buf.remaining() + 1024).clamp(LEAST, ROOM);
            let received = ready!(receive(&mut self.socket, cx, &mut scratch[..room]))?;
            if received == 0 {
                // The library tells an end that the peer meant from one that it didn't.
                self.session.read_tls(&mut io::empty())?;
                self.give(buf)?;
                return Poll::Ready(Ok(()));
            }
            let came = &scratch[..received];
            let taken = self.decrypt(came, buf)?;
            self.came.extend_from_slice(&came[taken..]);
            Poll::Ready(Ok(()))
        })
    }

    fn poll_decrypted(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if !self.give(buf)? {
            return Poll::Ready(Ok(()));
        }
        if self.next < self.came.len() {
            self.decrypt_kept(buf)?;
        }
        while buf.filled().len() == before && !self.ended {
            ready!(self.poll_more(cx, buf))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what is encrypted.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            let mut outlet = Outlet {
                socket: &mut self.socket,
                cx,
            };
            match self.session.write_tls(&mut outlet) {
                Ok(0) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.poll_decrypted(cx, buf);
        if self.session.wants_write() {
            // An alert that tells the peer what was wrong, or new keys: as far as the
            // socket takes it now.
            let _ = self.poll_drain(cx)?;
        }
        read
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        let taken = self.session.writer().write_vectored(slices)?;
        // What the socket doesn't take now is sent before more is taken, or by a flush.
        let _ = self.poll_drain(cx)?;
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Said once, however often this is called.
        self.session.send_close_notify();
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Outlet<'_, '_> {
    fn finish(polled: Poll<io::Result<usize>>) -> io::Result<usize> {
        match polled {
            Poll::Ready(written) => written,
            Poll::Pending => Err(ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Outlet<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::finish(Pin::new(&mut *self.socket).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Self::finish(Pin::new(&mut *self.socket).poll_write_vectored(self.cx, slices))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn receive(
    socket: &mut Stream,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    socket.poll_receive(cx, buffer)
}

#[cfg(not(target_os = "linux"))]
fn receive(
    socket: &mut Stream,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(buffer);
    let read = Pin::new(socket).poll_read(cx, &mut buffer);
    read.map_ok(|()| buffer.filled().len())
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}
