//! Storing many small blobs in one call.

use bytes::Bytes;
use tonic::{Code, Status};
use zako_core::cas::{CasError, ErrorKind};
use zako_core::server::{Call, Reply, bad_frame, to_status};

use super::Refused;
use super::batch;
use crate::cache::Cache;
use crate::digest::{DigestFunction, RemoteDigest};
use crate::proto::reapi::batch_update_blobs_request::Request;
use crate::proto::reapi::batch_update_blobs_response::Response;
use crate::proto::reapi::{BatchUpdateBlobsRequest, BatchUpdateBlobsResponse, compressor};

pub(super) async fn answer(cache: &Cache, call: Call) -> Result<Reply, Refused> {
    let (mut body, _) = call.open()?;
    let request = batch::request(&mut body, cache).await?;
    let request: BatchUpdateBlobsRequest = request.unary().map_err(bad_frame)?;
    let function = DigestFunction::of_wire(request.digest_function);
    let function = function.map_err(|error| to_status(&error))?;
    let responses = update(cache, function, request.requests).await?;
    Ok(Reply::message(&BatchUpdateBlobsResponse { responses }))
}

async fn update(
    cache: &Cache,
    function: Option<DigestFunction>,
    requests: Vec<Request>,
) -> Result<Vec<Response>, Status> {
    batch::within(
        cache,
        requests.iter().map(|request| request.data.len() as u64),
    )?;
    let (mut blobs, mut places) = (Vec::with_capacity(requests.len()), Vec::new());
    let mut responses = Vec::with_capacity(requests.len());
    for (at, request) in requests.into_iter().enumerate() {
        let blob = blob(function, &request);
        let digest = request.digest;
        let status = match blob {
            Ok(blob) => {
                blobs.push(blob);
                places.push(at);
                batch::status(Code::Ok, "")
            }
            Err(error) => batch::failure(&error),
        };
        let status = Some(status);
        responses.push(Response { digest, status });
    }
    let stored = cache.put_batch(blobs).await;
    for (at, stored) in places.into_iter().zip(stored) {
        if let Err(error) = stored {
            responses[at].status = Some(batch::failure(&error));
        }
    }
    Ok(responses)
}

/// What is to be stored.
fn blob(
    function: Option<DigestFunction>,
    request: &Request,
) -> Result<(RemoteDigest, Bytes), CasError> {
    let digest = batch::digest(function, request.digest.as_ref())?;
    if request.compressor != compressor::Value::Identity as i32 {
        return Err(CasError::new(
            ErrorKind::InvalidArgument,
            "the compressor is not offered here",
        ));
    }
    Ok((digest, request.data.clone()))
}
