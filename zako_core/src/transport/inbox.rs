//! Reading all that a socket has with one system call.
//!
//! The library below reads into what is left of 8 KiB: a small blob with its headers
//! would take two calls.

use std::cell::RefCell;
use std::io::Result;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use super::stream::Stream;

/// Buffers of at least so many bytes are read into directly: there is no call to save
/// that would be worth a copy.
const LONG: usize = 16 << 10;

/// What a read takes at most that goes to a shorter one.
const ROOM: usize = 32 << 10;

thread_local! {
    /// Of the thread, not of the connection: one that is idle keeps no memory.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; ROOM].into());
}

/// Bytes that were read and are not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    /// Those before were taken.
    next: usize,
}

impl Inbox {
    /// Reads from `stream`, as [`AsyncRead::poll_read`].
    pub(crate) fn poll_read(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        if self.next < self.bytes.len() {
            self.give(buf);
            return Poll::Ready(Ok(()));
        }
        #[cfg(target_os = "linux")]
        if buf.remaining() < LONG && stream.is_plain() {
            return SCRATCH.with_borrow_mut(|scratch| {
                let received = std::task::ready!(stream.poll_receive(cx, scratch))?;
                self.split(&scratch[..received], buf);
                Poll::Ready(Ok(()))
            });
        }
        Pin::new(stream).poll_read(cx, buf)
    }

    /// Puts what there is room for into `buf`, and keeps the rest.
    fn split(&mut self, received: &[u8], buf: &mut ReadBuf<'_>) {
        let (now, later) = received.split_at(received.len().min(buf.remaining()));
        buf.put_slice(now);
        self.bytes.extend_from_slice(later);
    }

    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let waiting = &self.bytes[self.next..];
        let given = waiting.len().min(buf.remaining());
        buf.put_slice(&waiting[..given]);
        self.next += given;
        if self.next == self.bytes.len() {
            // An idle connection keeps no memory.
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_buffer_has_no_room_for_is_next() {
        let mut inbox = Inbox::default();
        let mut bytes = [0; 4];
        let mut buf = ReadBuf::new(&mut bytes);
        inbox.split(&[1, 2, 3, 4, 5, 6, 7], &mut buf);
        assert_eq!(buf.filled(), [1, 2, 3, 4]);
        buf.clear();
        buf.put_slice(&[0, 0]);
        inbox.give(&mut buf);
        assert_eq!(buf.filled(), [0, 0, 5, 6]);
        buf.clear();
        inbox.give(&mut buf);
        assert_eq!(buf.filled(), [7]);
        assert_eq!(inbox.bytes.capacity(), 0);
    }
}
