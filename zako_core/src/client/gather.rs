//! Small blobs that are stored one by one share calls when many are under way.
//!
//! A call costs more than a small blob: so only a few run at once, and what comes
//! meanwhile goes together in the next one. Nothing waits for others to come. Where
//! nothing else is under way, a blob's call is its caller's own.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::Instrument;

use super::Client;
use super::batch::ENTRY_OVERHEAD;
use crate::Digest;
use crate::cas::{CasError, ErrorKind, Result, Stored};
use crate::observe::trace;

/// The blobs that wait, and the calls that run.
#[derive(Debug)]
pub(super) struct Gathering {
    waiting: Mutex<Waiting>,
    /// Calls for several callers run here, whichever of them goes away.
    runtime: Handle,
}

#[derive(Debug, Default)]
struct Waiting {
    /// A caller makes its own call. Nobody waits for it, as nobody knows whether it is
    /// polled: carriers may run beside it.
    alone: bool,
    /// The calls of carriers.
    calls: usize,
    /// Empty while no carrier is under way.
    blobs: VecDeque<Blob>,
}

#[derive(Debug)]
struct Blob {
    digest: Digest,
    data: Bytes,
    stored: oneshot::Sender<Result<Stored>>,
}

/// Has the right to one call at a time, and makes calls for those who wait.
struct Carrier {
    client: Client,
    /// Found a call free: goes at once.
    first: Option<Blob>,
    over: bool,
}

/// A caller's own call is under way, until this is dropped.
struct Alone<'a>(&'a Gathering);

/// Calls with small blobs that run at once; further blobs wait and go together.
const MOST_CALLS: usize = 4;

impl Gathering {
    /// For the runtime that this is called in.
    pub(super) fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            runtime: Handle::current(),
        }
    }

    /// The right to a call of one's own, if nothing is under way.
    fn alone(&self) -> Option<Alone<'_>> {
        let mut waiting = self.waiting.lock();
        let free = waiting.calls == 0 && !waiting.alone;
        waiting.alone |= free;
        free.then(|| Alone(self))
    }
}

impl Client {
    /// Stores one blob that fits into a batch.
    pub(super) async fn put_gathered(&self, digest: Digest, data: Bytes) -> Result<Stored> {
        let gathering = &self.0.gathering;
        // With one stream only, a future that is not polled would hold up the others.
        if self.0.pool.recommended() > 1
            && let Some(_alone) = gathering.alone()
        {
            let outcomes = self.put_small(&[(digest, data)]).await;
            return outcomes.into_iter().next().unwrap_or_else(ended);
        }
        let (stored, outcome) = oneshot::channel();
        let blob = Blob {
            digest,
            data,
            stored,
        };
        let first = {
            let mut waiting = gathering.waiting.lock();
            if waiting.calls + usize::from(waiting.alone) < MOST_CALLS {
                waiting.calls += 1;
                Some(blob)
            } else {
                waiting.blobs.push_back(blob);
                None
            }
        };
        if first.is_some() {
            // Not in this future: who stops polling it would hold up the others.
            let carrier = Carrier {
                client: self.clone(),
                first,
                over: false,
            };
            let carrying = carrier.run().instrument(trace::current());
            gathering.runtime.spawn(carrying);
        }
        outcome.await.unwrap_or_else(|_| ended())
    }
}

impl Carrier {
    /// Makes calls until nothing waits.
    async fn run(mut self) {
        while let Some(mut blobs) = self.next_blobs() {
            // Those who gave up need no bytes sent.
            blobs.retain(|blob| !blob.stored.is_closed());
            let call: Vec<_> = blobs
                .iter_mut()
                .map(|blob| (blob.digest, std::mem::take(&mut blob.data)))
                .collect();
            let all_gone = async {
                for blob in &mut blobs {
                    blob.stored.closed().await;
                }
            };
            let outcomes = tokio::select! {
                outcomes = self.client.put_small(&call) => outcomes,
                // The call has nobody to come back to.
                () = all_gone => continue,
            };
            for (blob, stored) in blobs.into_iter().zip(outcomes) {
                // Whoever asked may have gone away.
                let _ = blob.stored.send(stored);
            }
        }
    }

    /// What goes into the next call; `None` if nothing waits, which ends this turn.
    fn next_blobs(&mut self) -> Option<Vec<Blob>> {
        if let Some(first) = self.first.take() {
            return Some(vec![first]);
        }
        let mut waiting = self.client.0.gathering.waiting.lock();
        if waiting.blobs.is_empty() {
            waiting.calls -= 1;
            self.over = true;
            return None;
        }
        let limit = self.client.options().batch_bytes;
        let mut bytes = 0;
        let fits = |blob: &&Blob| {
            bytes += blob.digest.size() + ENTRY_OVERHEAD;
            bytes <= limit
        };
        let count = waiting.blobs.iter().take_while(fits).count().max(1);
        Some(waiting.blobs.drain(..count).collect())
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.waiting.lock().alone = false;
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        if !self.over {
            // The runtime ends: nobody carries what waits.
            let mut waiting = self.client.0.gathering.waiting.lock();
            waiting.calls -= 1;
            waiting.blobs.clear();
        }
    }
}

/// The runtime ended before the call did.
fn ended() -> Result<Stored> {
    let message = "the runtime is shutting down";
    Err(CasError::new(ErrorKind::Closed, message))
}
