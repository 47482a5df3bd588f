//! The memory of a probe that its peer may write.

use std::sync::Arc;

use bytes::Bytes;

use super::{SLOT_BYTES, pattern};
use crate::memory::Slab;
use crate::session::SessionError;

/// The scratch slots in a slab, behind its first slot, which is the nonce's. The peer may
/// write them at any time, so they are only copied, never lent.
#[derive(Debug)]
pub(super) struct Scratch {
    slab: Arc<Slab>,
    /// A slot's bytes on their way.
    copy: Vec<u8>,
}

impl Scratch {
    pub(super) fn new(slab: &Arc<Slab>) -> Self {
        Self {
            slab: Arc::clone(slab),
            copy: vec![0; SLOT_BYTES],
        }
    }

    /// Fills the beginning of the first slots.
    pub(super) fn fill(&mut self, seed: u64, length: u32, slots: u32) -> Result<(), SessionError> {
        let length = length as usize;
        for slot in 0..slots {
            let copy = part(&mut self.copy, length)?;
            pattern::fill(copy, seed, slot);
            written(&self.slab, slot, copy)?;
        }
        Ok(())
    }

    /// How many of the first slots don't begin with what they should.
    pub(super) fn wrong(
        &mut self,
        seed: u64,
        length: u32,
        slots: u32,
    ) -> Result<u32, SessionError> {
        let mut wrong = 0;
        for slot in 0..slots {
            let copy = self.read(slot, length)?;
            wrong += u32::from(!pattern::is(copy, seed, slot));
        }
        Ok(wrong)
    }

    /// The beginning of a slot.
    pub(super) fn bytes(&mut self, slot: u32, length: u32) -> Result<Bytes, SessionError> {
        self.read(slot, length).map(Bytes::copy_from_slice)
    }

    /// Writes the beginning of a slot.
    pub(super) fn write(&self, slot: u32, data: &[u8]) -> Result<(), SessionError> {
        written(&self.slab, slot, data)
    }

    fn read(&mut self, slot: u32, length: u32) -> Result<&[u8], SessionError> {
        let copy = part(&mut self.copy, length as usize)?;
        match self.slab.read_at(offset(slot), copy) {
            true => Ok(copy),
            false => Err(no_such()),
        }
    }
}

/// Where a slot begins, from the beginning of the memory.
pub(super) fn offset(slot: u32) -> usize {
    (slot as usize + 1) * SLOT_BYTES
}

fn part(copy: &mut [u8], length: usize) -> Result<&mut [u8], SessionError> {
    copy.get_mut(..length).ok_or_else(no_such)
}

fn written(slab: &Slab, slot: u32, data: &[u8]) -> Result<(), SessionError> {
    let in_slot = data.len() <= SLOT_BYTES;
    match in_slot && slab.write_at(offset(slot), data) {
        true => Ok(()),
        false => Err(no_such()),
    }
}

fn no_such() -> SessionError {
    SessionError::Internal("a probe has no such scratch memory".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_apart_and_bounded() {
        let slab = Slab::new(4, SLOT_BYTES).unwrap();
        let mut scratch = Scratch::new(&slab);
        scratch.fill(9, 100, 3).unwrap();
        assert_eq!(scratch.wrong(9, 100, 3), Ok(0));
        assert_eq!(scratch.wrong(8, 100, 3), Ok(3));
        scratch.write(1, &[0; 3]).unwrap();
        assert_eq!(scratch.wrong(9, 100, 3), Ok(1));
        assert_eq!(scratch.bytes(1, 3).unwrap(), [0; 3].as_slice());
        assert!(scratch.write(3, &[1]).is_err(), "there are three");
        assert!(scratch.write(0, &[1; SLOT_BYTES + 1]).is_err());
        assert!(scratch.bytes(0, SLOT_BYTES as u32 + 1).is_err());
        let nonce = slab.take().unwrap();
        assert!(nonce.iter().all(|byte| *byte == 0), "it was not touched");
    }
}
