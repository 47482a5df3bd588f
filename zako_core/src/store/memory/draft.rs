//! The bytes of an upload into a memory store.

use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::Mutex;

use super::chunks::Chunks;
use super::shelf::{OVERHEAD, Shelf};
use crate::cas::{CasError, ErrorKind, Result};
use crate::store::upload_name::UploadName;

/// What an upload holds, which counts against the store's bound. Its drop parks it.
pub(super) struct Draft {
    shelf: Arc<Mutex<Shelf>>,
    name: UploadName,
    /// The most bytes that it may have.
    most: u64,
    chunks: Chunks,
    tail: BytesMut,
    failed: bool,
    /// Set once the reservation was given back.
    finished: bool,
}

impl Draft {
    /// With the first `offset` bytes of what is parked, which are counted anew, since
    /// another upload may go on with them too.
    pub(super) fn open(
        store: &Arc<Mutex<Shelf>>,
        name: UploadName,
        most: u64,
        offset: u64,
    ) -> Result<Self> {
        let chunks = {
            let mut shelf = store.lock();
            let partial = shelf.partial(&name);
            let held = partial.map_or(0, Chunks::len).min(most);
            if offset > held {
                return Err(name.not_held(offset, held));
            }
            let chunks = partial.map(|partial| partial.prefix(offset));
            shelf.reserve(&name, offset + OVERHEAD)?;
            chunks.unwrap_or_default()
        };
        let mut draft = Self {
            shelf: Arc::clone(store),
            name,
            most,
            chunks,
            tail: BytesMut::new(),
            failed: false,
            finished: false,
        };
        draft.tail = draft.chunks.reopen();
        Ok(draft)
    }

    pub(super) fn len(&self) -> u64 {
        self.chunks.len()
    }

    /// Adds the next bytes.
    pub(super) fn append(&mut self, data: &[u8]) -> Result<()> {
        if self.failed {
            let text = "the upload failed before";
            return Err(self
                .name
                .mark(CasError::new(ErrorKind::InvalidArgument, text)));
        }
        let size = data.len() as u64;
        if size > self.most.saturating_sub(self.len()) {
            self.failed = true;
            return Err(self.name.too_long(self.most));
        }
        if let Err(error) = self.shelf.lock().reserve(&self.name, size) {
            self.failed = true;
            return Err(error);
        }
        self.chunks.append(&mut self.tail, data);
        Ok(())
    }

    /// Whether bytes that were given could not be taken.
    pub(super) fn failed(&self) -> bool {
        self.failed
    }

    /// Shows all bytes in order.
    pub(super) async fn show(&self, mut each: impl FnMut(&[u8])) {
        self.chunks.show(&mut each).await;
        each(&self.tail);
    }

    /// Gives the bytes out, and the reservation back to the shelf, which is the
    /// upload's. What is parked under its name is dropped.
    pub(super) fn take(&mut self, shelf: &mut Shelf) -> Chunks {
        shelf.remove_partial(&self.name);
        self.finish(shelf)
    }

    /// Keeps the bytes for a resumption; how many are held then.
    pub(super) fn park(&mut self) -> u64 {
        let shelf = Arc::clone(&self.shelf);
        let mut shelf = shelf.lock();
        let chunks = self.finish(&mut shelf);
        shelf.park(self.name, chunks)
    }

    /// Frees the bytes, and what is parked under the upload's name.
    pub(super) fn discard(&mut self) {
        let shelf = Arc::clone(&self.shelf);
        self.take(&mut shelf.lock());
    }

    fn finish(&mut self, shelf: &mut Shelf) -> Chunks {
        shelf.release(self.chunks.len() + OVERHEAD);
        self.finished = true;
        self.chunks.seal(&mut self.tail);
        std::mem::take(&mut self.chunks)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.finished {
            self.park();
        }
    }
}
