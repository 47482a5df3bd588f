//! Uploads: what is sent, what is not, what happens on a bad line.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod flaky;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use bytes::Bytes;
use flaky::{Flaky, Sums, bytes, quick, unavailable};
use futures::{StreamExt, stream};
use zako_core::Digest;
use zako_core::cas::{Cas, CasExt, ErrorKind, Result};
use zako_core::transfer::{Source, TransferOptions, Upload, UploadReport, hash_files, upload};
use zako_digest::hash;

const SIZES: [usize; 9] = [
    0, 1, 1000, 65_535, 65_536, 65_537, 300_000, 1_048_577, 3_000_000,
];

fn in_memory(data: &Bytes) -> Upload {
    Upload {
        digest: hash::bytes(data),
        source: Source::Bytes(data.clone()),
    }
}

fn file(folder: &Path, name: &str, data: &[u8]) -> Upload {
    let path = folder.join(name);
    std::fs::write(&path, data).unwrap();
    Upload {
        digest: hash::bytes(data),
        source: Source::File(path),
    }
}

async fn run(
    store: &Arc<Flaky>,
    uploads: Vec<Upload>,
    options: &TransferOptions,
) -> Result<UploadReport> {
    let cas = Arc::clone(store) as Arc<dyn Cas>;
    let sums = Sums::default();
    let report = upload(&cas, stream::iter(uploads).map(Ok), options, &sums).await?;
    sums.check();
    assert_eq!(report.blobs, report.sent_blobs + report.skipped_blobs);
    assert_eq!(report.bytes, report.sent_bytes + report.skipped_bytes);
    Ok(report)
}

#[tokio::test]
async fn files_and_bytes_are_stored_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = Flaky::new(0, 0);
    let present = bytes(99, 70_000);
    store.store.put_bytes(present.clone()).await.unwrap();

    let mut uploads = vec![in_memory(&present)];
    let mut expected = Vec::new();
    for (at, size) in SIZES.into_iter().enumerate() {
        let data = bytes(at as u64, size);
        uploads.push(file(folder.path(), &format!("{at}"), &data));
        uploads.push(in_memory(&data));
        let other = bytes(100 + at as u64, size);
        if size > 0 {
            uploads.push(in_memory(&other));
            expected.push(other);
        }
        expected.push(data);
    }
    let count = uploads.len() as u64;
    let report = run(&store, uploads.clone(), &quick()).await.unwrap();
    assert_eq!(report.blobs, count);
    assert_eq!(report.sent_blobs, expected.len() as u64);
    for data in &expected {
        let digest = hash::bytes(data);
        assert_eq!(store.store.fetch_bytes(&digest).await.unwrap(), data);
    }
    let total: usize = expected.iter().map(Bytes::len).sum();
    assert_eq!(store.written.load(SeqCst), total as u64);

    let report = run(&store, uploads, &quick()).await.unwrap();
    assert_eq!((report.sent_blobs, report.skipped_blobs), (0, count));
    assert_eq!(store.written.load(SeqCst), total as u64);
}

#[tokio::test]
async fn questions_and_small_blobs_travel_in_batches() {
    let store = Flaky::new(0, 0);
    let uploads: Vec<_> = (0..2_000).map(|at| in_memory(&bytes(at, 1_000))).collect();
    let mut options = quick();
    options.negotiate_batch = 500;
    options.batch_bytes = 200_000;
    run(&store, uploads, &options).await.unwrap();
    assert_eq!(store.missing_calls.load(SeqCst), 4);
    assert!(store.largest_batch.load(SeqCst) <= 200_000);
    let batches = store.batches.load(SeqCst);
    assert!((10..=30).contains(&batches), "{batches}");
}

#[tokio::test]
async fn an_upload_begins_before_its_input_ends() {
    let store = Flaky::new(0, 0);
    let cas = Arc::clone(&store) as Arc<dyn Cas>;
    let (first, second) = (bytes(1, 100), bytes(2, 100_000));
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let input = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let task = tokio::spawn(async move { upload(&cas, input, &quick(), &()).await });
    for data in [first, second] {
        sender.send(Ok(in_memory(&data))).await.unwrap();
        let digest = hash::bytes(&data);
        // Hangs unless it is stored while the input is still open.
        while !store.store.contains(&digest).await.unwrap() {
            tokio::task::yield_now().await;
        }
    }
    drop(sender);
    assert_eq!(task.await.unwrap().unwrap().sent_blobs, 2);
}

#[tokio::test]
async fn a_bad_line_is_survived_and_large_blobs_are_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Flaky::new(5, 600_000);
    let uploads: Vec<_> = (0..40)
        .map(|at| {
            let size = if at % 4 == 0 { 2_000_000 } else { 5_000 };
            file(folder.path(), &format!("{at}"), &bytes(at, size))
        })
        .collect();
    let report = run(&store, uploads.clone(), &quick()).await.unwrap();
    assert_eq!(report.sent_blobs, 40);
    for upload in &uploads {
        assert!(store.store.contains(&upload.digest).await.unwrap());
    }
    // Resumed, not begun again: no byte was taken twice.
    assert_eq!(store.written.load(SeqCst), report.sent_bytes);
}

#[tokio::test]
async fn a_dead_store_is_given_up() {
    for size in [100, 100_000] {
        let store = Flaky::new(0, 0);
        store.dead.store(true, SeqCst);
        let mut options = quick();
        options.retries = 3;
        let error = run(&store, vec![in_memory(&bytes(1, size))], &options)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(store.missing_calls.load(SeqCst), 4);
    }
}

#[tokio::test]
async fn a_line_that_moves_nothing_is_given_up() {
    // Every writer breaks before its first byte.
    let store = Flaky::new(0, 1);
    let error = run(&store, vec![in_memory(&bytes(1, 100_000))], &quick())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(store.written.load(SeqCst), 0);
}

#[tokio::test]
async fn a_changed_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for size in [1_000, 2_000_000] {
        for change in ["other", "shorter", "longer", "gone", "folder"] {
            let store = Flaky::new(0, 0);
            let name = format!("{change} {size}");
            let upload = file(folder.path(), &name, &bytes(3, size));
            let path = folder.path().join(&name);
            match change {
                "other" => std::fs::write(&path, bytes(4, size)).unwrap(),
                "shorter" => std::fs::write(&path, bytes(3, size - 1)).unwrap(),
                "longer" => std::fs::write(&path, bytes(3, size + 1)).unwrap(),
                _ => std::fs::remove_file(&path).unwrap(),
            }
            let kind = match change {
                "gone" => ErrorKind::Io,
                "folder" => {
                    std::fs::create_dir(&path).unwrap();
                    ErrorKind::InvalidArgument
                }
                _ => ErrorKind::Mismatch,
            };
            let digest = upload.digest;
            let error = run(&store, vec![upload], &quick()).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{name}: {error}");
            assert_eq!(error.path(), Some(&*path), "{name}: {error}");
            assert!(!store.store.contains(&digest).await.unwrap());
            assert_eq!(store.store.held(&digest).await.unwrap(), 0);
        }
    }
}

#[tokio::test]
async fn an_interrupted_upload_resumes_the_next_time() {
    let store = Flaky::new(0, 0);
    let data = bytes(1, 3_000_000);
    let digest = hash::bytes(&data);
    let mut writer = store.store.writer(&digest, 0).await.unwrap();
    writer.write(data.slice(..1_234_567)).await.unwrap();
    drop(writer);
    let report = run(&store, vec![in_memory(&data)], &quick()).await.unwrap();
    assert_eq!(report.skipped_bytes, 1_234_567);
    assert_eq!((report.sent_blobs, report.skipped_blobs), (1, 0));
    assert_eq!(store.store.fetch_bytes(&digest).await.unwrap(), data);
}

#[tokio::test]
async fn wrong_bytes_held_from_before_are_sent_again() {
    let store = Flaky::new(0, 0);
    let data = bytes(1, 3_000_000);
    let digest = hash::bytes(&data);
    let mut writer = store.store.writer(&digest, 0).await.unwrap();
    writer.write(bytes(2, 1_000_000)).await.unwrap();
    drop(writer);
    let cas = Arc::clone(&store) as Arc<dyn Cas>;
    let input = stream::iter([Ok(in_memory(&data))]);
    upload(&cas, input, &quick(), &()).await.unwrap();
    assert_eq!(store.store.fetch_bytes(&digest).await.unwrap(), data);
}

#[tokio::test]
async fn wrong_bytes_in_memory_and_failing_input_are_errors() {
    let store = Flaky::new(0, 0);
    for size in [10, 100_000] {
        let wrong = Upload {
            digest: hash::bytes(&bytes(1, size)),
            source: Source::Bytes(bytes(2, size)),
        };
        let error = run(&store, vec![wrong], &quick()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
    }
    let cas = Arc::clone(&store) as Arc<dyn Cas>;
    let input = stream::iter([Ok(in_memory(&bytes(1, 10))), Err(unavailable())]);
    let error = upload(&cas, input, &quick(), &()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn files_are_hashed_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for at in 0..300_u64 {
        let path = folder.path().join(at.to_string());
        std::fs::write(&path, bytes(at, if at == 0 { 5_000_000 } else { 100 })).unwrap();
        paths.push(path);
    }
    paths.insert(5, folder.path().join("absent"));
    paths.insert(6, folder.path().to_owned());
    let fifo = folder.path().join("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
    paths.insert(7, fifo);

    let hashed: Vec<_> = hash_files(stream::iter(paths.clone()), 3).collect().await;
    assert_eq!(hashed.len(), paths.len());
    for (at, ((path, outcome), asked)) in hashed.into_iter().zip(paths).enumerate() {
        assert_eq!(path, asked);
        match at {
            5 => assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Io),
            6 | 7 => assert_eq!(outcome.unwrap_err().kind(), ErrorKind::InvalidArgument),
            _ => {
                let expected: Digest = hash::file(&path).unwrap();
                assert_eq!(outcome.unwrap(), expected);
            }
        }
    }
}
