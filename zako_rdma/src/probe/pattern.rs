//! What slots are filled with: bytes that both ends can make from a number.

/// The length of a group of bytes.
const GROUP: usize = 8;

/// Fills with the pattern of a slot.
pub fn fill(bytes: &mut [u8], seed: u64, slot: u32) {
    let mut at = start(seed, slot);
    for group in bytes.chunks_mut(GROUP) {
        group.copy_from_slice(&mixed(at)[..group.len()]);
        at = at.wrapping_add(1);
    }
}

/// Whether these bytes are the pattern of a slot.
pub fn is(bytes: &[u8], seed: u64, slot: u32) -> bool {
    let mut at = start(seed, slot);
    bytes.chunks(GROUP).all(|group| {
        let expected = mixed(at);
        at = at.wrapping_add(1);
        group == &expected[..group.len()]
    })
}

fn start(seed: u64, slot: u32) -> u64 {
    seed.wrapping_add(u64::from(slot) << 32)
}

/// The output function of SplitMix64.
fn mixed(at: u64) -> [u8; GROUP] {
    let mut z = at;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_the_protocol_says() {
        // SplitMix64 with the state 0 gives this first, after it has added its increment.
        let first = 0xe220_a839_7b1d_cdaf_u64.to_le_bytes();
        assert_eq!(mixed(0x9e37_79b9_7f4a_7c15), first);
        let mut bytes = [0; 19];
        fill(&mut bytes, u64::MAX, 2);
        assert_eq!(bytes[..8], mixed((2 << 32) - 1));
        assert_eq!(bytes[16..], mixed((2 << 32) + 1)[..3]);
    }

    #[test]
    fn a_bit_that_is_wrong_is_found() {
        let mut bytes = [0; 100];
        fill(&mut bytes, 7, 1);
        assert!(is(&bytes, 7, 1));
        assert!(!is(&bytes, 7, 2) && !is(&bytes, 8, 1));
        for at in 0..bytes.len() {
            bytes[at] ^= 0x10;
            assert!(!is(&bytes, 7, 1), "byte {at}");
            bytes[at] ^= 0x10;
        }
    }
}
