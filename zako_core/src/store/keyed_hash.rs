//! Hashing names that are hashes already.

/// Makes the placing of entries unpredictable: names are chosen by clients, who could
/// otherwise make all of theirs collide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyedHash(u64, u64);

impl KeyedHash {
    /// One that nobody can foresee.
    pub(crate) fn random() -> Self {
        Self(rand::random::<u64>() | 1, rand::random())
    }

    /// One folded multiplication of the first 16 bytes.
    pub(crate) fn of(&self, name: &[u8; 32]) -> u64 {
        let [low, high, ..] = name.as_chunks().0 else {
            return 0;
        };
        let low = u64::from_le_bytes(*low) ^ self.0;
        let high = u64::from_le_bytes(*high) ^ self.1;
        let product = u128::from(low) * u128::from(high | 1);
        (product >> 64) as u64 ^ product as u64
    }
}
