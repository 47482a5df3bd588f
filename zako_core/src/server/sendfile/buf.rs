//! What an answer consists of: bytes at hand, and parts of files.

use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use bytes::{Buf, Bytes};

use super::slots::{Road, SLOT, Slot};
use crate::cas::FileExtent;

/// HTTP/2 copies at most 256 bytes of a frame behind its head.
const HEAD: usize = 256;

/// A piece of an answer.
pub(in crate::server) enum AnswerBuf {
    Bytes(Bytes),
    Extent(ExtentBuf),
}

/// Part of a file on its way to the socket.
pub(in crate::server) struct ExtentBuf {
    slot: Slot,
    start: usize,
    end: usize,
    /// The next bytes, if they were looked at.
    head: OnceLock<Box<[u8]>>,
}

impl ExtentBuf {
    /// The `length` bytes at `extent`, at most [`SLOT`]; `None` if all slots are taken,
    /// or if the kernel would have to wait for the disk: it would keep this thread. That
    /// is asked now; what is evicted before it is sent is waited for.
    pub(in crate::server) fn new(
        road: &Arc<Road>,
        extent: FileExtent,
        length: usize,
    ) -> Option<Self> {
        if length > SLOT || !road.sends_files() || !in_memory(&extent, length) {
            return None;
        }
        Some(Self {
            slot: Slot::take(road, extent)?,
            start: 0,
            end: length,
            head: OnceLock::new(),
        })
    }

    fn read_head(&self) -> Box<[u8]> {
        let mut head = vec![0; self.remaining().min(HEAD)].into_boxed_slice();
        let read = match self.slot.file() {
            Some((file, offset)) => file.read_exact_at(&mut head, offset + self.start as u64),
            None => Err(std::io::ErrorKind::NotFound.into()),
        };
        if let Err(error) = read {
            tracing::error!(%error, "a blob that is being sent can't be read");
            // There is no way back from here: the connection ends before this is sent.
            self.slot.road().break_off();
        }
        head
    }
}

impl Buf for ExtentBuf {
    fn remaining(&self) -> usize {
        self.end - self.start
    }

    fn chunk(&self) -> &[u8] {
        match self.remaining() {
            0 => &[],
            _ => self.head.get_or_init(|| self.read_head()),
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        if slices.is_empty() || self.remaining() == 0 {
            return 0;
        }
        slices[0] = IoSlice::new(self.slot.stand_in(self.start, self.end));
        1
    }

    fn advance(&mut self, count: usize) {
        assert!(count <= self.remaining(), "more than there is");
        self.start += count;
        self.head.take();
    }
}

impl Buf for AnswerBuf {
    fn remaining(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Extent(extent) => extent.remaining(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Extent(extent) => extent.chunk(),
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.chunks_vectored(slices),
            Self::Extent(extent) => extent.chunks_vectored(slices),
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Bytes(bytes) => bytes.advance(count),
            Self::Extent(extent) => extent.advance(count),
        }
    }
}

/// Whether the page cache has a part of a file, as far as some of its bytes tell; the
/// end of the file is not in memory.
#[cfg(target_os = "linux")]
fn in_memory(extent: &FileExtent, length: usize) -> bool {
    use rustix::io::{Errno, ReadWriteFlags, preadv2};
    /// Read-ahead brings in about so much at once.
    const STRIDE: usize = 64 * 1024;
    let there = |at: usize| {
        let mut byte = [0];
        let mut buffers = [std::io::IoSliceMut::new(&mut byte)];
        let offset = extent.offset + at as u64;
        match preadv2(&*extent.file, &mut buffers, offset, ReadWriteFlags::NOWAIT) {
            Err(Errno::OPNOTSUPP) if has_no_disk(&extent.file) => {
                matches!(extent.file.read_at(&mut byte, offset), Ok(1))
            }
            read => read == Ok(1),
        }
    };
    (0..length).step_by(STRIDE).all(there) && length.checked_sub(1).is_some_and(there)
}

/// Whether a file is in a file system that has no disk to be waited for: tmpfs, which can't
/// be asked for what is cached.
#[cfg(target_os = "linux")]
pub(in crate::server) fn has_no_disk(file: &std::fs::File) -> bool {
    const TMPFS: i128 = 0x0102_1994;
    rustix::fs::fstatfs(file).is_ok_and(|stat| i128::from(stat.f_type) == TMPFS)
}

#[cfg(not(target_os = "linux"))]
fn in_memory(_: &FileExtent, _: usize) -> bool {
    false
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::fs::File;

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::super::Slots;
    use super::*;

    fn buf(content: &[u8], offset: u64, length: usize) -> (Arc<Road>, Option<ExtentBuf>) {
        // Not every file system that temporary files may be on tells what is cached.
        let file = memfd_create("extent", MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(file);
        file.write_all_at(content, 0).unwrap();
        let road = Arc::new(Road::new(Arc::new(Slots::new())));
        let file = Arc::new(file);
        let buf = ExtentBuf::new(&road, FileExtent { file, offset }, length);
        (road, buf)
    }

    #[test]
    fn who_looks_sees_the_files_bytes() {
        let content: Vec<u8> = (0..100_000u32).map(|n| (n / 3) as u8).collect();
        let (_, buf) = buf(&content, 500, 90_000);
        let mut buf = buf.unwrap();
        assert_eq!(buf.remaining(), 90_000);
        buf.advance(1_000);
        let mut copied = vec![0; 300];
        buf.copy_to_slice(&mut copied);
        assert_eq!(copied, content[1_500..1_800]);
        let all = buf.copy_to_bytes(buf.remaining());
        assert_eq!(all, content[1_800..90_500]);
        assert!(buf.chunk().is_empty());
    }

    #[test]
    fn a_part_beyond_the_end_is_no_buffer_and_one_that_vanishes_breaks_the_connection() {
        assert!(buf(&[7; 1000], 1, 1000).1.is_none());
        assert!(buf(&[7; 1000], 0, 0).1.is_none());
        assert!(buf(&[7; 1000], 0, SLOT + 1).1.is_none());
        let (road, buf) = buf(&[7; 1000], 0, 1000);
        let buf = buf.unwrap();
        buf.slot.file().unwrap().0.set_len(10).unwrap();
        assert!(!road.is_broken());
        assert_eq!(buf.chunk().len(), HEAD);
        assert!(road.is_broken());
    }
}
