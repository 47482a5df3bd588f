//! Checking what requests name.

use tonic::Status;
use zako_protobuf::digest;
use zako_protobuf::transport::BlobResource;

use super::status::bad_request;
use crate::{BlobRange, Digest};

/// The digest and the range of a resource; both must be there.
pub(super) fn resource(metadata: Option<BlobResource>) -> Result<(Digest, BlobRange), Status> {
    let metadata =
        metadata.ok_or_else(|| bad_request("metadata", "the request has no metadata"))?;
    let digest = metadata
        .digest
        .ok_or_else(|| bad_request("metadata.digest", "the metadata has no digest"))?;
    let range = metadata
        .range
        .ok_or_else(|| bad_request("metadata.range", "the metadata has no range"))?;
    Ok((
        one_digest("metadata.digest", &digest)?,
        BlobRange::from(range),
    ))
}

/// All the digests of a list.
pub(super) fn digests(field: &str, digests: &[digest::Digest]) -> Result<Vec<Digest>, Status> {
    digests
        .iter()
        .map(|digest| one_digest(field, digest))
        .collect()
}

/// A digest that must be there.
pub(super) fn some_digest(field: &str, digest: Option<&digest::Digest>) -> Result<Digest, Status> {
    let digest = digest.ok_or_else(|| bad_request(field, "a blob has no digest"))?;
    one_digest(field, digest)
}

fn one_digest(field: &str, digest: &digest::Digest) -> Result<Digest, Status> {
    Digest::try_from(digest).map_err(|error| bad_request(field, error.to_string()))
}
