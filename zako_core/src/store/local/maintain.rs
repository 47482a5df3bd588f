//! The local store as a [`Maintain`].

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::LocalStore;
use super::janitor::Request;
use super::record::HEADER_LEN;
use super::shared::stopped;
use super::{steps, verify};
use crate::cas::{GcReport, Maintain, Result, Usage, VerifyReport, VerifyScope};

#[async_trait]
impl Maintain for LocalStore {
    async fn usage(&self) -> Result<Usage> {
        self.shared.opening.wait().await?;
        let shared = &self.shared;
        let (index, segments) = (&shared.index, shared.segments.all());
        let dead = segments
            .iter()
            .map(|segment| {
                segment
                    .length()
                    .saturating_sub(segment.live() + HEADER_LEN as u64)
            })
            .sum();
        Ok(Usage {
            blobs: index.blobs(),
            blob_bytes: index.bytes(),
            disk_bytes: shared.space.used(),
            disk_cap_bytes: shared.space.cap(),
            reclaimable_bytes: dead,
            leased_bytes: shared.ledger.leased(shared.now()),
            partial_bytes: shared.partials.bytes(),
            quarantined_blobs: shared.quarantine.files(),
            index_bytes: index.memory(),
            queued_bytes: shared.queued(),
            blocking_jobs: steps::jobs(),
            durability: shared.options.durability.as_str(),
        })
    }

    async fn verify(
        &self,
        scope: VerifyScope,
        progress: mpsc::Sender<VerifyReport>,
    ) -> Result<VerifyReport> {
        self.shared.ready().await?;
        verify::verify(self, scope, &progress).await
    }

    async fn collect_garbage(&self) -> Result<GcReport> {
        self.shared.ready().await?;
        let (ack, report) = oneshot::channel();
        self.threads
            .janitor
            .send(Request::Collect { ack })
            .map_err(|_| stopped())?;
        report.await.map_err(|_| stopped())?
    }
}
