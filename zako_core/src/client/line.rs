//! A connection's bytes, and why it broke where more is known than that it did.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::cas::{self, CasError};
use crate::transport::plaintext;
use crate::transport::socket::Socket;
use crate::transport::stream::Stream;

/// Why a connection broke, as soon as that is known. HTTP/2 tells its calls no more than
/// that it did.
#[derive(Clone, Debug, Default)]
pub(super) struct Fate(Arc<OnceLock<CasError>>);

/// The bytes of a connection.
pub(super) struct Line {
    socket: Socket,
    fate: Fate,
    is_plain: bool,
    /// Nothing came yet.
    is_new: bool,
}

impl Fate {
    pub(super) fn get(&self) -> Option<&CasError> {
        self.0.get()
    }

    fn set(&self, kind: cas::ErrorKind, text: String) {
        self.0.get_or_init(|| CasError::new(kind, text));
    }
}

impl Line {
    pub(super) fn new(stream: Stream) -> (Self, Fate) {
        let fate = Fate::default();
        let line = Self {
            is_plain: stream.is_plain(),
            is_new: true,
            socket: Socket::new(stream),
            fate: fate.clone(),
        };
        (line, fate)
    }

    fn judge(&self, read: Result<()>, came: &[u8]) -> Result<()> {
        match &read {
            Ok(()) if self.is_new && self.is_plain && plaintext::is_refused(came) => {
                let text = "the server speaks TLS: use https://";
                self.fate.set(cas::ErrorKind::Unsupported, text.to_owned());
                return Err(Error::new(ErrorKind::InvalidData, text));
            }
            Err(error) => self.note(error),
            _ => {}
        }
        read
    }

    fn noted<T>(&self, written: Poll<Result<T>>) -> Poll<Result<T>> {
        if let Poll::Ready(Err(error)) = &written {
            self.note(error);
        }
        written
    }

    /// Keeps what TLS tells.
    fn note(&self, error: &Error) {
        #[cfg(feature = "tls")]
        if !self.is_plain && error.kind() == ErrorKind::InvalidData {
            let (kind, text) = crate::tls::explain(error);
            self.fate.set(kind, text);
        }
        #[cfg(not(feature = "tls"))]
        let _ = error;
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let before = buf.filled().len();
        let read = std::task::ready!(Pin::new(&mut self.socket).poll_read(cx, buf));
        if self.is_new || read.is_err() {
            let judged = self.judge(read, &buf.filled()[before..]);
            self.is_new = false;
            return Poll::Ready(judged);
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.noted(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.noted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        self.noted(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let shut = Pin::new(&mut self.socket).poll_shutdown(cx);
        self.noted(shut)
    }
}
