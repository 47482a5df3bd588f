//! What both batch calls have in common: their bounds, and a status for each blob.

use prost::Message;
use tonic::{Code, Status};
use zako_core::cas::{CasError, ErrorKind};
use zako_core::server::{CallBody, bad_frame, bad_request, to_status};
use zako_core::transport::grpc::Pieces;

use super::fields;
use crate::cache::Cache;
use crate::digest::{DigestFunction, RemoteDigest};
use crate::proto::{reapi, rpc};

/// The field of both requests that holds the entries.
const ENTRIES: u64 = 2;

/// The request's body, once it is known not to decode to much more memory.
pub(super) async fn request(body: &mut CallBody, cache: &Cache) -> Result<Pieces, Status> {
    let limit = cache.options().max_message_bytes;
    let mut request = body.pieces(limit).await?;
    let message = request.share().unframed();
    let message = message.map_err(bad_frame)?;
    let most = fields::MAX_ENTRIES;
    if fields::count(message, ENTRIES)? > most {
        return Err(bad_request("", format!("a batch has at most {most} blobs")));
    }
    Ok(request)
}

/// Bounds the sum of the blobs' sizes.
pub(super) fn within(most: u64, sizes: impl Iterator<Item = u64>) -> Result<(), Status> {
    let total = sizes.fold(0, u64::saturating_add);
    if total > most {
        let text = format!("the blobs of a batch add up to {total} bytes, {most} are allowed");
        return Err(bad_request("", text));
    }
    Ok(())
}

/// The blob that an entry names.
pub(super) fn digest(
    function: Option<DigestFunction>,
    digest: Option<&reapi::Digest>,
) -> Result<RemoteDigest, CasError> {
    let digest = digest
        .ok_or_else(|| CasError::new(ErrorKind::InvalidArgument, "an entry has no digest"))?;
    RemoteDigest::of_wire(function, digest)
}

/// How it went with one blob.
pub(super) fn failure(error: &CasError) -> rpc::Status {
    let status = to_status(error);
    let mut told = self::status(status.code(), status.message());
    // When to try again, where it says so. The rest would weigh more than the answer.
    if error.retry_after().is_some() {
        let all = rpc::Status::decode(status.details()).unwrap_or_default();
        let retry = |detail: &prost_types::Any| detail.type_url.ends_with("google.rpc.RetryInfo");
        told.details = all.details.into_iter().filter(retry).collect();
    }
    told
}

pub(super) fn status(code: Code, message: &str) -> rpc::Status {
    rpc::Status {
        code: code as i32,
        message: message.to_owned(),
        ..rpc::Status::default()
    }
}
