//! What calls that hold their bytes may hold together.
//!
//! Who gets no more is refused, not kept waiting: what a waiting call has not read
//! takes room in its connection's window, and those that have memory would wait for
//! theirs behind it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use zako_core::server::CallBody;
use zako_core::transport::grpc::Pieces;

/// What all calls may hold, in bytes.
const MOST: u64 = 256 * 1024 * 1024;

/// What is counted, in bytes; less is not.
const UNIT: u64 = 64 * 1024;

/// When a call that was refused may be tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The memory of all calls.
#[derive(Clone, Debug)]
pub(super) struct Memory(Arc<Semaphore>);

/// A part of it, until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    memory: Arc<Semaphore>,
    bytes: u64,
    permit: Option<OwnedSemaphorePermit>,
}

impl Memory {
    /// Nobody has any of it.
    pub(super) fn new() -> Self {
        // Far less than a semaphore counts.
        Self(Arc::new(Semaphore::new((MOST / UNIT) as usize)))
    }

    /// A share that has to grow before it is one.
    pub(super) fn share(&self) -> Share {
        Share {
            memory: Arc::clone(&self.0),
            bytes: 0,
            permit: None,
        }
    }

    /// The one message of a unary call, of at most `limit` bytes, and its share.
    ///
    /// # Errors
    /// As [`CallBody::pieces`] and [`Share::grow`].
    pub(super) async fn message(
        &self,
        body: &mut CallBody,
        limit: usize,
    ) -> Result<(Pieces, Share), Status> {
        let mut share = self.share();
        let take = |length| share.grow(length as u64);
        let message = body.pieces_counted(limit, take).await?;
        Ok((message, share))
    }
}

impl Share {
    /// Another one of the same memory.
    pub(super) fn sibling(&self) -> Self {
        Memory(Arc::clone(&self.memory)).share()
    }

    /// Takes more.
    ///
    /// # Errors
    /// UNAVAILABLE if others have it all.
    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), Status> {
        self.bytes = self.bytes.saturating_add(bytes);
        let has = self
            .permit
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let lacks = (self.bytes / UNIT).saturating_sub(has as u64);
        if lacks == 0 {
            return Ok(());
        }
        let lacks = u32::try_from(lacks).map_err(|_| exhausted())?;
        let more = Arc::clone(&self.memory).try_acquire_many_owned(lacks);
        let more = more.map_err(|_| exhausted())?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        Ok(())
    }
}

fn exhausted() -> Status {
    let details = ErrorDetails::with_retry_info(Some(RETRY_AFTER));
    let text = "the calls under way hold all the memory that they may have together";
    Status::with_error_details(Code::Unavailable, text, details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_no_more_than_all() {
        let memory = Memory::new();
        let (mut one, mut other) = (memory.share(), memory.share());
        for _ in 0..MOST / 1000 / 2 {
            one.grow(1000).unwrap();
            other.grow(1000).unwrap();
        }
        let error = other.grow(MOST / 10).unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        assert!(error.get_error_details().retry_info().is_some());
        // What is less than a unit is not counted.
        memory.share().grow(UNIT - 1).unwrap();
        drop(one);
        memory.share().grow(MOST / 3).unwrap();
        drop(other);
        assert_eq!(memory.0.available_permits() as u64, MOST / UNIT);
        assert!(memory.share().grow(u64::MAX).is_err());
    }
}
