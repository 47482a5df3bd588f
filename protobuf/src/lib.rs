//! Messages and services of the `zako.v1` protocol, compiled from the `.proto`
//! files in `proto/`. A `bytes` field is a [`bytes::Bytes`]: decoding shares the
//! received buffer.
//!
//! The feature `grpc` adds the clients and servers of the services (tonic).
#![forbid(unsafe_code)]
#![allow(
    missing_docs,
    reason = "generated code carries the comments of its .proto file"
)]
#![allow(clippy::all, rustdoc::all, reason = "generated code")]

/// The file descriptor set of every package here, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/zako_descriptor.bin"));

/// The names of blobs.
pub mod digest {
    include!(concat!(env!("OUT_DIR"), "/zako.v1.digest.rs"));
}
/// Parts of blobs.
pub mod range {
    include!(concat!(env!("OUT_DIR"), "/zako.v1.range.rs"));
}
/// Addresses and roads.
pub mod net {
    include!(concat!(env!("OUT_DIR"), "/zako.v1.net.rs"));
}
/// Moving one blob.
pub mod transport {
    include!(concat!(env!("OUT_DIR"), "/zako.v1.transport.rs"));
}
/// Negotiation.
pub mod cas {
    include!(concat!(env!("OUT_DIR"), "/zako.v1.cas.rs"));
}
/// Moving many small blobs.
pub mod batch {
    include!(concat!(env!("OUT_DIR"), "/zako.v1.batch.rs"));
}
/// Looking after a store.
pub mod store {
    include!(concat!(env!("OUT_DIR"), "/zako.v1.store.rs"));
}
/// Folders as blobs.
pub mod tree {
    include!(concat!(env!("OUT_DIR"), "/zako.v1.tree.rs"));
}
/// The control of RDMA sessions.
pub mod rdma {
    include!(concat!(env!("OUT_DIR"), "/zako.v1.rdma.rs"));
}
