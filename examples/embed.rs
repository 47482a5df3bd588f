//! A store inside a program: `cargo run --example embed [FOLDER]` stores a folder
//! twice, brings it back, and looks at one blob.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::PathBuf;
use std::sync::Arc;

use zako_core::BlobRange;
use zako_core::cas::{Cas, CasExt, Lease, Result};
use zako_core::store::{LocalStore, StoreOptions};
use zako_core::tree::{TreeOptions, put_tree, restore_tree};

#[tokio::main]
async fn main() -> Result<()> {
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from("examples"), PathBuf::from);
    let home = std::env::temp_dir().join(format!("zako-embed-{}", std::process::id()));
    let store = LocalStore::open(home.join("store"), StoreOptions::default()).await?;
    let store = Arc::new(store);
    let cas: Arc<dyn Cas> = Arc::clone(&store) as _;

    // A blob: in under its digest, out whole or in part.
    let (digest, stored) = cas.put_bytes("hello, blobs").await?;
    println!("{digest} is {stored:?}");
    let part = cas.fetch(&digest, BlobRange::new(7, 5)).await?;
    println!("bytes 7 to 11: {:?}", part.bytes().await?);
    // What isn't reported missing stays for the lease.
    println!(
        "missing: {:?}",
        cas.missing(&[digest], Lease::Default).await?
    );

    // A folder: its one digest gives all back, and nothing is stored twice.
    let options = TreeOptions::default();
    let tree = put_tree(&cas, &folder, &options, &()).await?;
    let again = put_tree(&cas, &folder, &options, &()).await?;
    println!(
        "{}: {} files, {} bytes; sent {} bytes, then {}",
        tree.digest, tree.files, tree.file_bytes, tree.upload.sent_bytes, again.upload.sent_bytes
    );
    let copy = home.join("copy");
    let restored = restore_tree(&cas, tree.digest, &copy, &options, &()).await?;
    println!("restored {} files to {}", restored.files, copy.display());

    store.close().await?;
    std::fs::remove_dir_all(&home)
        .map_err(|error| zako_core::cas::CasError::io("cleaning up", &home, error))
}
