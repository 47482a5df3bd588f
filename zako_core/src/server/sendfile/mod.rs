//! From a file to the socket without a copy in this process.
//!
//! HTTP/2 frames are written by a library that knows memory only. So a part of a file
//! goes through it as a [`ExtentBuf`]: a buffer whose bytes nobody reads, because the
//! [`socket`](Socket) below knows the addresses of such buffers ([`Slots`]) and gives
//! the kernel the file instead. Where bytes are looked at all the same (HTTP/2 copies
//! the first few of a frame behind its head), they are read from the file.

mod buf;
mod slots;
mod socket;

#[cfg(target_os = "linux")]
pub(super) use buf::has_no_disk;
pub(super) use buf::{AnswerBuf, ExtentBuf};
pub(super) use slots::{Road, SLOT, Slots};
pub(super) use socket::Socket;
