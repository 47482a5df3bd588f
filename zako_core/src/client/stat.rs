//! What a server tells of itself and of its blobs.

use std::time::{Duration, SystemTime};

use futures::{StreamExt, TryStreamExt, stream};
use zako_protobuf::store as proto;
use zako_protobuf::store::store_client::StoreClient;

use super::negotiate::{self, proto_digests};
use super::{Client, status, within};
use crate::Digest;
use crate::cas::{CasError, ErrorKind, Location, Result, Usage};

/// Requests under way at once.
const AHEAD: usize = 4;

/// What a server knows of a blob, present or not.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteStat {
    /// Its name.
    pub digest: Digest,
    /// Whether it is there as a whole.
    pub present: bool,
    /// Bytes held of an interrupted upload.
    pub partial_bytes: u64,
    /// For how long the server won't evict it; zero if it isn't leased.
    pub leased_for: Duration,
    /// Where it lies at the server; [`Location::Remote`] if it doesn't say.
    pub location: Location,
}

/// What a server tells of itself.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerStatus {
    /// Its version.
    pub version: String,
    /// The figures of its store.
    pub usage: Usage,
    /// Transport sessions that are open.
    pub sessions: u64,
    /// How long it has been running.
    pub uptime: Duration,
    /// What its clock says.
    pub server_time: SystemTime,
    /// Sessions over RDMA.
    pub rdma_sessions: u64,
    /// Memory that they pin, in bytes.
    pub rdma_pinned_bytes: u64,
}

impl Client {
    /// What the server tells of itself.
    ///
    /// # Errors
    /// Those of reaching it.
    pub async fn status(&self) -> Result<ServerStatus> {
        let limit = self.options().call_timeout;
        let mut backoff = self.backoff();
        let status = self.on_connection(&mut backoff, |http2| {
            within(limit, async move {
                let answer = StoreClient::new(http2)
                    .status(proto::StatusRequest {})
                    .await;
                let answer = answer.map_err(|status| status::from_status(&status))?;
                Ok(answer.into_inner())
            })
        });
        Ok(server_status(status.await?))
    }

    /// What the server knows of each blob, in order. Leases nothing.
    ///
    /// # Errors
    /// Those of reaching it.
    pub async fn stat_batch(&self, digests: &[Digest]) -> Result<Vec<RemoteStat>> {
        let chunks = digests
            .chunks(negotiate::BATCH)
            .map(|chunk| self.stat_chunk(chunk))
            .collect::<Vec<_>>();
        let stats: Vec<_> = stream::iter(chunks).buffered(AHEAD).try_collect().await?;
        Ok(stats.concat())
    }

    /// Removes blobs; returns those that were there.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] if the server doesn't allow it; those of
    /// reaching it, which are not tried again once the server was asked. Some of
    /// the blobs may be gone then.
    pub async fn delete_batch(&self, digests: &[Digest]) -> Result<Vec<Digest>> {
        let mut deleted = Vec::new();
        for chunk in digests.chunks(negotiate::BATCH) {
            let limit = self.options().call_timeout;
            let mut backoff = self.backoff();
            let answer = self.on_lane(&mut backoff, |lane| {
                let digests = proto_digests(chunk);
                async move {
                    let seat = lane.seat();
                    let outcome = within(limit, async move {
                        let request = lane.request(proto::DeleteRequest { digests });
                        let answer = StoreClient::new(lane.http2()).delete(request).await;
                        let answer = answer.map_err(|status| status::from_status(&status))?;
                        Ok(answer.into_inner())
                    });
                    match outcome.await {
                        // It may be done: asked again, the server would tell of blobs
                        // that were not there.
                        Err(error) if error.kind() == ErrorKind::Unavailable => {
                            seat.judge(&error);
                            Ok(Err(error))
                        }
                        outcome => outcome.map(Ok),
                    }
                }
            });
            for digest in answer.await??.deleted {
                deleted.push(digest_of(&digest)?);
            }
        }
        Ok(deleted)
    }

    async fn stat_chunk(&self, chunk: &[Digest]) -> Result<Vec<RemoteStat>> {
        let limit = self.options().call_timeout;
        let mut backoff = self.backoff();
        let answer = self.on_connection(&mut backoff, |http2| {
            let digests = proto_digests(chunk);
            within(limit, async move {
                let answer = StoreClient::new(http2)
                    .stat(proto::StatRequest { digests })
                    .await;
                let answer = answer.map_err(|status| status::from_status(&status))?;
                Ok(answer.into_inner())
            })
        });
        let blobs = answer.await?.blobs;
        if blobs.len() != chunk.len() {
            return Err(CasError::new(
                ErrorKind::Internal,
                format!(
                    "the server told of {} blobs when asked for {}",
                    blobs.len(),
                    chunk.len()
                ),
            ));
        }
        Ok(chunk
            .iter()
            .zip(blobs)
            .map(|(digest, blob)| RemoteStat {
                digest: *digest,
                present: blob.present,
                partial_bytes: blob.partial_bytes,
                leased_for: Duration::from_secs(blob.lease_seconds),
                location: match blob.location.as_str() {
                    "segment" => Location::Segment,
                    "file" => Location::File,
                    "memory" => Location::Memory,
                    _ => Location::Remote,
                },
            })
            .collect())
    }
}

pub(super) fn digest_of(digest: &zako_protobuf::digest::Digest) -> Result<Digest> {
    Digest::try_from(digest).map_err(|error| CasError::new(ErrorKind::Internal, error.to_string()))
}

fn server_status(status: proto::StatusResponse) -> ServerStatus {
    ServerStatus {
        usage: Usage {
            blobs: status.blobs,
            blob_bytes: status.blob_bytes,
            disk_bytes: status.disk_bytes,
            disk_cap_bytes: status.disk_cap_bytes,
            reclaimable_bytes: status.reclaimable_bytes,
            leased_bytes: status.leased_bytes,
            partial_bytes: status.partial_bytes,
            quarantined_blobs: status.quarantined_blobs,
            durability: match status.durability.as_str() {
                "immediate" => "immediate",
                "interval" => "interval",
                "none" => "none",
                _ => "unknown",
            },
            index_bytes: status.index_bytes,
            ..Usage::default()
        },
        version: status.version,
        sessions: status.sessions,
        uptime: Duration::from_secs(status.uptime_seconds),
        server_time: SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_millis(status.server_time_ms))
            .unwrap_or(SystemTime::UNIX_EPOCH),
        rdma_sessions: status.rdma_sessions,
        rdma_pinned_bytes: status.rdma_pinned_bytes,
    }
}
