//! Looking after the server's store from afar.

use async_trait::async_trait;
use tokio::sync::mpsc;
use zako_protobuf::store as proto;
use zako_protobuf::store::store_client::StoreClient;

use super::negotiate::proto_digests;
use super::stat::digest_of;
use super::{Client, status};
use crate::Digest;
use crate::cas::{
    CasError, ErrorKind, GcReport, Maintain, Result, Usage, VerifyReport, VerifyScope,
};

#[async_trait]
impl Maintain for Client {
    async fn usage(&self) -> Result<Usage> {
        Ok(self.status().await?.usage)
    }

    /// Not tried again when it breaks off: it would begin anew.
    async fn verify(
        &self,
        scope: VerifyScope,
        progress: mpsc::Sender<VerifyReport>,
    ) -> Result<VerifyReport> {
        let digests = match scope {
            VerifyScope::All => Vec::new(),
            // No digests would mean every blob.
            VerifyScope::Blobs(digests) if digests.is_empty() => {
                return Ok(VerifyReport::default());
            }
            VerifyScope::Blobs(digests) => digests,
        };
        let request = proto::VerifyRequest {
            digests: proto_digests(&digests),
        };
        let mut backoff = self.backoff();
        let mut reports = self
            .on_lane(&mut backoff, |lane| {
                let request = lane.request(request.clone());
                async move {
                    let reports = StoreClient::new(lane.http2()).verify(request).await;
                    let reports = reports.map_err(|status| status::from_status(&status))?;
                    Ok(reports.into_inner())
                }
            })
            .await?;
        let mut report = VerifyReport::default();
        loop {
            let message = tokio::select! {
                message = reports.message() => message,
                () = progress.closed() => return Ok(report),
            };
            let message = message.map_err(|status| status::from_status(&status))?;
            let Some(message) = message else {
                return Err(CasError::new(
                    ErrorKind::Unavailable,
                    "the server ended a verification before it was done",
                ));
            };
            let done = message.done;
            add(&mut report, message)?;
            if done {
                return Ok(report);
            }
            // A receiver that is behind gets a later report instead.
            let _ = progress.try_send(report.clone());
        }
    }

    async fn collect_garbage(&self) -> Result<GcReport> {
        let mut backoff = self.backoff();
        let report = self.on_lane(&mut backoff, |lane| async move {
            let request = lane.request(proto::CollectGarbageRequest {});
            let report = StoreClient::new(lane.http2())
                .collect_garbage(request)
                .await;
            let report = report.map_err(|status| status::from_status(&status))?;
            Ok(report.into_inner())
        });
        let report = report.await?;
        Ok(GcReport {
            segments_freed: report.segments_freed,
            bytes_freed: report.bytes_freed,
            bytes_moved: report.bytes_moved,
            partials_expired: report.partials_expired,
        })
    }
}

fn add(report: &mut VerifyReport, message: proto::VerifyProgress) -> Result<()> {
    let digests = |messages: Vec<zako_protobuf::digest::Digest>| {
        messages
            .iter()
            .map(digest_of)
            .collect::<Result<Vec<Digest>>>()
    };
    report.blobs_checked = message.blobs_checked;
    report.bytes_checked = message.bytes_checked;
    report.blobs_total = message.blobs_total;
    report.bytes_total = message.bytes_total;
    report.corrupt.extend(digests(message.corrupt)?);
    report.missing.extend(digests(message.missing)?);
    report.unreadable.extend(digests(message.unreadable)?);
    Ok(())
}
