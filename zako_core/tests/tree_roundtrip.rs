//! Folders come back as they were.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use zako_core::cas::{Cas, CasExt, ErrorKind};
use zako_core::store::MemoryStore;
use zako_core::tree::{Directory, TreeOptions, is_tree, put_tree, restore_tree};

fn store() -> Arc<dyn Cas> {
    Arc::new(MemoryStore::new(1 << 30))
}

/// All that a tree keeps, by path; the root itself is left out.
fn snapshot(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let mode = metadata.permissions().mode() & 0o7777;
            let what = if metadata.is_symlink() {
                format!("link {:?}", std::fs::read_link(&path).unwrap())
            } else if metadata.is_dir() {
                open.push(path.clone());
                format!("folder {mode:o}")
            } else {
                let digest = zako_digest::hash::file(&path).unwrap();
                format!("file {mode:o} {digest}")
            };
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
            found.insert(name.to_owned(), what);
        }
    }
    found
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Lets a temporary folder be removed.
fn open_all(root: &Path) {
    chmod(root, 0o700);
    for entry in std::fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            open_all(&entry.path());
        }
    }
}

#[tokio::test]
async fn a_folder_of_everything_comes_back() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("source");
    for folder in ["a/b/c", "empty", "closed", "a/also empty"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    let odd = std::ffi::OsString::from_vec(b"odd \xff\xfe\n name".to_vec());
    std::fs::write(root.join(&odd), b"odd").unwrap();
    std::fs::write(root.join("a/same"), vec![7; 100_000]).unwrap();
    std::fs::write(root.join("a/b/same"), vec![7; 100_000]).unwrap();
    std::fs::write(root.join("a/b/c/nothing"), b"").unwrap();
    std::fs::write(root.join("run"), b"#!/bin/sh\n").unwrap();
    std::fs::write(root.join("closed/file"), b"inside").unwrap();
    std::fs::write(root.join("large"), vec![1; 3_000_000]).unwrap();
    symlink("a/same", root.join("link")).unwrap();
    symlink("/nowhere/at all", root.join("a/dangling")).unwrap();
    symlink("..", root.join("a/b/up")).unwrap();
    symlink(OsStr::from_bytes(b"\xff"), root.join("a/b/odd link")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(root.join("a/socket")).unwrap();
    chmod(&root.join("run"), 0o755);
    chmod(&root.join("a/same"), 0o400);
    chmod(&root.join("empty"), 0o1777);
    chmod(&root.join("closed"), 0o500);

    let (cas, options) = (store(), TreeOptions::default());
    let stored = put_tree(&cas, &root, &options, &()).await.unwrap();
    assert_eq!((stored.files, stored.folders, stored.symlinks), (7, 6, 4));
    assert_eq!(stored.left_out.len(), 1);
    assert_eq!(stored.left_out[0].what, "socket");
    assert_eq!(stored.left_out[0].path, root.join("a/socket"));
    drop(socket);
    std::fs::remove_file(root.join("a/socket")).unwrap();

    let again = put_tree(&cas, &root, &options, &()).await.unwrap();
    assert_eq!(again.digest, stored.digest);
    assert_eq!(again.upload.sent_blobs, 0);
    let root_blob = cas.fetch_bytes(&stored.digest).await.unwrap();
    assert!(is_tree(&root_blob));
    assert_eq!(Directory::decode(&root_blob).unwrap().entries().len(), 7);

    let expected = snapshot(&root);
    let empty = home.path().join("was empty");
    std::fs::create_dir(&empty).unwrap();
    for target in [home.path().join("absent"), empty] {
        let report = restore_tree(&cas, stored.digest, &target, &options, &())
            .await
            .unwrap();
        assert_eq!(snapshot(&target), expected);
        assert_eq!((report.files, report.folders, report.symlinks), (7, 6, 4));
        assert_eq!(report.file_bytes, stored.file_bytes);
        assert_eq!(report.fetched_bytes, stored.file_bytes - 100_000);
        let copy = put_tree(&cas, &target, &options, &()).await.unwrap();
        assert_eq!(copy.digest, stored.digest);
        open_all(&target);
    }
    let entries = std::fs::read_dir(home.path()).unwrap().count();
    assert_eq!(entries, 3, "something is left beside the targets");
    open_all(&root);
}

#[tokio::test]
async fn the_digest_depends_on_names_modes_and_content_only() {
    let home = tempfile::tempdir().unwrap();
    let (cas, options) = (store(), TreeOptions::default());
    let mut digests = Vec::new();
    for variant in ["plain", "plain again", "mode", "name", "content", "link"] {
        let root = home.path().join(variant);
        std::fs::create_dir(&root).unwrap();
        let name = if variant == "name" { "g" } else { "f" };
        let content = if variant == "content" { "x" } else { "y" };
        std::fs::write(root.join(name), content).unwrap();
        chmod(
            &root.join(name),
            if variant == "mode" { 0o600 } else { 0o644 },
        );
        if variant == "link" {
            symlink("f", root.join("h")).unwrap();
        }
        let report = put_tree(&cas, &root, &options, &()).await.unwrap();
        digests.push(report.digest);
    }
    assert_eq!(digests.remove(0), digests[0]);
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), 5);
}

#[tokio::test]
async fn setuid_is_restored_only_when_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("source");
    std::fs::create_dir_all(root.join("folder")).unwrap();
    std::fs::write(root.join("file"), b"x").unwrap();
    chmod(&root.join("file"), 0o6755);
    chmod(&root.join("folder"), 0o3755);
    let (cas, mut options) = (store(), TreeOptions::default());
    let digest = put_tree(&cas, &root, &options, &()).await.unwrap().digest;
    for (asked, file, folder) in [(false, 0o755, 0o1755), (true, 0o6755, 0o3755)] {
        options.restore_setuid = asked;
        let target = home.path().join(format!("{asked}"));
        restore_tree(&cas, digest, &target, &options, &())
            .await
            .unwrap();
        let mode = |name: &str| {
            let metadata = std::fs::metadata(target.join(name)).unwrap();
            metadata.permissions().mode() & 0o7777
        };
        assert_eq!((mode("file"), mode("folder")), (file, folder));
    }
}

#[tokio::test]
async fn what_cannot_be_stored_is_a_clear_error() {
    let home = tempfile::tempdir().unwrap();
    let (cas, mut options) = (store(), TreeOptions::default());
    let file = home.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    let error = put_tree(&cas, &file, &options, &()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let absent = home.path().join("absent");
    let error = put_tree(&cas, &absent, &options, &()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert_eq!(error.path(), Some(&*absent));

    let root = home.path().join("root");
    std::fs::create_dir_all(root.join("1/2/3")).unwrap();
    options.max_depth = 3;
    put_tree(&cas, &root, &options, &()).await.unwrap();
    options.max_depth = 2;
    let error = put_tree(&cas, &root, &options, &()).await.unwrap_err();
    assert!(error.message().contains("levels"), "{error}");
    options.max_depth = 3;
    options.max_entries = 3;
    put_tree(&cas, &root, &options, &()).await.unwrap();
    options.max_entries = 2;
    let error = put_tree(&cas, &root, &options, &()).await.unwrap_err();
    assert!(error.message().contains("entries"), "{error}");
}

/// Something in a random tree.
#[derive(Clone, Debug)]
enum Item {
    File(Vec<u8>, u32),
    Folder(Vec<(Vec<u8>, Item)>, u32),
    Link(Vec<u8>),
}

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(
        any::<u8>().prop_filter("a name has no NUL and no slash", |c| *c != 0 && *c != b'/'),
        1..12,
    )
    .prop_filter("a name is not one of dots", |name| {
        name != b"." && name != b".."
    })
}

fn any_item() -> impl Strategy<Value = Item> {
    let leaf = prop_oneof![
        (prop::collection::vec(any::<u8>(), 0..200), 0o400u32..=0o777)
            .prop_map(|(data, mode)| Item::File(data, mode | 0o400)),
        prop::collection::vec(1u8.., 1..40).prop_map(Item::Link),
    ];
    leaf.prop_recursive(4, 30, 6, |inner| {
        (
            prop::collection::vec((any_name(), inner), 0..6),
            0u32..=0o777,
        )
            .prop_map(|(items, mode)| Item::Folder(items, mode | 0o500))
    })
}

fn build(path: &Path, item: &Item) {
    match item {
        Item::File(data, mode) => {
            std::fs::write(path, data).unwrap();
            chmod(path, *mode);
        }
        Item::Link(target) => symlink(OsStr::from_bytes(target), path).unwrap(),
        Item::Folder(items, mode) => {
            std::fs::create_dir(path).unwrap();
            for (name, item) in items {
                let path = path.join(OsStr::from_bytes(name));
                if path.symlink_metadata().is_err() {
                    build(&path, item);
                }
            }
            chmod(path, *mode);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn random_trees_come_back(items in prop::collection::vec((any_name(), any_item()), 0..6)) {
        let home = tempfile::tempdir().unwrap();
        let (source, target) = (home.path().join("source"), home.path().join("target"));
        build(&source, &Item::Folder(items, 0o700));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (first, second) = runtime.block_on(async {
            let (cas, options) = (store(), TreeOptions::default());
            let first = put_tree(&cas, &source, &options, &()).await.unwrap();
            restore_tree(&cas, first.digest, &target, &options, &()).await.unwrap();
            let second = put_tree(&store(), &target, &options, &()).await.unwrap();
            (first, second)
        });
        prop_assert_eq!(snapshot(&source), snapshot(&target));
        prop_assert_eq!(first.digest, second.digest);
        open_all(&source);
        open_all(&target);
    }
}
