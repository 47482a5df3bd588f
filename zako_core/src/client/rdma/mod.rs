//! The road over RDMA: blobs that are large enough are pulled, by this end or by the
//! server, and everything else goes by gRPC, as do blobs on which RDMA fails.

mod breaker;
mod control;
mod download;
mod road;
mod status;
mod upload;

pub(super) use download::Pulling;
pub(super) use road::{Begun, Road};
pub(super) use status::Failure;
