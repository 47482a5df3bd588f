//! Storing many small blobs in one call.

use bytes::Bytes;
use tonic::{Code, Status};
use zako_core::access::Role;
use zako_core::cas::{CasError, ErrorKind, Result};
use zako_core::server::{Call, CallBody, Reply, bad_frame};

use super::{Refused, batch, request, rights};
use crate::cache::Cache;
use crate::compression::decompress;
use crate::digest::{DigestFunction, RemoteDigest};
use crate::proto::reapi::batch_update_blobs_request::Request;
use crate::proto::reapi::batch_update_blobs_response::Response;
use crate::proto::reapi::{BatchUpdateBlobsRequest, BatchUpdateBlobsResponse, compressor};

/// What the blobs of a batch may add up to in bytes, though less is offered: some tools
/// count what they send otherwise, and some don't ask.
const ACCEPTED: u64 = 16 * 1024 * 1024;

/// A blob as it came.
struct Sent {
    digest: RemoteDigest,
    data: Bytes,
    zstd: bool,
}

pub(super) async fn answer(cache: &Cache, call: Call) -> Result<Reply, Refused> {
    let caller = call.caller();
    rights::check_somewhere(&caller, Role::Write)?;
    let (mut body, _) = call.open()?;
    let request = batch::request(&mut body, cache).await?;
    let request: BatchUpdateBlobsRequest = request.unary().map_err(bad_frame)?;
    rights::check(&caller, &request.instance_name, Role::Write)?;
    let function = request::function(request.digest_function)?;
    let responses = update(cache, &mut body, function, request.requests).await?;
    Ok(Reply::message(&BatchUpdateBlobsResponse { responses }))
}

async fn update(
    cache: &Cache,
    body: &mut CallBody,
    function: Option<DigestFunction>,
    requests: Vec<Request>,
) -> Result<Vec<Response>, Status> {
    let mut responses = Vec::with_capacity(requests.len());
    let mut sent = Vec::with_capacity(requests.len());
    for Request {
        digest,
        data,
        compressor,
    } in requests
    {
        sent.push(Sent::new(function, digest.as_ref(), data, compressor));
        let status = None;
        responses.push(Response { digest, status });
    }
    let most = cache.options().max_batch_bytes.max(ACCEPTED);
    batch::within(most, sent.iter().flatten().map(Sent::size))?;
    body.hold(sent.iter().flatten().map(Sent::unpacked).sum())?;
    let blobs = unpack(sent).await?;
    let (mut good, mut places) = (Vec::with_capacity(blobs.len()), Vec::new());
    for (at, blob) in blobs.into_iter().enumerate() {
        let status = match blob {
            Ok(blob) => {
                good.push(blob);
                places.push(at);
                batch::status(Code::Ok, "")
            }
            Err(error) => batch::failure(&error),
        };
        responses[at].status = Some(status);
    }
    let stored = cache.put_batch(good).await;
    for (at, stored) in places.into_iter().zip(stored) {
        if let Err(error) = stored {
            responses[at].status = Some(batch::failure(&error));
        }
    }
    Ok(responses)
}

/// What is to be stored.
async fn unpack(sent: Vec<Result<Sent>>) -> Result<Vec<Result<(RemoteDigest, Bytes)>>, Status> {
    let unpack = |sent: Vec<Result<Sent>>| {
        let blobs = sent.into_iter().map(|sent| sent.and_then(Sent::unpack));
        blobs.collect()
    };
    if sent.iter().flatten().all(|sent| !sent.zstd) {
        return Ok(unpack(sent));
    }
    let unpacked = tokio::task::spawn_blocking(move || unpack(sent)).await;
    unpacked.map_err(|_| Status::internal("decompressing broke off"))
}

impl Sent {
    fn new(
        function: Option<DigestFunction>,
        digest: Option<&crate::proto::reapi::Digest>,
        data: Bytes,
        compressor: i32,
    ) -> Result<Self> {
        let digest = batch::digest(function, digest)?;
        let zstd = match compressor::Value::try_from(compressor) {
            Ok(compressor::Value::Identity) => false,
            Ok(compressor::Value::Zstd) => true,
            _ => return Err(wrong("the compressor is not offered here".to_owned())),
        };
        Ok(Self { digest, data, zstd })
    }

    /// What it takes in memory.
    fn size(&self) -> u64 {
        match self.zstd {
            false => self.data.len() as u64,
            true => self.digest.size(),
        }
    }

    /// What it takes besides what came, in bytes.
    fn unpacked(&self) -> u64 {
        match self.zstd {
            false => 0,
            true => self.digest.size(),
        }
    }

    /// Its size is bounded already.
    fn unpack(self) -> Result<(RemoteDigest, Bytes)> {
        let Self { digest, data, zstd } = self;
        if !zstd {
            return Ok((digest, data));
        }
        let size = usize::try_from(digest.size()).unwrap_or(usize::MAX);
        let data = decompress(&data, size)
            .map_err(|error| wrong(format!("the data is not {digest} by zstd: {error}")))?;
        Ok((digest, data))
    }
}

fn wrong(text: String) -> CasError {
    CasError::new(ErrorKind::InvalidArgument, text)
}
