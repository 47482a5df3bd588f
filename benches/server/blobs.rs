//! The blobs that are moved.

use bytes::Bytes;
use zako_core::Digest;
use zako_digest::hash;

/// Blobs that differ from one another and from other seeds', with their names.
pub(crate) fn blobs(seed: u64, count: usize, size: usize) -> Vec<(Digest, Bytes)> {
    (0..count as u64)
        .map(|at| {
            let data = Bytes::from(noise(seed << 32 | at, size));
            (hash::bytes(&data), data)
        })
        .collect()
}

/// `length` bytes that don't compress (splitmix64).
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length.next_multiple_of(8)];
    let mut state = seed.wrapping_mul(0xd134_2543_de82_ef95);
    for word in bytes.chunks_exact_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
