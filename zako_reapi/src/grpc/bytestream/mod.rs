//! Blobs as streams of bytes.

mod messages;
mod pack;
mod read;
mod source;
mod unpack;
mod write;

use zako_core::access::Role;
use zako_core::cas::{Lease, Result};
use zako_core::server::{Call, Reply, to_status};

use super::resource_name::{BlobName, Encoding, MAX_NAME, instance};
use super::{Refused, rights, unknown_method};
use crate::cache::Cache;
use crate::proto::bytestream::{
    QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, WriteResponse,
};

/// The longest request: a name and two numbers.
const MAX_REQUEST: usize = MAX_NAME + 64;

pub(super) async fn answer(cache: &Cache, method: &str, call: Call) -> Result<Reply, Refused> {
    let caller = call.caller();
    rights::check_somewhere(&caller, role(method))?;
    let (mut body, answering) = call.open()?;
    match method {
        "Read" => {
            let request: ReadRequest = body.message(MAX_REQUEST).await?;
            rights::check(&caller, instance(&request.resource_name), Role::Read)?;
            Ok(read::answer(cache, &request, answering).await?)
        }
        "Write" => {
            let limits = answering.decode_limits();
            let cache = cache.clone();
            // When the caller goes away, what came must still be put aside.
            let upload = async move { write::receive(&cache, &caller, body, limits).await };
            let committed_size = answering.upload(upload).await??;
            Ok(Reply::message(&WriteResponse { committed_size }))
        }
        "QueryWriteStatus" => {
            let request: QueryWriteStatusRequest = body.message(MAX_REQUEST).await?;
            rights::check(&caller, instance(&request.resource_name), Role::Read)?;
            let status = query(cache, &request.resource_name).await;
            Ok(Reply::message(&status.map_err(|error| to_status(&error))?))
        }
        _ => Err(unknown_method().into()),
    }
}

/// What a method takes of its caller.
fn role(method: &str) -> Role {
    match method {
        "Write" => Role::Write,
        _ => Role::Read,
    }
}

/// How far an upload has come. One of which nothing is known begins at 0.
async fn query(cache: &Cache, name: &str) -> Result<QueryWriteStatusResponse> {
    let BlobName { digest, encoding } = BlobName::to_write(name)?;
    let complete = cache.missing(&[digest], Lease::Default).await?.is_empty();
    let committed = match encoding {
        _ if complete => digest.size(),
        Encoding::Identity => cache.held(&digest).await?,
        // Where in the compressed bytes it was interrupted, nobody knows.
        Encoding::Zstd => 0,
    };
    Ok(QueryWriteStatusResponse {
        committed_size: size(committed),
        complete,
    })
}

/// A number of bytes on the wire.
fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
