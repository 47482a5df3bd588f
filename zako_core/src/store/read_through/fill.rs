//! The fills of the near store that are under way.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;

use super::near_failed;
use super::tee::filling;
use crate::cas::{Blob, BlobWriter, Cas, CasError, ErrorKind, Result, Stored};
use crate::{BlobRange, Digest};

/// Blobs of up to this size are fetched whole, once for all who ask, in bytes.
pub(super) const WHOLE: u64 = 256 * 1024;

/// At most one fill for a blob.
#[derive(Debug, Default)]
pub(super) struct Fills {
    running: Mutex<HashMap<Digest, Running>>,
}

type Flight = BoxFuture<'static, Result<Bytes>>;

#[derive(Debug)]
struct Running {
    cancelled: Cancelled,
    /// Of a small blob: what others can wait for too. Whoever waits drives it, so
    /// that nobody hangs on a reader that stopped reading.
    flight: Option<WeakShared<Flight>>,
}

/// Locked while a fill enters the near store; true once the blob was deleted.
type Cancelled = Arc<tokio::sync::Mutex<bool>>;

/// A fill's place among the running ones, until it is dropped.
pub(super) struct Place {
    fills: Arc<Fills>,
    digest: Digest,
    cancelled: Cancelled,
}

impl Fills {
    /// Opens a whole blob that the near store lacks.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        near: &Arc<dyn Cas>,
        far: &Arc<dyn Cas>,
        digest: &Digest,
    ) -> Result<Blob> {
        if digest.size() <= WHOLE {
            let data = self.flight(near, far, digest).await?;
            return Ok(Blob::from_bytes(*digest, 0..digest.size(), data));
        }
        // Before the far read, so that a deletion in between is noticed.
        let place = self.begin(digest);
        let blob = far.fetch(digest, BlobRange::FULL).await?;
        Ok(match place {
            Some(place) => filling(blob, &**near, place).await,
            None => blob,
        })
    }

    /// Reads small blobs that the near store lacks, and keeps them there.
    pub(super) async fn fetch_batch(
        self: &Arc<Self>,
        near: &Arc<dyn Cas>,
        far: &Arc<dyn Cas>,
        digests: &[Digest],
    ) -> Vec<Result<Bytes>> {
        let places: Vec<Option<Place>> = digests.iter().map(|digest| self.begin(digest)).collect();
        let mut outcomes = far.fetch_batch(digests).await;
        let (fills, at): (Vec<_>, Vec<_>) = places
            .into_iter()
            .zip(&outcomes)
            .enumerate()
            .filter_map(|(at, (place, outcome))| {
                Some(((place?, outcome.as_ref().ok()?.clone()), at))
            })
            .unzip();
        let task = tokio::spawn(put_batch(Arc::clone(near), fills));
        for (stored, at) in task.await.unwrap_or_default().into_iter().zip(at) {
            if let Err(error) = stored {
                outcomes[at] = Err(error);
            }
        }
        outcomes
    }

    /// Keeps what is being read of a blob out of the near store. When this
    /// returns, no fill that began before will store it.
    pub(super) async fn cancel(&self, digest: &Digest) {
        let cancelled = self.running.lock().get_mut(digest).map(|running| {
            // Who asks from now on must ask the far store.
            running.flight = None;
            Arc::clone(&running.cancelled)
        });
        if let Some(cancelled) = cancelled {
            *cancelled.lock().await = true;
        }
    }

    #[cfg(test)]
    pub(super) fn running_is_empty(&self) -> bool {
        self.running.lock().is_empty()
    }

    fn begin(self: &Arc<Self>, digest: &Digest) -> Option<Place> {
        self.enter(&mut self.running.lock(), digest)
    }

    fn enter(
        self: &Arc<Self>,
        running: &mut HashMap<Digest, Running>,
        digest: &Digest,
    ) -> Option<Place> {
        if running.contains_key(digest) {
            return None;
        }
        let cancelled = Cancelled::default();
        let entry = Running {
            cancelled: Arc::clone(&cancelled),
            flight: None,
        };
        running.insert(*digest, entry);
        Some(Place {
            fills: Arc::clone(self),
            digest: *digest,
            cancelled,
        })
    }

    /// The one read of a small blob, begun or joined.
    fn flight(
        self: &Arc<Self>,
        near: &Arc<dyn Cas>,
        far: &Arc<dyn Cas>,
        digest: &Digest,
    ) -> Shared<Flight> {
        let mut running = self.running.lock();
        let begun = running.get(digest).and_then(|entry| entry.flight.as_ref());
        if let Some(flight) = begun.and_then(WeakShared::upgrade) {
            return flight;
        }
        let place = self.enter(&mut running, digest);
        let entered = place.is_some();
        let flight = read_whole(Arc::clone(near), Arc::clone(far), *digest, place)
            .boxed()
            .shared();
        if entered && let Some(entry) = running.get_mut(digest) {
            entry.flight = flight.downgrade();
        }
        flight
    }
}

async fn read_whole(
    near: Arc<dyn Cas>,
    far: Arc<dyn Cas>,
    digest: Digest,
    place: Option<Place>,
) -> Result<Bytes> {
    let data = far.fetch(&digest, BlobRange::FULL).await?.bytes().await?;
    if let Some(place) = place {
        let fill = (place, data.clone());
        // A task of its own: it holds the place's lock, and a reader may stop polling.
        let task = tokio::spawn(put_batch(near, vec![fill]));
        task.await
            .unwrap_or_default()
            .into_iter()
            .collect::<Result<()>>()?;
    }
    Ok(data)
}

/// Stores what wasn't deleted meanwhile. Fails where the bytes are not the digest's,
/// and nowhere else.
async fn put_batch(near: Arc<dyn Cas>, fills: Vec<(Place, Bytes)>) -> Vec<Result<()>> {
    let mut outcomes = Vec::with_capacity(fills.len());
    let mut blobs = Vec::with_capacity(fills.len());
    let mut kept = Vec::with_capacity(fills.len());
    let mut locks = Vec::with_capacity(fills.len());
    for (place, data) in fills {
        // A place is in one batch only and a deletion takes one lock at a time, so
        // nobody waits in a circle.
        let cancelled = Arc::clone(&place.cancelled).lock_owned().await;
        if !*cancelled {
            kept.push(outcomes.len());
            blobs.push((place.digest, data));
        }
        outcomes.push(Ok(()));
        locks.push((cancelled, place));
    }
    for (outcome, at) in near.put_batch(blobs).await.into_iter().zip(kept) {
        if let Err(error) = outcome {
            if error.kind() == ErrorKind::Mismatch {
                outcomes[at] = Err(other_bytes(locks[at].1.digest, error));
            } else {
                near_failed("fill", &error);
            }
        }
    }
    outcomes
}

/// What the far store gave under `digest` is something else.
pub(super) fn other_bytes(digest: Digest, mismatch: CasError) -> CasError {
    CasError::new(ErrorKind::Corrupt, "the far store gave other bytes")
        .with_digest(digest)
        .with_source(mismatch)
}

impl Place {
    /// Stores what was written, unless the blob was deleted meanwhile.
    pub(super) async fn commit(self, writer: Box<dyn BlobWriter>) -> Result<()> {
        let task = tokio::spawn(async move {
            let cancelled = self.cancelled.lock().await;
            if *cancelled {
                return writer.discard().await;
            }
            writer.commit().await.map(|_: Stored| ())
        });
        task.await.unwrap_or_else(|error| {
            Err(CasError::new(ErrorKind::Internal, "the fill ended early").with_source(error))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut running = self.fills.running.lock();
        if running
            .get(&self.digest)
            .is_some_and(|entry| Arc::ptr_eq(&entry.cancelled, &self.cancelled))
        {
            running.remove(&self.digest);
        }
    }
}
