//! The fields that many requests have.

use tonic::Status;
use zako_core::server::{bad_request, to_status};

use crate::digest::{DigestFunction, RemoteDigest};
use crate::proto::reapi;

/// The function that a request names, if it does.
pub(super) fn function(number: i32) -> Result<Option<DigestFunction>, Status> {
    DigestFunction::of_wire(number).map_err(|error| to_status(&error))
}

/// The digest that has to be in `field`, by the function of this number.
pub(super) fn digest(
    field: &str,
    number: i32,
    digest: Option<&reapi::Digest>,
) -> Result<RemoteDigest, Status> {
    let Some(digest) = digest else {
        return Err(bad_request(field, format!("{field} is missing")));
    };
    RemoteDigest::of_wire(function(number)?, digest)
        .map_err(|error| bad_request(field, format!("{field}: {}", error.message())))
}
