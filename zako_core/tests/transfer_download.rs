//! Downloads: what is written, and what is left when something fails.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod flaky;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use flaky::{Flaky, Sums, bytes, quick};
use zako_core::Digest;
use zako_core::cas::{Cas, CasExt, ErrorKind, Result};
use zako_core::transfer::{Download, DownloadReport, download};

const SIZES: [usize; 8] = [0, 1, 1000, 65_536, 65_537, 300_000, 1_048_577, 3_000_000];

fn want(digest: Digest, folder: &Path, name: &str) -> Download {
    Download {
        digest,
        target: folder.join(name),
        mode: None,
    }
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

async fn run(store: &Arc<Flaky>, files: Vec<Download>) -> Result<DownloadReport> {
    let cas = Arc::clone(store) as Arc<dyn Cas>;
    let sums = Sums::default();
    let report = download(&cas, files, &quick(), &sums).await?;
    sums.check();
    Ok(report)
}

#[tokio::test]
async fn each_blob_is_fetched_once_for_all_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let store = Flaky::new(0, 0);
    let mut files = Vec::new();
    for (at, size) in SIZES.into_iter().enumerate() {
        let (digest, _) = store.store.put_bytes(bytes(at as u64, size)).await.unwrap();
        files.push(want(digest, folder.path(), &format!("{size}")));
        for mode in [0o644, 0o755, 0o400] {
            files.push(Download {
                mode: Some(mode),
                ..want(digest, folder.path(), &format!("{size} {mode:o}"))
            });
        }
    }
    std::fs::write(folder.path().join("1000"), b"what was there before").unwrap();
    let report = run(&store, files.clone()).await.unwrap();
    assert_eq!((report.files, report.blobs), (32, 8));
    assert_eq!(report.file_bytes, 4 * report.bytes);
    assert_eq!(store.read.load(SeqCst), report.bytes);
    for file in files {
        let data = std::fs::read(&file.target).unwrap();
        assert_eq!(zako_digest::hash::bytes(&data), file.digest);
        let mode = std::fs::metadata(&file.target)
            .unwrap()
            .permissions()
            .mode();
        match file.mode {
            Some(wanted) => assert_eq!(mode & 0o7777, wanted),
            None => assert_eq!(mode & 0o111, 0),
        }
    }
    assert_eq!(entries(folder.path()), 32, "temporary files are left");
}

#[tokio::test]
async fn a_bad_line_is_survived_and_large_blobs_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = Flaky::new(4, 600_000);
    let mut files = Vec::new();
    for at in 0..40 {
        let size = if at % 4 == 0 { 2_000_000 } else { 5_000 };
        let (digest, _) = store.store.put_bytes(bytes(at, size)).await.unwrap();
        files.push(want(digest, folder.path(), &at.to_string()));
    }
    let report = run(&store, files.clone()).await.unwrap();
    for file in files {
        let data = std::fs::read(&file.target).unwrap();
        assert_eq!(zako_digest::hash::bytes(&data), file.digest);
    }
    // No byte came twice.
    assert_eq!(store.read.load(SeqCst), report.bytes);
}

#[tokio::test]
async fn a_dead_store_is_given_up() {
    for size in [100, 100_000] {
        let folder = tempfile::tempdir().unwrap();
        let store = Flaky::new(0, 0);
        let (digest, _) = store.store.put_bytes(bytes(1, size)).await.unwrap();
        store.dead.store(true, SeqCst);
        let error = run(&store, vec![want(digest, folder.path(), "a")])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(store.calls.load(SeqCst), u64::from(quick().retries) + 1);
    }
}

#[test]
fn a_failure_leaves_no_file_half_written() {
    for size in [100, 1_000_000] {
        for failure in ["absent", "lying", "no folder", "a folder is there"] {
            let folder = tempfile::tempdir().unwrap();
            let target = folder.path().join("file");
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let error = runtime.block_on(async {
                let store = Flaky::new(0, 0);
                let (digest, _) = store.store.put_bytes(bytes(1, size)).await.unwrap();
                let mut file = want(digest, folder.path(), "file");
                std::fs::write(&target, b"before").unwrap();
                match failure {
                    "absent" => assert!(store.delete(&digest).await.unwrap()),
                    "lying" => store.lying.store(true, SeqCst),
                    "no folder" => file.target = folder.path().join("no/file"),
                    _ => {
                        std::fs::remove_file(&target).unwrap();
                        std::fs::create_dir(&target).unwrap();
                    }
                }
                run(&store, vec![file]).await.unwrap_err()
            });
            // Waits for the threads that write.
            drop(runtime);
            let kind = match failure {
                "absent" => ErrorKind::NotFound,
                "lying" => ErrorKind::Corrupt,
                _ => ErrorKind::Io,
            };
            assert_eq!(error.kind(), kind, "{failure}: {error}");
            assert_eq!(entries(folder.path()), 1, "{failure}");
            if failure != "a folder is there" {
                assert_eq!(std::fs::read(&target).unwrap(), b"before", "{failure}");
            }
        }
    }
}
