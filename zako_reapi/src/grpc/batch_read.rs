//! Reading many small blobs in one call.

use bytes::Bytes;
use tonic::{Code, Status};
use zako_core::cas::{CasError, ErrorKind};
use zako_core::server::{Call, Reply, bad_frame, to_status};
use zako_core::transport::grpc::BatchWriter;

use super::Refused;
use super::batch;
use crate::cache::Cache;
use crate::digest::{DigestFunction, RemoteDigest};
use crate::proto::reapi::batch_read_blobs_response::Response;
use crate::proto::reapi::{BatchReadBlobsRequest, Digest};

pub(super) async fn answer(cache: &Cache, call: Call) -> Result<Reply, Refused> {
    let (mut body, answering) = call.open()?;
    let request = batch::request(&mut body, cache).await?;
    let request: BatchReadBlobsRequest = request.unary().map_err(bad_frame)?;
    let function = DigestFunction::of_wire(request.digest_function);
    let function = function.map_err(|error| to_status(&error))?;
    let entries = read(cache, function, request.digests).await?;
    let writer = BatchWriter::new(entries.into_iter(), BatchWriter::PIECE);
    Ok(answering.batch(writer.map_err(bad_frame)?))
}

/// What is answered for each, but for its data, and the data.
async fn read(
    cache: &Cache,
    function: Option<DigestFunction>,
    asked: Vec<Digest>,
) -> Result<Vec<(Response, Bytes)>, Status> {
    let digests: Vec<_> = asked
        .iter()
        .map(|digest| batch::digest(function, Some(digest)))
        .collect();
    let good: Vec<RemoteDigest> = digests.iter().flatten().copied().collect();
    // Before anything is read: nothing large is fetched to be refused.
    batch::within(cache, good.iter().map(RemoteDigest::size))?;
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
