//! What is preallocated is given back.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{FallocateFlags, fallocate};
use zako_core::cas::{Cas, CasExt, ErrorKind};
use zako_core::store::{LocalStore, StoreOptions};
use zako_digest::hash;

const ROOM: u64 = 8 << 20;

fn segments(folder: &Path) -> Vec<PathBuf> {
    files(folder, |path| {
        path.extension().is_some_and(|ext| ext == "seg")
    })
}

fn files(folder: &Path, wanted: fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path, wanted));
        } else if wanted(&path) {
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

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_upload_keeps_no_room_and_a_whole_one_has_none_left() {
    const HELD: usize = 3 << 20;
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let data: Bytes = (0..20_000_003u32).map(|at| (at / 7) as u8).collect();
    let digest = hash::bytes(&data);
    let only = || {
        let of_size = |path: &Path| std::fs::metadata(path).unwrap().len() as usize >= HELD;
        let found = files(folder.path(), of_size);
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_iter().next().unwrap()
    };
    let mut writer = store.writer(&digest, 0).await.unwrap();
    writer.write(data.slice(..HELD)).await.unwrap();
    assert_eq!(writer.park().await.unwrap(), HELD as u64);
    assert!(spare(&only()) < ROOM / 16, "{}", spare(&only()));

    // As a killed process leaves it.
    store.close().await.unwrap();
    drop(store);
    let file = OpenOptions::new().write(true).open(only()).unwrap();
    let room = fallocate(&file, FallocateFlags::KEEP_SIZE, HELD as u64, ROOM);
    assert!(room.is_err() || spare(&only()) >= ROOM / 2);
    let store = open(folder.path()).await;
    assert!(spare(&only()) < ROOM / 16, "{}", spare(&only()));

    let mut writer = store.writer(&digest, HELD as u64).await.unwrap();
    writer.write(data.slice(HELD..)).await.unwrap();
    writer.commit().await.unwrap();
    assert!(spare(&only()) < ROOM / 16, "{}", spare(&only()));
    assert!(store.fetch_bytes(&digest).await.unwrap() == data);
}
