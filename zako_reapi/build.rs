//! Compiles the `.proto` files with protox, so that no `protoc` is needed.

use std::path::PathBuf;

const FILES: [&str; 3] = [
    "build/bazel/remote/execution/v2/remote_execution.proto",
    "build/bazel/remote/asset/v1/remote_asset.proto",
    "google/bytestream/bytestream.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        out.join("reapi_descriptor.bin"),
        prost::Message::encode_to_vec(&descriptors),
    )?;
    // A `bytes` field is a `Bytes`: decoding shares the received buffer.
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
