//! Many small blobs in one call.

use std::ops::Range;

use bytes::Bytes;
use futures::{StreamExt, stream};
use tracing::Instrument;
use zako_digest::hash;
use zako_protobuf::batch::{
    BatchDownloadRequest, BatchDownloadResponse, BatchUploadResponse, Blob as ProtoBlob,
};

use super::negotiate::proto_digests;
use super::outgoing::Outgoing;
use super::{Client, call, on_the_way, span, status, within};
use crate::Digest;
use crate::cas::{CasError, ErrorKind, Result, Stored};
use crate::transport::grpc::BatchWriter;

/// What an entry of a batch takes beside its blob, at most, in bytes.
pub(super) const ENTRY_OVERHEAD: u64 = 64;

/// Calls under way at once for one batch of the caller.
const AHEAD: usize = 8;

/// From here on hashing is left to a thread that may block, in bytes.
const HASH_INLINE: usize = 512 * 1024;

impl Client {
    /// Stores blobs that each fit into a batch; one outcome each, in order.
    pub(super) async fn put_small(&self, blobs: &[(Digest, Bytes)]) -> Vec<Result<Stored>> {
        let groups = self.groups(blobs.iter().map(|(digest, _)| digest));
        if groups.len() == 1 {
            return self.put_group(blobs).await;
        }
        let calls: Vec<_> = groups
            .into_iter()
            .map(|group| self.put_group(&blobs[group]))
            .collect();
        let outcomes: Vec<_> = stream::iter(calls).buffered(AHEAD).collect().await;
        outcomes.into_iter().flatten().collect()
    }

    /// Reads blobs that each fit into a batch; one outcome each, in order.
    pub(super) async fn fetch_small(&self, digests: &[Digest]) -> Vec<Result<Bytes>> {
        let calls: Vec<_> = self
            .groups(digests.iter())
            .into_iter()
            .map(|group| self.fetch_group(&digests[group]))
            .collect();
        let outcomes: Vec<_> = stream::iter(calls).buffered(AHEAD).collect().await;
        outcomes.into_iter().flatten().collect()
    }

    /// Whether a blob goes into a batch now.
    pub(super) fn is_small(&self, digest: &Digest) -> bool {
        digest.size() <= self.options().small_blob_bytes && self.rdma_for(digest.size()).is_none()
    }

    /// Runs of blobs that fit into one call.
    fn groups<'a>(&self, digests: impl Iterator<Item = &'a Digest>) -> Vec<Range<usize>> {
        let limit = self.options().batch_bytes;
        let mut groups = Vec::new();
        let (mut begin, mut end, mut bytes) = (0, 0, 0);
        for digest in digests {
            let size = digest.size() + ENTRY_OVERHEAD;
            if bytes + size > limit && end > begin {
                groups.push(begin..end);
                (begin, bytes) = (end, 0);
            }
            bytes += size;
            end += 1;
        }
        if end > begin {
            groups.push(begin..end);
        }
        groups
    }

    /// The longest answer to a batch: blobs and names fit into one; texts of errors
    /// come on top.
    fn longest_answer(&self) -> usize {
        (2 * self.options().batch_bytes as usize).max(4 << 20)
    }

    async fn put_group(&self, blobs: &[(Digest, Bytes)]) -> Vec<Result<Stored>> {
        let bytes = blobs.iter().map(|(digest, _)| digest.size()).sum();
        let limit = self.options().call_timeout + on_the_way(bytes);
        let longest = self.longest_answer();
        let mut backoff = self.backoff();
        let answer = self.on_lane(&mut backoff, |lane| {
            let body = BatchWriter::new(
                blobs.iter().map(|(digest, data)| {
                    let fields = ProtoBlob {
                        digest: Some((*digest).into()),
                        data: Bytes::new(),
                    };
                    (fields, data.clone())
                }),
                BatchWriter::PIECE,
            );
            within(limit, async move {
                let body = Outgoing::Batch(body?);
                let reply =
                    call::open(lane.http2(), call::BATCH_UPLOAD, lane.token(), body).await?;
                let answer: BatchUploadResponse = reply.message_of(limit, longest).await?;
                Ok(answer.outcomes)
            })
        });
        let span = span::batch_upload(blobs.len());
        let outcomes = match answer.instrument(span).await {
            Ok(outcomes) if outcomes.len() == blobs.len() => outcomes,
            Ok(outcomes) => return all(blobs.len(), other_count(blobs.len(), outcomes.len())),
            Err(error) => return all(blobs.len(), error),
        };
        for (_, data) in blobs {
            self.0.roads.grpc.sent(data.len());
            self.0.roads.grpc.ended();
        }
        let outcomes = blobs.iter().zip(outcomes);
        outcomes
            .map(
                |((digest, data), outcome)| match tonic::Code::from(outcome.code) {
                    tonic::Code::Ok => Ok(Stored::New),
                    tonic::Code::AlreadyExists => Ok(Stored::Existing),
                    // The usual reason, told as the local stores tell it.
                    tonic::Code::InvalidArgument if hash::bytes(data) != *digest => {
                        Err(CasError::mismatch(*digest, hash::bytes(data)))
                    }
                    _ => Err(status::from_outcome(
                        outcome.code,
                        &outcome.message,
                        *digest,
                    )),
                },
            )
            .collect()
    }

    async fn fetch_group(&self, digests: &[Digest]) -> Vec<Result<Bytes>> {
        let bytes = digests.iter().map(Digest::size).sum();
        let limit = self.options().call_timeout + on_the_way(bytes);
        let longest = self.longest_answer();
        let mut backoff = self.backoff();
        let request = BatchDownloadRequest {
            digests: proto_digests(digests),
        };
        let answer = self.on_lane(&mut backoff, |lane| {
            let body = call::one_message(&request);
            within(limit, async move {
                let (http2, token) = (lane.http2(), lane.token());
                let reply = call::open(http2, call::BATCH_DOWNLOAD, token, body?).await?;
                let answer: BatchDownloadResponse = reply.message_of(limit, longest).await?;
                Ok(answer.blobs)
            })
        });
        let span = span::batch_download(digests.len());
        let blobs = match answer.instrument(span).await {
            Ok(blobs) if blobs.len() == digests.len() => blobs,
            Ok(blobs) => return all(digests.len(), other_count(digests.len(), blobs.len())),
            Err(error) => return all(digests.len(), error),
        };
        let outcomes = digests.iter().zip(blobs).map(|(digest, blob)| {
            let outcome = blob.outcome.unwrap_or_default();
            let data = match tonic::Code::from(outcome.code) {
                tonic::Code::Ok => {
                    self.0.roads.grpc.received(blob.data.len());
                    self.0.roads.grpc.ended();
                    Ok(blob.data)
                }
                tonic::Code::NotFound => Err(CasError::not_found(*digest)),
                _ => Err(status::from_outcome(
                    outcome.code,
                    &outcome.message,
                    *digest,
                )),
            };
            (*digest, data)
        });
        verified(outcomes.collect(), self.options().verify).await
    }
}

/// The blobs, each hashed; an error in place of one that is another blob.
async fn verified(outcomes: Vec<(Digest, Result<Bytes>)>, verify: bool) -> Vec<Result<Bytes>> {
    let check = move |(digest, data): (Digest, Result<Bytes>)| {
        let data = data?;
        if data.len() as u64 != digest.size() || verify && hash::bytes(&data) != digest {
            return Err(wrong_bytes(digest));
        }
        Ok(data)
    };
    let bytes = outcomes
        .iter()
        .map(|(_, data)| data.as_ref().map_or(0, Bytes::len));
    if !verify || bytes.sum::<usize>() <= HASH_INLINE {
        return outcomes.into_iter().map(check).collect();
    }
    let count = outcomes.len();
    let hashing = move || outcomes.into_iter().map(check).collect();
    match tokio::task::spawn_blocking(hashing).await {
        Ok(outcomes) => outcomes,
        Err(error) => all(
            count,
            CasError::new(ErrorKind::Closed, "the runtime is shutting down").with_source(error),
        ),
    }
}

/// The server sent something else than the blob.
pub(super) fn wrong_bytes(digest: Digest) -> CasError {
    CasError::new(
        ErrorKind::Corrupt,
        "the server sent other bytes than those of the blob",
    )
    .with_digest(digest)
}

fn other_count(asked: usize, told: usize) -> CasError {
    CasError::new(
        ErrorKind::Internal,
        format!("the server answered for {told} blobs of a batch of {asked}"),
    )
}

fn all<T>(count: usize, error: CasError) -> Vec<Result<T>> {
    (0..count).map(|_| Err(error.clone())).collect()
}
