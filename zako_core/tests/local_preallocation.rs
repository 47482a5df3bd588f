//! What is preallocated for segments is given back.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use zako_core::cas::{CasExt, ErrorKind};
use zako_core::store::{LocalStore, StoreOptions};

const ROOM: u64 = 8 << 20;

fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(segments(&path));
        } else if path.extension().is_some_and(|ext| ext == "seg") {
            all.push(path);
        }
    }
    all
}

/// Bytes on disk that no byte of the file lies in.
fn spare(path: &Path) -> u64 {
    let metadata = std::fs::metadata(path).unwrap();
    (metadata.blocks() * 512).saturating_sub(metadata.len())
}

/// Opens a store whose last user may still be finishing what it had begun.
async fn open(folder: &Path) -> LocalStore {
    loop {
        match LocalStore::open(folder, StoreOptions::default()).await {
            Err(error) if error.kind() == ErrorKind::Locked => tokio::task::yield_now().await,
            outcome => return outcome.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_room_is_left_behind_by_a_store_that_was_closed_or_killed() {
    let folder = tempfile::tempdir().unwrap();
    let open = || open(folder.path());
    let store = open().await;
    let (digest, _) = store.put_bytes("something").await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let [segment] = &segments(folder.path())[..] else {
        panic!("one segment was written")
    };
    assert!(spare(segment) < ROOM / 16, "{}", spare(segment));

    // As a killed process leaves it: no footer, and room behind the end.
    let file = OpenOptions::new().write(true).open(segment).unwrap();
    let end = file.metadata().unwrap().len() - 1;
    file.set_len(end).unwrap();
    if fallocate(&file, FallocateFlags::KEEP_SIZE, end, ROOM).is_err() {
        // A file system without it has nothing to give back.
        return;
    }
    assert!(spare(segment) >= ROOM / 2);
    let store = open().await;
    assert_eq!(store.fetch_bytes(&digest).await.unwrap(), "something");
    store.close().await.unwrap();
    assert!(spare(segment) < ROOM / 16, "{}", spare(segment));
}
