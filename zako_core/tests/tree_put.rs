//! Storing trees: what is read once, and kept until the store has it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod flaky;
mod wire_harness;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use zako_core::Digest;
use zako_core::cas::{Cas, CasExt, ErrorKind, Lease};
use zako_core::store::MemoryStore;
use zako_core::tree::{Directory, Entry, Node, TreeOptions, put_tree};
use zako_digest::hash;

use flaky::{Flaky, quick};
use wire_harness::MapCas;

fn content(number: usize, size: usize) -> Vec<u8> {
    let mut content = number.to_le_bytes().repeat(size / 8 + 1);
    content.truncate(size);
    content
}

/// Makes files of these sizes in a folder, and tells what its directory has to be.
fn make(folder: &Path, sizes: &[usize]) -> (Directory, Vec<Digest>) {
    std::fs::create_dir_all(folder).unwrap();
    let (mut entries, mut digests) = (Vec::new(), Vec::new());
    for (number, &size) in sizes.iter().enumerate() {
        let (name, content) = (format!("file {number}"), content(number, size));
        let path = folder.join(&name);
        std::fs::write(&path, &content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let digest = hash::bytes(&content);
        digests.push(digest);
        let node = Node::File {
            digest,
            mode: 0o640,
        };
        let name = Bytes::from(name);
        entries.push(Entry { name, node });
    }
    (Directory::new(entries).unwrap(), digests)
}

#[tokio::test]
async fn files_of_all_sizes_have_their_own_digests() {
    let home = tempfile::tempdir().unwrap();
    // Around what is kept, what fits into a buffer together, and what is read at once.
    let sizes: Vec<usize> = [
        0, 1, 4095, 65_535, 65_536, 65_537, 131_072, 262_143, 262_144,
    ]
    .into_iter()
    .cycle()
    .take(100)
    .collect();
    let (directory, digests) = make(&home.path().join("root"), &sizes);
    let link = home.path().join("link");
    symlink("root", &link).unwrap();
    for small_bytes in [0, 1, 64 << 10, 16 << 20] {
        for threads in [1, 4] {
            let cas: Arc<dyn Cas> = Arc::new(MemoryStore::new(1 << 30));
            let mut options = TreeOptions::default();
            options.transfer.small_bytes = small_bytes;
            options.threads = threads;
            let stored = put_tree(&cas, &link, &options, &()).await.unwrap();
            assert_eq!(stored.digest, hash::bytes(&directory.encode()));
            assert_eq!((stored.files, stored.upload.blobs), (100, 101));
            assert_eq!(stored.file_bytes, sizes.iter().sum::<usize>() as u64);
            for (number, (digest, &size)) in digests.iter().zip(&sizes).enumerate() {
                let blob = cas.fetch_bytes(digest).await.unwrap();
                assert_eq!(blob, content(number, size));
            }
        }
    }
}

#[tokio::test]
async fn more_than_may_be_kept_goes_through_and_fails_through() {
    let home = tempfile::tempdir().unwrap();
    let (directory, digests) = make(home.path(), &[60_000; 1_500]);
    let cas: Arc<dyn Cas> = Arc::new(MemoryStore::new(1 << 30));
    let options = TreeOptions::default();
    let stored = put_tree(&cas, home.path(), &options, &()).await.unwrap();
    assert_eq!(stored.digest, hash::bytes(&directory.encode()));
    let missing = cas.missing(&digests, Lease::None).await.unwrap();
    assert_eq!(missing, []);

    // A walk that waits for buffers, or for the upload, ends with the upload.
    let failing: Arc<dyn Cas> = Flaky::new(1, 0);
    let mut options = TreeOptions::default();
    options.transfer = quick();
    let error = put_tree(&failing, home.path(), &options, &())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

/// Its blobs are the very bytes that it was given.
#[tokio::test]
async fn a_store_that_keeps_what_it_is_given_gets_all() {
    let home = tempfile::tempdir().unwrap();
    let (directory, digests) = make(home.path(), &[60_000; 1_500]);
    let cas: Arc<dyn Cas> = Arc::new(MapCas::default());
    let options = TreeOptions::default();
    let putting = put_tree(&cas, home.path(), &options, &());
    let stored = tokio::time::timeout(Duration::from_secs(120), putting).await;
    let stored = stored.expect("it ends").unwrap();
    assert_eq!(stored.digest, hash::bytes(&directory.encode()));
    let missing = cas.missing(&digests, Lease::None).await.unwrap();
    assert_eq!(missing, []);
}
