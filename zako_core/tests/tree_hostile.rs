//! Trees that want to escape, to explode, or are not whole.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use zako_core::Digest;
use zako_core::cas::{Cas, CasError, CasExt, ErrorKind};
use zako_core::store::MemoryStore;
use zako_core::transfer::Progress;
use zako_core::tree::{Directory, Entry, Node, TreeOptions, restore_tree};
use zako_protobuf::tree as wire;

fn store() -> Arc<dyn Cas> {
    Arc::new(MemoryStore::new(1 << 30))
}

async fn put(cas: &Arc<dyn Cas>, entries: Vec<(&str, Node)>) -> Digest {
    let entries = entries
        .into_iter()
        .map(|(name, node)| Entry {
            name: Bytes::copy_from_slice(name.as_bytes()),
            node,
        })
        .collect();
    let blob = Directory::new(entries).unwrap().encode();
    cas.put_bytes(blob).await.unwrap().0
}

fn folder(digest: Digest) -> Node {
    let mode = 0o755;
    Node::Folder { digest, mode }
}

fn file(digest: Digest) -> Node {
    let mode = 0o644;
    Node::File { digest, mode }
}

fn link(target: &str) -> Node {
    Node::Symlink {
        target: Bytes::copy_from_slice(target.as_bytes()),
    }
}

/// Restores into a folder of its own and checks that nothing is left.
async fn fails(cas: &Arc<dyn Cas>, digest: Digest, options: &TreeOptions) -> CasError {
    let mut errors = Vec::new();
    for exists in [false, true] {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("target");
        if exists {
            std::fs::create_dir(&target).unwrap();
        }
        let outcome = restore_tree(cas, digest, &target, options, &()).await;
        errors.push(outcome.unwrap_err());
        assert_eq!(entries(home.path()), usize::from(exists));
        if exists {
            assert_eq!(entries(&target), 0, "a broken restore is left");
        }
    }
    assert_eq!(errors[0].kind(), errors[1].kind());
    errors.remove(0)
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[tokio::test]
async fn names_that_lead_elsewhere_write_nothing() {
    let cas = store();
    let (content, _) = cas.put_bytes("hostile").await.unwrap();
    for name in ["..", ".", "", "../escaped", "/tmp/escaped", "a/b", "a\0"] {
        let entry = wire::Entry {
            name: Bytes::copy_from_slice(name.as_bytes()),
            node: Some(wire::entry::Node::File(wire::File {
                digest: Some(content.into()),
                mode: 0o644,
            })),
        };
        let directory = wire::Directory {
            magic: u64::from_le_bytes(*b"zakotree"),
            entries: vec![entry],
        };
        let (digest, _) = cas.put_bytes(directory.encode_to_vec()).await.unwrap();
        // Also below an honest folder.
        for digest in [digest, put(&cas, vec![("folder", folder(digest))]).await] {
            let error = fails(&cas, digest, &TreeOptions::default()).await;
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{name:?}");
        }
    }
}

#[tokio::test]
async fn links_lead_no_write_outside() {
    let cas = store();
    let home = tempfile::tempdir().unwrap();
    let outside = home.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let outside_text = outside.to_str().unwrap();
    let (content, _) = cas.put_bytes("hostile").await.unwrap();
    let below = put(&cas, vec![("file", file(content))]).await;

    // A folder and a link can't share a name.
    let twice = wire::Directory {
        magic: u64::from_le_bytes(*b"zakotree"),
        entries: vec![
            wire::Entry {
                name: "a".into(),
                node: Some(wire::entry::Node::Symlink(wire::Symlink {
                    target: outside_text.to_owned().into(),
                })),
            },
            wire::Entry {
                name: "a".into(),
                node: Some(wire::entry::Node::Folder(wire::Folder {
                    digest: Some(below.into()),
                    mode: 0o755,
                })),
            },
        ],
    };
    let (digest, _) = cas.put_bytes(twice.encode_to_vec()).await.unwrap();
    let error = fails(&cas, digest, &TreeOptions::default()).await;
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);

    // A link beside what is written stays a link.
    let root = put(
        &cas,
        vec![
            ("a", link(outside_text)),
            ("b", folder(below)),
            ("c", link("b")),
            ("d", link("a/file")),
        ],
    )
    .await;
    let target = home.path().join("target");
    restore_tree(&cas, root, &target, &TreeOptions::default(), &())
        .await
        .unwrap();
    assert_eq!(entries(&outside), 0);
    assert_eq!(std::fs::read(target.join("c/file")).unwrap(), b"hostile");
}

#[tokio::test]
async fn small_blobs_that_mean_huge_trees_are_bounded() {
    let cas = store();
    // 2^40 files out of 40 directories.
    let (content, _) = cas.put_bytes("x").await.unwrap();
    let mut digest = put(&cas, vec![("f", file(content))]).await;
    for _ in 0..40 {
        digest = put(&cas, vec![("a", folder(digest)), ("b", folder(digest))]).await;
    }
    let mut options = TreeOptions::default();
    options.max_entries = 100_000;
    let error = fails(&cas, digest, &options).await;
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.message().contains("entries"), "{error}");

    // 2,000 levels.
    let mut digest = put(&cas, vec![]).await;
    for _ in 0..2_000 {
        digest = put(&cas, vec![("a", folder(digest))]).await;
    }
    let error = fails(&cas, digest, &TreeOptions::default()).await;
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.message().contains("levels"), "{error}");

    // One file, many times.
    let (large, _) = cas.put_bytes(vec![0; 1_000_000]).await.unwrap();
    let names: Vec<String> = (0..100).map(|at| format!("{at:03}")).collect();
    let named = names.iter().map(|name| (&**name, file(large))).collect();
    let digest = put(&cas, named).await;
    options.max_bytes = 50_000_000;
    let error = fails(&cas, digest, &options).await;
    assert!(error.message().contains("bytes"), "{error}");
}

#[tokio::test]
async fn no_more_directories_are_fetched_than_may_be() {
    let cas = store();
    let mut options = TreeOptions::default();
    options.max_entries = 1_000;
    // One by one, in order; that the last is absent never shows.
    options.transfer.concurrency = 1;
    options.transfer.batch_bytes = 1;
    let (content, _) = cas.put_bytes("x").await.unwrap();
    let mut root = Vec::new();
    let names: Vec<String> = (0..100).map(|at| format!("{at:03}")).collect();
    for name in &names[..20] {
        let files = names.iter().map(|file_name| format!("{name}-{file_name}"));
        let files: Vec<_> = files.collect();
        let files = files.iter().map(|name| (&**name, file(content))).collect();
        root.push((&**name, folder(put(&cas, files).await)));
    }
    let absent = zako_digest::hash::bytes(b"absent");
    root.push(("absent", folder(absent)));
    let digest = put(&cas, root).await;
    let error = fails(&cas, digest, &options).await;
    assert!(error.message().contains("entries"), "{error}");

    // Ever new ones, each as large as one may be and none of them there.
    let large = |at: u8| {
        folder(Digest::new(
            *zako_digest::hash::bytes(&[at]).hash(),
            64 << 20,
        ))
    };
    let root = [("a", large(1)), ("b", large(2))];
    let digest = put(&cas, root.to_vec()).await;
    let error = fails(&cas, digest, &options).await;
    assert!(error.message().contains("too large"), "{error}");
}

#[tokio::test]
async fn a_tree_that_is_not_whole_leaves_nothing() {
    let cas = store();
    let options = TreeOptions::default();
    let absent = zako_digest::hash::bytes(b"absent");
    let (content, _) = cas.put_bytes("here").await.unwrap();
    let (other, _) = cas.put_bytes(vec![5; 200_000]).await.unwrap();
    let closed = Node::Folder {
        digest: put(&cas, vec![("x", file(content))]).await,
        mode: 0,
    };
    for root in [
        absent,
        put(&cas, vec![("folder", folder(absent))]).await,
        put(
            &cas,
            vec![
                ("a", file(content)),
                ("b", file(absent)),
                ("c", closed.clone()),
                ("d", file(other)),
            ],
        )
        .await,
    ] {
        let error = fails(&cas, root, &options).await;
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.digest(), Some(absent));
    }
    // A link that can't be made comes after all else.
    let long = "a".repeat(5_000);
    let root = put(
        &cas,
        vec![("a", file(content)), ("b", link(&long)), ("c", closed)],
    )
    .await;
    assert_eq!(fails(&cas, root, &options).await.kind(), ErrorKind::Io);
    // So does a name that no file system takes.
    let root = put(&cas, vec![("a", file(content)), (&long, folder(root))]).await;
    assert_eq!(fails(&cas, root, &options).await.kind(), ErrorKind::Io);
}

#[test]
fn a_dropped_restore_leaves_nothing_half() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cas = store();
    let root = runtime.block_on(async {
        let mut root = Vec::new();
        let names: Vec<String> = (0..300).map(|at| format!("{at}")).collect();
        for (at, name) in names.iter().enumerate() {
            let data = vec![at as u8; if at % 50 == 0 { 2_000_000 } else { 1_000 }];
            let (content, _) = cas.put_bytes(data).await.unwrap();
            let below = put(&cas, vec![("file", file(content))]).await;
            root.push((&**name, folder(below)));
        }
        put(&cas, root).await
    });
    let home = tempfile::tempdir().unwrap();
    let mut dropped = 0;
    for polls in (1..40).step_by(3) {
        let target = home.path().join(format!("target {polls}"));
        dropped += runtime.block_on(async {
            let options = TreeOptions::default();
            let mut restore = Box::pin(restore_tree(&cas, root, &target, &options, &()));
            for _ in 0..polls {
                if futures::poll!(&mut restore).is_ready() {
                    return 0;
                }
                tokio::task::yield_now().await;
            }
            1
        });
    }
    assert!(dropped > 0, "every restore was too fast");
    // Waits for all threads.
    drop(runtime);
    for entry in std::fs::read_dir(home.path()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(name.starts_with("target"), "{name} is left");
        assert_eq!(entries(&path), 300, "{name} is not whole");
    }
}

#[tokio::test]
async fn what_is_no_directory_is_refused() {
    let cas = store();
    let options = TreeOptions::default();
    let (text, _) = cas.put_bytes("just a file").await.unwrap();
    let (empty, _) = cas.put_bytes("").await.unwrap();
    for digest in [text, empty, put(&cas, vec![("folder", folder(text))]).await] {
        let error = fails(&cas, digest, &options).await;
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.message().contains("directory"), "{error}");
        assert!(error.digest().is_some());
    }
    // Nothing is fetched for a size that no directory has.
    let huge = Digest::new(*text.hash(), u64::MAX);
    let root = put(&cas, vec![("folder", folder(huge))]).await;
    let error = fails(&cas, root, &options).await;
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn a_target_with_something_in_it_is_left_alone() {
    let cas = store();
    let (content, _) = cas.put_bytes("new").await.unwrap();
    let root = put(&cas, vec![("file", file(content))]).await;
    let home = tempfile::tempdir().unwrap();
    let full = home.path().join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("file"), b"old").unwrap();
    let a_file = home.path().join("a file");
    std::fs::write(&a_file, b"old").unwrap();
    let dangling = home.path().join("dangling");
    std::os::unix::fs::symlink(home.path().join("elsewhere"), &dangling).unwrap();
    let no_parent = home.path().join("no/parent");
    for target in [&full, &a_file, &dangling, &no_parent] {
        let outcome = restore_tree(&cas, root, target, &TreeOptions::default(), &()).await;
        let error = outcome.unwrap_err();
        assert_eq!(error.path(), Some(&**target), "{error}");
    }
    assert_eq!(std::fs::read(full.join("file")).unwrap(), b"old");
    assert_eq!(std::fs::read(&a_file).unwrap(), b"old");
    assert_eq!(entries(home.path()), 3);
}

/// Puts a file of its own into the target while it is restored.
struct Meddler(std::path::PathBuf);

impl Progress for Meddler {
    fn finished(&self, _: u64) {
        std::fs::write(&self.0, b"mine").unwrap();
    }
}

#[tokio::test]
async fn what_others_put_into_the_target_stays() {
    let cas = store();
    let (content, _) = cas.put_bytes("new").await.unwrap();
    let below = put(&cas, vec![("file", file(content))]).await;
    let mut all = vec![("a", file(content)), ("b", folder(below))];
    let whole = put(&cas, all.clone()).await;
    let long = "a".repeat(5_000);
    all.push(("c", link(&long)));
    let broken = put(&cas, all).await;
    for (digest, theirs) in [(whole, "other"), (whole, "a"), (broken, "other")] {
        let target = tempfile::tempdir().unwrap();
        let path = target.path().join(theirs);
        let meddler = Meddler(path.clone());
        let options = TreeOptions::default();
        let outcome = restore_tree(&cas, digest, target.path(), &options, &meddler).await;
        let refused = outcome.unwrap_err().kind() == ErrorKind::InvalidArgument;
        assert_eq!(refused, digest == whole);
        assert_eq!(std::fs::read(path).unwrap(), b"mine");
        assert_eq!(entries(target.path()), 1);
    }
    let target = tempfile::tempdir().unwrap();
    let options = TreeOptions::default();
    let outcome = restore_tree(&cas, whole, target.path(), &options, &()).await;
    outcome.unwrap();
    assert_eq!(entries(target.path()), 2);
}
