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
    /// Something came that no one may read on after.
    broken: bool,
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
            broken: false,
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
            self.process()?;
        }
        Ok(all - came.len())
    }

    /// Fails once it has failed.
    fn process(&mut self) -> io::Result<()> {
        let processed = self.session.process_new_packets();
        self.broken = processed.is_err();
        match processed {
            Ok(_) => Ok(()),
            Err(error) => Err(io::Error::new(ErrorKind::InvalidData, error)),
        }
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
        if self.broken {
            return Poll::Ready(self.process());
        }
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
                Err(error) => return Poll::Ready(Err(self.why(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Why the peer takes nothing any more: what it said last, if it did, and else the
    /// error of the socket. A client learns so that its certificate was refused, which it
    /// may write on after.
    fn why(&mut self, error: io::Error) -> io::Error {
        SCRATCH.with_borrow_mut(|scratch| {
            // No more than this, whatever still comes.
            for _ in 0..8 {
                match receive_now(&mut self.socket, scratch) {
                    Ok(count @ 1..) => self.came.extend_from_slice(&scratch[..count]),
                    _ => break,
                }
            }
        });
        let kept = std::mem::take(&mut self.came);
        let mut came = &kept[self.next..];
        self.next = 0;
        while !came.is_empty() {
            // What is no alert is of no use: the connection has ended.
            match self.session.read_tls(&mut came) {
                Ok(1..) => {}
                _ => break,
            }
            if let Err(said) = self.process() {
                return said;
            }
            loop {
                let given = match self.session.reader().into_first_chunk() {
                    Ok(chunk) if !chunk.is_empty() => chunk.len(),
                    _ => break,
                };
                self.session.reader().consume(given);
            }
        }
        error
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

/// Without waiting, and without asking whether there is something.
#[cfg(target_os = "linux")]
fn receive_now(socket: &mut Stream, buffer: &mut [u8]) -> io::Result<usize> {
    socket.receive_now(buffer)
}

#[cfg(not(target_os = "linux"))]
fn receive_now(_: &mut Stream, _: &mut [u8]) -> io::Result<usize> {
    Err(ErrorKind::Unsupported.into())
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Both ends of a connection, the near one's a client.
    async fn pair() -> (TlsStream, TlsStream) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (accepted, _) = listener.accept().await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        let (near, far) = tokio::join!(
            connector.connect("localhost".try_into().unwrap(), tcp.unwrap()),
            acceptor.accept(accepted),
        );
        let (near, far) = (near.unwrap().into_inner(), far.unwrap().into_inner());
        (
            TlsStream::new(near.0, near.1.into()),
            TlsStream::new(far.0, far.1.into()),
        )
    }

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|at| (at * at % 251) as u8).collect()
    }

    #[tokio::test]
    async fn what_comes_is_read_in_order_whatever_the_buffers_hold() {
        let (mut near, mut far) = pair().await;
        let sent = bytes(3_000_000);
        let all = sent.clone();
        let sending = tokio::spawn(async move {
            let mut left = &all[..];
            for step in [1, 100, 70_000, 16_384, 300_000].into_iter().cycle() {
                let (now, later) = left.split_at(step.min(left.len()));
                far.write_all(now).await.unwrap();
                left = later;
                if left.is_empty() {
                    break;
                }
            }
            far.shutdown().await.unwrap();
            far
        });
        let mut read = Vec::new();
        for room in [1, 100, 8_133, 40_000, 300_000].into_iter().cycle() {
            let mut buffer = vec![0; room];
            match near.read(&mut buffer).await.unwrap() {
                0 => break,
                count => read.extend_from_slice(&buffer[..count]),
            }
        }
        assert!(read == sent);
        assert_eq!(near.came.capacity(), 0, "it keeps nothing");
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0, "the end stays");
        // The other direction is open yet.
        let mut far = sending.await.unwrap();
        near.write_all(b"still").await.unwrap();
        near.shutdown().await.unwrap();
        let mut said = String::new();
        far.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "still");
    }

    #[tokio::test]
    async fn both_directions_move_at_once() {
        let (near, far) = pair().await;
        let sent = bytes(2_000_000);
        let mut ends = Vec::new();
        for end in [near, far] {
            let sent = sent.clone();
            ends.push(tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(end);
                let writing = async {
                    writer.write_all(&sent).await.unwrap();
                    writer.flush().await.unwrap();
                };
                let mut read = vec![0; sent.len()];
                let reading = async { reader.read_exact(&mut read).await.unwrap() };
                tokio::join!(writing, reading);
                assert!(read == sent);
            }));
        }
        for end in ends {
            end.await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_end_that_was_cut_is_none() {
        let (mut near, mut far) = pair().await;
        far.write_all(b"half").await.unwrap();
        far.flush().await.unwrap();
        drop(far);
        let mut said = Vec::new();
        let error = near.read_to_end(&mut said).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        assert_eq!(said, b"half");
    }

    #[tokio::test]
    async fn bytes_that_were_changed_end_the_connection() {
        let (mut near, far) = pair().await;
        let Stream::Tcp(mut tcp) = far.socket else {
            panic!("the socket is TCP's");
        };
        // A record whose bytes are no one's.
        let mut forged = vec![23, 3, 3, 0, 100];
        forged.extend(bytes(100));
        tcp.write_all(&forged).await.unwrap();
        let error = near.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(near.read(&mut [0; 10]).await.is_err());
    }

    #[tokio::test]
    async fn who_writes_on_after_an_alert_is_told_of_it() {
        let (mut near, mut far) = pair().await;
        // The far end refuses what comes, says so, and is gone with what it didn't read.
        let mut forged = vec![23, 3, 3, 0, 100];
        forged.extend(bytes(100));
        let Stream::Tcp(tcp) = &mut near.socket else {
            panic!("the socket is TCP's");
        };
        tcp.write_all(&forged).await.unwrap();
        assert!(far.read(&mut [0; 10]).await.is_err());
        drop(far);
        let error = loop {
            if let Err(error) = near.write_all(b"on").await {
                break error;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
        assert!(error.to_string().contains("alert"), "{error}");
    }

    #[tokio::test]
    async fn a_peer_that_reads_nothing_is_encrypted_for_no_further() {
        let (mut near, mut far) = pair().await;
        let piece = bytes(256 << 10);
        let mut taken = 0;
        // Until the sockets are full.
        loop {
            let write = std::future::poll_fn(|cx| {
                let written = Pin::new(&mut near).poll_write(cx, &piece);
                Poll::Ready(written)
            });
            match write.await {
                Poll::Ready(count) => taken += count.unwrap(),
                Poll::Pending => break,
            }
        }
        assert!(near.session.wants_write());
        let reading = tokio::spawn(async move {
            let mut read = vec![0; taken];
            far.read_exact(&mut read).await.unwrap();
            read
        });
        near.flush().await.unwrap();
        let read = reading.await.unwrap();
        assert!(read.len() == taken);
    }
}
