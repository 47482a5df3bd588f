//! zstd in bounded steps, without input or output of its own.

use std::fmt;
use std::io;

use bytes::{Buf, Bytes};
use zstd::stream::raw::{DParameter, Decoder, Encoder, InBuffer, Operation, OutBuffer};

/// The level of what is compressed on its way, while the client waits. Of libraries
/// level 3 makes 6 to 8 % less, of sources 12 %, but takes 1.2 to 1.7 times as long and
/// about three times the memory.
pub(crate) const LEVEL: i32 = 1;

/// So much is compressed or decompressed at once, in bytes: others get their turn
/// behind it.
pub(crate) const STEP: usize = 64 * 1024;

/// The logarithm of the largest window that is taken, 8 MiB: RFC 8878 recommends to take
/// that, and what needs more has to be asked of zstd. Decompressing takes as much memory.
const WINDOW_LOG: u32 = 23;

/// What compressing takes at [`LEVEL`], in bytes, but for what is short.
const COMPRESSING: u64 = 1280 * 1024;

/// What both take beside that, in bytes: a block, and room for a step.
const BESIDE: u64 = 256 * 1024;

/// What begins a frame.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The head of a frame with a window of 128 KiB, which does for any block.
const STORED: [u8; 6] = [0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3];

/// The last block of a frame, which holds nothing.
const LAST: [u8; 3] = [1, 0, 0];

/// Shorter blobs of a batch are not worth the try, in bytes.
pub(crate) const SHORTEST: usize = 256;

/// Makes one zstd frame.
pub(crate) struct Compressor {
    way: Way,
    /// What has yet to come.
    left: u64,
}

enum Way {
    Zstd {
        encoder: Encoder<'static>,
        room: Vec<u8>,
    },
    /// As they are; whether the frame has its head.
    Stored(bool),
}

/// How far back frames refer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    log: u32,
}

/// Reads zstd frames that follow one another.
pub(crate) struct Decompressor {
    decoder: Decoder<'static>,
    room: Vec<u8>,
    /// Inside a frame.
    within: bool,
    /// There may be more to give without more input.
    full: bool,
}

impl Compressor {
    /// A frame of so many bytes.
    ///
    /// # Errors
    /// zstd can't be set up.
    pub(crate) fn new(size: u64) -> io::Result<Self> {
        let mut encoder = Encoder::new(LEVEL)?;
        // Less memory for what is small, and the frame tells its size.
        encoder.set_pledged_src_size(Some(size))?;
        let room = Vec::with_capacity(STEP);
        Ok(Self {
            way: Way::Zstd { encoder, room },
            left: size,
        })
    }

    /// A frame of so many bytes that takes no memory and no time: it has them as they
    /// are.
    pub(crate) fn stored(size: u64) -> Self {
        Self {
            way: Way::Stored(false),
            left: size,
        }
    }

    /// What a compressor of so many bytes takes.
    pub(crate) fn memory(size: u64) -> u64 {
        size.min(COMPRESSING) + BESIDE
    }

    /// Takes up to [`STEP`] bytes off the front of `input`; what that gives, which may
    /// be nothing.
    ///
    /// # Errors
    /// More came than was said.
    pub(crate) fn step(&mut self, input: &mut Bytes) -> io::Result<Bytes> {
        let taken = input.split_to(input.len().min(STEP));
        self.left = self
            .left
            .checked_sub(taken.len() as u64)
            .ok_or_else(surplus)?;
        let mut output = Vec::new();
        match &mut self.way {
            Way::Stored(begun) => {
                if !std::mem::replace(begun, true) {
                    output.extend(STORED);
                }
                // A block's length, behind three bits that say what it is: as it is.
                let head = (taken.len() as u32) << 3;
                output.extend_from_slice(&head.to_le_bytes()[..3]);
                output.extend_from_slice(&taken);
            }
            Way::Zstd { encoder, room } => {
                let mut taken = InBuffer::around(&taken);
                while taken.pos() < taken.src.len() {
                    let mut room = OutBuffer::around(room);
                    encoder.run(&mut taken, &mut room)?;
                    output.extend_from_slice(room.as_slice());
                }
            }
        }
        Ok(output.into())
    }

    /// The end of the frame.
    ///
    /// # Errors
    /// Less came than was said.
    pub(crate) fn finish(mut self) -> io::Result<Bytes> {
        // zstd itself makes a frame of nothing, whatever was said.
        if self.left > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut output = Vec::new();
        match &mut self.way {
            Way::Stored(begun) => {
                if !*begun {
                    output.extend(STORED);
                }
                output.extend(LAST);
            }
            Way::Zstd { encoder, room } => loop {
                let mut room = OutBuffer::around(room);
                let left = encoder.finish(&mut room, true)?;
                output.extend_from_slice(room.as_slice());
                if left == 0 {
                    break;
                }
            },
        }
        Ok(output.into())
    }
}

impl Window {
    /// The largest that is taken.
    pub(crate) const LARGEST: Self = Self { log: WINDOW_LOG };

    /// That of the frame that begins with these bytes; the largest one if they don't
    /// tell.
    pub(crate) fn of(frame: &[u8]) -> Self {
        let descriptors = frame.strip_prefix(&MAGIC);
        match descriptors.and_then(|rest| rest.first_chunk()) {
            // A frame in one segment has a size in the place of the window.
            Some([descriptor, window]) if descriptor & 0x20 == 0 => {
                let part = u32::from(window & 7 > 0);
                let log = 10 + u32::from(window >> 3) + part;
                Self {
                    log: log.min(WINDOW_LOG),
                }
            }
            _ => Self::LARGEST,
        }
    }

    /// What decompressing so many bytes takes.
    pub(crate) fn memory(self, size: u64) -> u64 {
        size.min(1 << self.log) + BESIDE
    }
}

impl Decompressor {
    /// Nothing read yet. Frames refer no further back than `window`.
    ///
    /// # Errors
    /// zstd can't be set up.
    pub(crate) fn new(window: Window) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(window.log))?;
        Ok(Self {
            decoder,
            room: Vec::with_capacity(STEP),
            within: false,
            full: false,
        })
    }

    /// Takes bytes off the front of `input`; up to [`STEP`] bytes of what is in them.
    /// Nothing only when all of `input` is read.
    ///
    /// # Errors
    /// This is no zstd, is damaged, or has too large a window.
    pub(crate) fn step(&mut self, input: &mut Bytes) -> io::Result<Bytes> {
        while self.full || !input.is_empty() {
            let (read, left) = {
                let mut taken = InBuffer::around(input);
                let mut room = OutBuffer::around(&mut self.room);
                let left = self.decoder.run(&mut taken, &mut room)?;
                self.full = room.pos() == room.capacity();
                (taken.pos(), left)
            };
            input.advance(read);
            // With nothing read and nothing written no frame was begun.
            if read > 0 || !self.room.is_empty() {
                self.within = left > 0;
            }
            if !self.room.is_empty() {
                return Ok(Bytes::copy_from_slice(&self.room));
            }
        }
        Ok(Bytes::new())
    }

    /// Whether the last frame has not ended.
    pub(crate) fn is_within(&self) -> bool {
        self.within || self.full
    }
}

/// The `size` bytes that are in these, at once.
///
/// # Errors
/// This is no zstd, is damaged, or has not so many bytes in it.
pub(crate) fn decompress(data: &[u8], size: usize) -> io::Result<Bytes> {
    let mut whole = Vec::with_capacity(size);
    zstd::bulk::Decompressor::new()?.decompress_to_buffer(data, &mut whole)?;
    if whole.len() < size {
        return Err(io::Error::other(format!(
            "there are {} bytes in it",
            whole.len()
        )));
    }
    Ok(whole.into())
}

/// Compresses those of `blobs` that get shorter by an eighth at least, one frame each;
/// for each whether it was.
///
/// # Errors
/// zstd can't be set up.
pub(crate) fn compress_all(blobs: &mut [Bytes]) -> io::Result<Vec<bool>> {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
    let mut compressed = Vec::with_capacity(blobs.len());
    for blob in blobs {
        let mut shorter = Vec::with_capacity(blob.len() - blob.len() / 8);
        // It fails where that room doesn't do.
        let pays = blob.len() >= SHORTEST
            && compressor
                .compress_to_buffer(&blob[..], &mut shorter)
                .is_ok();
        if pays {
            shorter.shrink_to_fit();
            *blob = shorter.into();
        }
        compressed.push(pays);
    }
    Ok(compressed)
}

fn surplus() -> io::Error {
    io::Error::other("more bytes came than were to be compressed")
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor").finish_non_exhaustive()
    }
}

impl fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decompressor")
            .field("within", &self.within)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn compress(data: &Bytes, step: usize) -> Vec<u8> {
        all(Compressor::new(data.len() as u64).unwrap(), data, step)
    }

    fn all(mut compressor: Compressor, data: &Bytes, step: usize) -> Vec<u8> {
        let mut compressed = Vec::new();
        for piece in data.chunks(step) {
            let mut piece = data.slice_ref(piece);
            while !piece.is_empty() {
                compressed.extend(compressor.step(&mut piece).unwrap());
            }
        }
        compressed.extend(compressor.finish().unwrap());
        compressed
    }

    fn decompress(compressed: &[u8], step: usize) -> io::Result<(Vec<u8>, bool)> {
        let mut decompressor = Decompressor::new(Window::of(compressed))?;
        let mut data = Vec::new();
        for piece in compressed.chunks(step) {
            let mut piece = Bytes::copy_from_slice(piece);
            loop {
                let part = decompressor.step(&mut piece)?;
                assert!(part.len() <= STEP);
                if part.is_empty() {
                    break;
                }
                data.extend(part);
            }
            assert!(piece.is_empty());
        }
        Ok((data, decompressor.is_within()))
    }

    #[test]
    fn a_frame_tells_its_size_and_one_of_nothing_is_a_frame_too() {
        for size in [0usize, 5, 300_000] {
            let compressed = compress(&vec![7; size].into(), 1 << 20);
            let told = zstd::zstd_safe::get_frame_content_size(&compressed).unwrap();
            assert_eq!(told, Some(size as u64));
        }
    }

    #[test]
    fn another_length_than_was_said_is_an_error() {
        let mut more = Compressor::new(3).unwrap();
        assert!(more.step(&mut Bytes::from_static(b"12345")).is_err());
        let mut fewer = Compressor::new(3).unwrap();
        fewer.step(&mut Bytes::from_static(b"12")).unwrap();
        assert!(fewer.finish().is_err());
        assert!(Compressor::new(3).unwrap().finish().is_err());
    }

    #[test]
    fn a_window_is_bounded() {
        let data = vec![1; 100_000];
        for (log, taken) in [(23, true), (24, false), (27, false)] {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            std::io::Write::write_all(&mut encoder, &data).unwrap();
            let compressed = encoder.finish().unwrap();
            assert_eq!(decompress(&compressed, 1000).is_ok(), taken, "{log}");
        }
    }

    #[test]
    fn a_frame_that_is_cut_or_followed_by_garbage_is_found_out() {
        let data = Bytes::from(vec![3; 200_000]);
        let compressed = compress(&data, 70_000);
        for cut in 1..compressed.len() {
            let (_, within) = decompress(&compressed[..cut], 10).unwrap();
            assert!(within, "{cut}");
        }
        let twice = [&compressed[..], &compressed].concat();
        assert_eq!(decompress(&twice, 7).unwrap().0.len(), 400_000);
        let garbage = [&compressed[..], b"garbage"].concat();
        assert!(decompress(&garbage, 7).is_err());
        let (_, within) = decompress(&[&compressed[..], &[0x28]].concat(), 7).unwrap();
        assert!(within);
        assert!(decompress(b"no zstd at all", 3).is_err());
    }

    #[test]
    fn a_blob_of_a_batch_has_the_size_that_was_said() {
        let data = Bytes::from(vec![9; 10_000]);
        let compressed = compress(&data, 1000);
        assert_eq!(super::decompress(&compressed, 10_000).unwrap(), data);
        assert!(super::decompress(&compressed, 9999).is_err());
        assert!(super::decompress(&compressed, 10_001).is_err());
        let garbage = [&compressed[..], b"more"].concat();
        assert!(super::decompress(&garbage, 10_000).is_err());
        assert!(super::decompress(&compressed[..compressed.len() - 1], 10_000).is_err());
    }

    #[test]
    fn what_gets_no_shorter_stays_as_it_is() {
        let noise: Bytes = (0..100u32)
            .flat_map(|at| {
                *zako_digest::hash::bytes(&at.to_le_bytes())
                    .hash()
                    .as_bytes()
            })
            .collect();
        let even = Bytes::from(vec![1; 3000]);
        let short = Bytes::from(vec![1; SHORTEST - 1]);
        let mut blobs = [noise.clone(), even.clone(), short.clone(), Bytes::new()];
        let compressed = compress_all(&mut blobs).unwrap();
        assert_eq!(compressed, [false, true, false, false]);
        assert_eq!((&blobs[0], &blobs[2]), (&noise, &short));
        assert_eq!(super::decompress(&blobs[1], 3000).unwrap(), even);
    }

    #[test]
    fn a_frame_tells_its_window() {
        let data = vec![1; 100_000];
        for log in [10, 17, 21, 23, 24, 27] {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            std::io::Write::write_all(&mut encoder, &data).unwrap();
            let compressed = encoder.finish().unwrap();
            let window = Window::of(&compressed);
            assert_eq!(window.log, log.min(WINDOW_LOG));
            let memory = window.memory(1 << 30);
            assert_eq!(memory, (1 << window.log) + BESIDE);
        }
        // In one segment.
        let short = zstd::bulk::compress(&data, 3).unwrap();
        assert_eq!(Window::of(&short), Window::LARGEST);
        assert_eq!(Window::of(&short).memory(100_000), 100_000 + BESIDE);
        for no_frame in [&b""[..], b"no zstd", &MAGIC, &[0x28, 0xb5, 0x2f, 0xfd, 0]] {
            assert_eq!(Window::of(no_frame), Window::LARGEST);
        }
    }

    #[test]
    fn bytes_that_are_stored_are_a_frame_too() {
        for size in [0usize, 1, STEP, 300_000] {
            let data = Bytes::from(vec![5; size]);
            let compressor = Compressor::stored(size as u64);
            let frame = all(compressor, &data, 1 << 20);
            assert!(frame.len() < size + 100);
            assert_eq!(zstd::decode_all(&frame[..]).unwrap(), data);
            assert_eq!(decompress(&frame, 999).unwrap(), (data.to_vec(), false));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn what_is_compressed_comes_back(
            seed in proptest::collection::vec(any::<u8>(), 1..4000), times in 1usize..200,
            cut in 1usize..200_000, back in 1usize..50_000,
        ) {
            let data = Bytes::from(seed.repeat(times));
            let compressed = compress(&data, cut);
            let (decompressed, within) = decompress(&compressed, back).unwrap();
            prop_assert!(decompressed == data);
            prop_assert!(!within);
            prop_assert!(zstd::decode_all(&compressed[..]).unwrap() == data);
        }

        #[test]
        fn whatever_comes_is_refused_or_read(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), step in 1usize..40,
            at: usize, bit in 0u8..8,
        ) {
            let _ = decompress(&bytes, step);
            let mut damaged = compress(&bytes.into(), 1000);
            let at = at % damaged.len();
            damaged[at] ^= 1 << bit;
            let _ = decompress(&damaged, step);
        }
    }
}
