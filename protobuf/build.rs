//! Compiles the `.proto` files with protox, so that no `protoc` is needed.

use std::path::PathBuf;

const PACKAGES: [&str; 9] = [
    "digest",
    "range",
    "net",
    "transport",
    "cas",
    "batch",
    "store",
    "tree",
    "rdma",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files: Vec<String> = PACKAGES
        .iter()
        .map(|package| format!("zako/v1/{package}.proto"))
        .collect();
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(&files, ["proto"])?;

    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        out.join("zako_descriptor.bin"),
        prost::Message::encode_to_vec(&descriptors),
    )?;

    let grpc = std::env::var_os("CARGO_FEATURE_GRPC").is_some();
    tonic_prost_build::configure()
        .bytes(".")
        .build_client(grpc)
        .build_server(grpc)
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
