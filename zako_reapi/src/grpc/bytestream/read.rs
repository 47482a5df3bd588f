//! Reading a blob.

use tonic::Status;
use zako_core::BlobRange;
use zako_core::server::{Answering, Reply, bad_request, to_status};
use zako_core::transport::grpc::frame::PayloadField;

use super::super::resource_name::{BlobName, Encoding};
use super::pack::pack;
use crate::cache::Cache;
use crate::proto::bytestream::ReadRequest;

pub(super) async fn answer(
    cache: &Cache,
    request: &ReadRequest,
    answering: Answering,
) -> Result<Reply, Status> {
    let BlobName { digest, encoding } =
        BlobName::to_read(&request.resource_name).map_err(|error| to_status(&error))?;
    let range = range(request, digest.size(), encoding)?;
    let blob = cache.open(&digest, range).await;
    let blob = blob.map_err(|error| to_status(&error))?;
    match encoding {
        Encoding::Identity => Ok(answering.blob(blob, PayloadField::ByteStream)),
        Encoding::Zstd => {
            let packed = pack(blob, answering.share())?;
            Ok(answering.payloads(packed, PayloadField::ByteStream))
        }
    }
}

/// The part that is asked for of a blob of `size` bytes.
fn range(request: &ReadRequest, size: u64, encoding: Encoding) -> Result<BlobRange, Status> {
    let ReadRequest {
        read_offset,
        read_limit,
        ..
    } = request;
    let start = u64::try_from(*read_offset).ok();
    let Some(start) = start.filter(|start| *start <= size) else {
        return Err(Status::out_of_range(format!(
            "read_offset is {read_offset} in a blob of {size} bytes"
        )));
    };
    let Ok(limit) = u64::try_from(*read_limit) else {
        let text = format!("read_limit is {read_limit}");
        return Err(bad_request("read_limit", text));
    };
    if limit > 0 && encoding != Encoding::Identity {
        let text = "a compressed read has no read_limit";
        return Err(bad_request("read_limit", text));
    }
    Ok(match limit {
        0 => BlobRange::from_start(start),
        limit => BlobRange::new(start, limit.min(size - start)),
    })
}
