//! Messages and services, compiled from the `.proto` files in `proto/`. A `bytes` field is
//! a [`bytes::Bytes`]: decoding shares the received buffer.
#![allow(
    missing_docs,
    unreachable_pub,
    reason = "generated code carries the comments of its .proto file"
)]
#![allow(clippy::all, rustdoc::all, reason = "generated code")]

/// The file descriptor set of every package here, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/reapi_descriptor.bin"));

// Generated code names its neighbours by their places in the tree of packages.
pub mod build {
    pub mod bazel {
        pub mod remote {
            pub mod asset {
                pub mod v1 {
                    include!(concat!(env!("OUT_DIR"), "/build.bazel.remote.asset.v1.rs"));
                }
            }
            pub mod execution {
                pub mod v2 {
                    include!(concat!(
                        env!("OUT_DIR"),
                        "/build.bazel.remote.execution.v2.rs"
                    ));
                }
            }
        }
        pub mod semver {
            include!(concat!(env!("OUT_DIR"), "/build.bazel.semver.rs"));
        }
    }
}
pub mod google {
    pub mod bytestream {
        include!(concat!(env!("OUT_DIR"), "/google.bytestream.rs"));
    }
    pub mod rpc {
        include!(concat!(env!("OUT_DIR"), "/google.rpc.rs"));
    }
}

/// Remote assets.
pub use build::bazel::remote::asset::v1 as asset;
/// The Remote Execution API.
pub use build::bazel::remote::execution::v2 as reapi;
/// Versions.
pub use build::bazel::semver;
/// Streams of bytes.
pub use google::bytestream;
/// Statuses in messages.
pub use google::rpc;
