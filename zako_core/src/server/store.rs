//! `zako.v1.store.Store`: looking after the store.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};
use zako_protobuf::digest;
use zako_protobuf::store::store_server::Store;
use zako_protobuf::store::{
    BlobStat, CollectGarbageRequest, CollectGarbageResponse, DeleteRequest, DeleteResponse,
    StatRequest, StatResponse, StatusRequest, StatusResponse, VerifyProgress, VerifyRequest,
};

use super::connection::Shared;
use super::gated::{caller, peer};
use super::options::MaintenanceAccess;
use super::resource::digests;
use super::status::to_status;
use crate::Digest;
use crate::cas::{CasError, ErrorKind, Maintain, VerifyReport, VerifyScope};

pub(super) struct StoreService(Arc<Shared>);

/// The reports of a verification, each told as what it adds to the last.
struct Progress {
    reports: mpsc::Receiver<VerifyReport>,
    whole: Option<tokio::task::JoinHandle<Result<VerifyReport, CasError>>>,
    told: VerifyReport,
}

impl StoreService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// What a caller that is trusted with maintenance may use.
    fn maintain<T>(&self, request: &Request<T>) -> Result<Arc<dyn Maintain>, Status> {
        let peer = peer(request.extensions())?;
        // Where identities make a difference, the role was asked for already, and it isn't
        // for what runs on this machine by itself.
        let allowed = match (
            caller(request.extensions()).matters(),
            self.0.options.maintenance,
        ) {
            (true, MaintenanceAccess::Nobody) => false,
            (true, _) => true,
            (false, maintenance) => maintenance.allows(peer),
        };
        if !allowed {
            let message = "maintenance is not open to this caller";
            let error = CasError::new(ErrorKind::PermissionDenied, message);
            return Err(to_status(&error));
        }
        self.0.maintain.clone().ok_or_else(|| {
            let message = "this server's store has no maintenance";
            to_status(&CasError::new(ErrorKind::Unsupported, message))
        })
    }

    async fn stat_one(&self, digest: Digest) -> Result<BlobStat, CasError> {
        let cas = &self.0.cas;
        let named = Some(digest.into());
        match cas.stat(&digest).await {
            Ok(stat) => Ok(BlobStat {
                digest: named,
                present: true,
                partial_bytes: 0,
                lease_seconds: stat.leased_for.as_secs(),
                location: stat.location.as_str().to_owned(),
            }),
            Err(error) if error.is_not_found() => Ok(BlobStat {
                digest: named,
                present: false,
                partial_bytes: cas.held(&digest).await?,
                ..BlobStat::default()
            }),
            Err(error) => Err(error),
        }
    }
}

#[tonic::async_trait]
impl Store for StoreService {
    type VerifyStream = BoxStream<'static, Result<VerifyProgress, Status>>;

    async fn stat(&self, request: Request<StatRequest>) -> Result<Response<StatResponse>, Status> {
        let asked = digests("digests", &request.into_inner().digests)?;
        let mut blobs = Vec::with_capacity(asked.len());
        for digest in asked {
            let stat = self.stat_one(digest).await;
            blobs.push(stat.map_err(|error| to_status(&error))?);
        }
        Ok(Response::new(StatResponse { blobs }))
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let asked = digests("digests", &request.into_inner().digests)?;
        let mut deleted = Vec::new();
        for digest in asked {
            let gone = self.0.cas.delete(&digest).await;
            if gone.map_err(|error| to_status(&error))? {
                deleted.push(digest.into());
            }
        }
        Ok(Response::new(DeleteResponse { deleted }))
    }

    async fn verify(
        &self,
        request: Request<VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        let maintain = self.maintain(&request)?;
        let asked = digests("digests", &request.into_inner().digests)?;
        let scope = match asked.is_empty() {
            true => VerifyScope::All,
            false => VerifyScope::Blobs(asked),
        };
        let (sender, reports) = mpsc::channel(1);
        // It ends when the caller goes away: the receiver is gone then.
        let verified = async move { maintain.verify(scope, sender).await };
        let whole = self.0.calls.tasks.spawn(verified);
        let progress = Progress {
            reports,
            whole: Some(whole),
            told: VerifyReport::default(),
        };
        let progress = stream::unfold(progress, |mut progress| async move {
            let message = progress.next().await?;
            Some((message, progress))
        });
        Ok(Response::new(progress.boxed()))
    }

    async fn collect_garbage(
        &self,
        request: Request<CollectGarbageRequest>,
    ) -> Result<Response<CollectGarbageResponse>, Status> {
        let report = self
            .maintain(&request)?
            .collect_garbage()
            .await
            .map_err(|error| to_status(&error))?;
        Ok(Response::new(CollectGarbageResponse {
            segments_freed: report.segments_freed,
            bytes_freed: report.bytes_freed,
            bytes_moved: report.bytes_moved,
            partials_expired: report.partials_expired,
        }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let usage = match &self.0.maintain {
            Some(maintain) => maintain.usage().await.map_err(|error| to_status(&error))?,
            None => Default::default(),
        };
        let rdma = self.0.rdma.as_ref().map(|road| road.used());
        let rdma = rdma.unwrap_or_default();
        // A clock before 1970 tells 0.
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Ok(Response::new(StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            blobs: usage.blobs,
            blob_bytes: usage.blob_bytes,
            disk_bytes: usage.disk_bytes,
            disk_cap_bytes: usage.disk_cap_bytes,
            reclaimable_bytes: usage.reclaimable_bytes,
            leased_bytes: usage.leased_bytes,
            partial_bytes: usage.partial_bytes,
            quarantined_blobs: usage.quarantined_blobs,
            sessions: self.0.gate.sessions() as u64,
            uptime_seconds: self.0.began.elapsed().as_secs(),
            durability: usage.durability.to_owned(),
            server_time_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            rdma_sessions: rdma.sessions as u64,
            rdma_pinned_bytes: rdma.bytes,
            index_bytes: usage.index_bytes,
        }))
    }
}

impl Progress {
    async fn next(&mut self) -> Option<Result<VerifyProgress, Status>> {
        if let Some(report) = self.reports.recv().await {
            return Some(Ok(self.tell(report, false)));
        }
        let whole = self.whole.take()?;
        Some(match whole.await {
            Ok(Ok(report)) => Ok(self.tell(report, true)),
            Ok(Err(error)) => Err(to_status(&error)),
            Err(_) => Err(Status::internal("the verification broke off")),
        })
    }

    fn tell(&mut self, report: VerifyReport, done: bool) -> VerifyProgress {
        let message = VerifyProgress {
            blobs_checked: report.blobs_checked,
            bytes_checked: report.bytes_checked,
            blobs_total: report.blobs_total,
            bytes_total: report.bytes_total,
            corrupt: added(&self.told.corrupt, &report.corrupt),
            missing: added(&self.told.missing, &report.missing),
            unreadable: added(&self.told.unreadable, &report.unreadable),
            done,
        };
        self.told = report;
        message
    }
}

/// A report's lists only grow at their end.
fn added(told: &[Digest], now: &[Digest]) -> Vec<digest::Digest> {
    let new = now.get(told.len()..).unwrap_or_default();
    new.iter().copied().map(Into::into).collect()
}
