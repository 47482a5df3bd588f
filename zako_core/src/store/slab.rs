//! Slots by number, in chunks that never move and leave no holes in the heap.

/// Slots in chunks that are full but for the last.
#[derive(Debug)]
pub(crate) struct Slab<T>(Vec<Vec<T>>);

/// Slots in a chunk: small beside a shard of many, a few pages of memory.
const CHUNK: usize = 256;

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Slab<T> {
    pub(crate) fn get(&self, number: u32) -> &T {
        &self.0[number as usize / CHUNK][number as usize % CHUNK]
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> &mut T {
        &mut self.0[number as usize / CHUNK][number as usize % CHUNK]
    }

    /// Adds a slot and tells its number.
    pub(crate) fn push(&mut self, slot: T) -> u32 {
        match self.0.last_mut() {
            Some(last) if last.len() < CHUNK => last.push(slot),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(slot);
                self.0.push(chunk);
            }
        }
        // 2^32 slots of tens of bytes are more than a shard's share of memory.
        (self.len() - 1) as u32
    }

    /// How many slots there are; the next one's number.
    pub(crate) fn len(&self) -> usize {
        match self.0.split_last() {
            Some((last, full)) => full.len() * CHUNK + last.len(),
            None => 0,
        }
    }

    /// The memory that they take.
    pub(crate) fn memory(&self) -> usize {
        let slots: usize = self.0.iter().map(Vec::capacity).sum();
        slots * size_of::<T>() + self.0.capacity() * size_of::<Vec<T>>()
    }

    /// The slots from this number on.
    pub(crate) fn iter_from(&self, number: usize) -> impl Iterator<Item = &T> {
        let chunks = self.0.get(number / CHUNK..).unwrap_or_default();
        chunks.iter().flatten().skip(number % CHUNK)
    }
}
