//! The memory for bodies that are held whole.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::refusal::Refusal;

/// What permits count in, in bytes.
const UNIT: u64 = 1 << 10;

/// How long a body may wait for memory.
const PATIENCE: Duration = Duration::from_secs(30);

/// A budget that all requests share.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    free: Arc<Semaphore>,
    units: u32,
}

/// A share of it, until it is dropped.
#[derive(Debug)]
pub(super) struct Share(#[allow(dead_code, reason = "held")] OwnedSemaphorePermit);

impl Memory {
    pub(super) fn new(bytes: usize) -> Self {
        let units = units(bytes as u64);
        Self {
            free: Arc::new(Semaphore::new(units as usize)),
            units,
        }
    }

    /// So many bytes, or all that there are if that is less.
    ///
    /// # Errors
    /// Others have it and don't give it back.
    pub(super) async fn share(&self, bytes: u64) -> Result<Share, Refusal> {
        let units = units(bytes).min(self.units);
        let share = Arc::clone(&self.free).acquire_many_owned(units);
        match tokio::time::timeout(PATIENCE, share).await {
            Ok(Ok(share)) => Ok(Share(share)),
            _ => Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many bodies are held in memory just now",
            )
            .retry_after(Duration::from_secs(1))),
        }
    }
}

fn units(bytes: u64) -> u32 {
    // Semaphores count up to less than that.
    u32::try_from(bytes.div_ceil(UNIT))
        .unwrap_or(u32::MAX)
        .min(1 << 28)
}
