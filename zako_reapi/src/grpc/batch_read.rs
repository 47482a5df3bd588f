//! Reading many small blobs in one call.

use bytes::Bytes;
use tonic::{Code, Status};
use zako_core::access::Role;
use zako_core::cas::{CasError, ErrorKind};
use zako_core::server::{Call, Reply, bad_frame};
use zako_core::transport::grpc::BatchWriter;

use super::{Refused, batch, request, rights};
use crate::cache::Cache;
use crate::compression::{SHORTEST, compress_all};
use crate::digest::{DigestFunction, RemoteDigest};
use crate::proto::reapi::batch_read_blobs_response::Response;
use crate::proto::reapi::{BatchReadBlobsRequest, Digest, compressor};

pub(super) async fn answer(cache: &Cache, call: Call) -> Result<Reply, Refused> {
    let caller = call.caller();
    rights::check_somewhere(&caller, Role::Read)?;
    let (mut body, answering) = call.open()?;
    let request = batch::request(&mut body, cache).await?;
    let request: BatchReadBlobsRequest = request.unary().map_err(bad_frame)?;
    rights::check(&caller, &request.instance_name, Role::Read)?;
    let function = request::function(request.digest_function)?;
    let zstd = compressor::Value::Zstd as i32;
    let zstd = request.acceptable_compressors.contains(&zstd);
    let mut entries = read(cache, function, request.digests).await?;
    let absent = |(response, _): &&Entry| {
        let status = response.status.as_ref();
        status.is_some_and(|status| status.code == Code::NotFound as i32)
    };
    let misses = entries.iter().filter(absent).count() as u64;
    answering.looked_up(entries.len() as u64 - misses, misses);
    if zstd {
        entries = compress(entries).await?;
    }
    let writer = BatchWriter::new(entries.into_iter(), BatchWriter::PIECE);
    Ok(answering.batch(writer.map_err(bad_frame)?))
}

/// What is answered for a blob, but for its data, and the data.
type Entry = (Response, Bytes);

async fn read(
    cache: &Cache,
    function: Option<DigestFunction>,
    asked: Vec<Digest>,
) -> Result<Vec<Entry>, Status> {
    let digests: Vec<_> = asked
        .iter()
        .map(|digest| batch::digest(function, Some(digest)))
        .collect();
    let good: Vec<RemoteDigest> = digests.iter().flatten().copied().collect();
    // Before anything is read: nothing large is fetched to be refused. A client may
    // take no longer message than it was offered.
    let most = cache.options().max_batch_bytes;
    batch::within(most, good.iter().map(RemoteDigest::size))?;
    let mut fetched = cache.fetch_batch(&good).await.into_iter();
    let entries = asked.into_iter().zip(digests).map(|(asked, digest)| {
        let fetched = match digest {
            Ok(_) => fetched
                .next()
                .unwrap_or_else(|| Err(CasError::new(ErrorKind::Internal, "no outcome came"))),
            Err(error) => Err(error),
        };
        let (status, data) = match fetched {
            Ok(data) => (batch::status(Code::Ok, ""), data),
            Err(error) => (batch::failure(&error), Bytes::new()),
        };
        let response = Response {
            digest: Some(asked),
            status: Some(status),
            ..Response::default()
        };
        (response, data)
    });
    Ok(entries.collect())
}

/// Compresses what gets shorter by it.
async fn compress(mut entries: Vec<Entry>) -> Result<Vec<Entry>, Status> {
    if entries.iter().all(|(_, data)| data.len() < SHORTEST) {
        return Ok(entries);
    }
    let task = tokio::task::spawn_blocking(move || {
        let mut blobs: Vec<Bytes> = entries.iter().map(|(_, data)| data.clone()).collect();
        let compressed = compress_all(&mut blobs)?;
        let blobs = blobs.into_iter().zip(compressed);
        for (entry, (blob, compressed)) in entries.iter_mut().zip(blobs) {
            if compressed {
                entry.0.compressor = compressor::Value::Zstd as i32;
                entry.1 = blob;
            }
        }
        std::io::Result::Ok(entries)
    });
    let broken = |error| Status::internal(format!("the blobs can't be compressed: {error}"));
    let entries = task.await;
    let entries = entries.map_err(|_| Status::internal("compressing broke off"))?;
    entries.map_err(broken)
}
