//! Blobs as chunks.

use tonic::Status;
use zako_core::access::Role;
use zako_core::server::{Call, Reply, bad_request, to_status};

use super::{Refused, request, rights, unknown_method};
use crate::cache::Cache;
use crate::digest::RemoteDigest;
use crate::proto::reapi::{
    SpliceBlobRequest, SpliceBlobResponse, SplitBlobRequest, SplitBlobResponse,
};

/// The longest request to cut a blob: the name of an instance.
const MAX_SPLIT: usize = 64 * 1024;

pub(super) async fn answer(cache: &Cache, method: &str, call: Call) -> Result<Reply, Refused> {
    let caller = call.caller();
    let (mut body, _) = call.open()?;
    Ok(match method {
        "SplitBlob" => {
            let request: SplitBlobRequest = body.message(MAX_SPLIT).await?;
            rights::check(&caller, &request.instance_name, Role::Read)?;
            Reply::message(&split(cache, request).await?)
        }
        "SpliceBlob" => {
            let most = cache.options().max_message_bytes;
            rights::check_somewhere(&caller, Role::Write)?;
            let request: SpliceBlobRequest = body.message(most).await?;
            rights::check(&caller, &request.instance_name, Role::Write)?;
            Reply::message(&splice(cache, request).await?)
        }
        _ => return Err(unknown_method().into()),
    })
}

async fn split(cache: &Cache, asked: SplitBlobRequest) -> Result<SplitBlobResponse, Status> {
    let digest = asked.blob_digest.as_ref();
    let digest = request::digest("blob_digest", asked.digest_function, digest)?;
    let split = cache
        .split(&digest)
        .await
        .map_err(|error| to_status(&error))?;
    Ok(SplitBlobResponse {
        chunk_digests: split
            .chunks
            .into_iter()
            .map(RemoteDigest::to_wire)
            .collect(),
        chunking_function: split.function,
    })
}

async fn splice(cache: &Cache, asked: SpliceBlobRequest) -> Result<SpliceBlobResponse, Status> {
    let field = "blob_digest";
    let digest = request::digest(field, asked.digest_function, asked.blob_digest.as_ref())?;
    let chunks = asked.chunk_digests.iter().map(|chunk| {
        RemoteDigest::of_wire(Some(digest.function()), chunk).map_err(|error| {
            let text = format!("chunk_digests: {}", error.message());
            bad_request("chunk_digests", text)
        })
    });
    let chunks: Vec<RemoteDigest> = chunks.collect::<Result<_, _>>()?;
    let spliced = cache.splice(&digest, &chunks, asked.chunking_function);
    spliced.await.map_err(|error| to_status(&error))?;
    Ok(SpliceBlobResponse {
        blob_digest: asked.blob_digest,
    })
}
