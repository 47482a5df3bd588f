//! The room of the local store on a real disk: caps, leases, eviction, full file systems.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[allow(dead_code, reason = "other tests use the rest")]
mod local_support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use local_support::{TestClock, absent, content, disk_usage, fill, open, options};
use tempfile::TempDir;
use zako_core::BlobRange;
use zako_core::cas::{Cas, CasExt, ErrorKind, Lease, Maintain, Stored};

#[tokio::test(flavor = "multi_thread")]
async fn the_cap_holds_on_disk() {
    let folder = TempDir::new().unwrap();
    let cap = 8 << 20;
    let store = open(folder.path(), options(cap)).await;
    for round in 0..60 {
        fill(&store, round * 1_000..round * 1_000 + 200, 2_000).await;
        fill(&store, round * 1_000 + 500..round * 1_000 + 502, 300_000).await;
        let used = disk_usage(folder.path());
        assert!(used <= cap, "{used} bytes on disk in round {round}");
    }
    let usage = store.usage().await.unwrap();
    assert!(usage.disk_bytes <= cap);
    assert!(
        usage.blob_bytes > cap / 2,
        "only {} bytes are kept",
        usage.blob_bytes
    );
    store.close().await.unwrap();
    // A restart counts the same.
    let counted = store.usage().await.unwrap().disk_bytes;
    drop(store);
    let store = open(folder.path(), options(cap)).await;
    let recounted = store.usage().await.unwrap().disk_bytes;
    assert!(
        counted.abs_diff(recounted) < 128 << 10,
        "{counted} and {recounted}"
    );
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn leased_blobs_outlive_any_pressure() {
    let folder = TempDir::new().unwrap();
    let clock = Arc::new(TestClock::default());
    let mut options = options(8 << 20);
    options.clock = clock.clone();
    let store = open(folder.path(), options).await;
    let mut leased = fill(&store, 0..300, 2_000).await;
    leased.extend(fill(&store, 1_000..1_003, 300_000).await);
    let lease = Lease::For(Duration::from_secs(600));
    assert!(store.missing(&leased, lease).await.unwrap().is_empty());
    assert!(store.stat(&leased[0]).await.unwrap().leased_for >= Duration::from_secs(540));
    for round in 2..30 {
        fill(&store, round * 1_000..round * 1_000 + 500, 2_000).await;
        fill(&store, round * 1_000 + 500..round * 1_000 + 502, 300_000).await;
        assert_eq!(absent(&store, &leased).await, 0, "round {round}");
    }
    for digest in &leased {
        store.fetch_bytes(digest).await.unwrap();
    }
    assert!(store.usage().await.unwrap().leased_bytes >= 1_500_000);
    clock.pass(3_600);
    assert_eq!(store.usage().await.unwrap().leased_bytes, 0);
    for round in 30..90 {
        fill(&store, round * 1_000..round * 1_000 + 500, 2_000).await;
        fill(&store, round * 1_000 + 500..round * 1_000 + 502, 300_000).await;
    }
    assert!(
        absent(&store, &leased).await > 250,
        "ended leases keep nothing"
    );
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_full_of_leases_refuses_rather_than_breaks_a_promise() {
    let folder = TempDir::new().unwrap();
    let clock = Arc::new(TestClock::default());
    let mut options = options(4 << 20);
    options.clock = clock.clone();
    let store = open(folder.path(), options).await;
    let mut promised = Vec::new();
    let mut refusal = None;
    for number in 0..5_000 {
        let (digest, data) = content(number, 2_000);
        match store.put(&digest, data).await {
            Ok(_) => {
                store.missing(&[digest], Lease::Default).await.unwrap();
                promised.push(digest);
            }
            Err(error) => {
                refusal = Some(error);
                break;
            }
        }
    }
    let refusal = refusal.expect("the store has to fill up");
    assert_eq!(refusal.kind(), ErrorKind::NoSpace);
    assert!(refusal.retry_after().is_some(), "{refusal}");
    assert_eq!(absent(&store, &promised).await, 0);
    let (digest, data) = content(100_000, 400_000);
    let refused = match store.writer(&digest, 0).await {
        Ok(mut writer) => match writer.write(data).await {
            Ok(()) => writer.commit().await.map(|_| ()),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::NoSpace);
    assert!(
        store.delete(&promised[0]).await.unwrap(),
        "a full store can be emptied"
    );
    clock.pass(7_200);
    fill(&store, 200_000..200_010, 2_000).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn room_that_uploads_under_way_take_is_worth_waiting_for() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path(), options(8 << 20)).await;
    let (mut writers, mut refusal) = (Vec::new(), None);
    for number in 0..100 {
        let (digest, data) = content(number, 1 << 20);
        let refused = match store.writer(&digest, 0).await {
            Ok(mut writer) => {
                let written = writer.write(data).await;
                writers.push(writer);
                written.err()
            }
            Err(error) => Some(error),
        };
        if refused.is_some() {
            refusal = refused;
            break;
        }
    }
    let refusal = refusal.expect("the store has to fill up");
    assert_eq!(refusal.kind(), ErrorKind::NoSpace);
    assert!(refusal.retry_after().is_some(), "{refusal}");
    // The first one is done, and what nobody needs makes room.
    writers.truncate(1);
    let writer = writers.pop().unwrap();
    writer.commit().await.unwrap();
    let (digest, data) = content(1_000, 1 << 20);
    store.put(&digest, data).await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_does_not_fall_into_short_segments() {
    let folder = TempDir::new().unwrap();
    let clock = Arc::new(TestClock::default());
    let mut options = options(4 << 20);
    options.clock = clock.clone();
    let store = open(folder.path(), options).await;
    let mut kept = Vec::new();
    // Leased files, and room for small blobs only.
    for number in 0.. {
        let (digest, data) = content(number, 400_000);
        if store.put(&digest, data).await.is_err() {
            break;
        }
        store.missing(&[digest], Lease::Default).await.unwrap();
        kept.push(digest);
    }
    let segments = || {
        std::fs::read_dir(folder.path().join("segments"))
            .unwrap()
            .count()
    };
    for number in 1_000..1_040 {
        let (digest, data) = content(number, 2_000);
        store.put(&digest, data).await.unwrap();
        store.missing(&[digest], Lease::Default).await.unwrap();
        kept.push(digest);
        // Each refusal seals what was written to.
        clock.pass(1);
        let (digest, data) = content(number, 400_000);
        store.put(&digest, data).await.unwrap_err();
    }
    assert!(segments() > 20, "{} segments", segments());
    store.collect_garbage().await.unwrap();
    assert!(segments() < 10, "{} segments", segments());
    assert_eq!(absent(&store, &kept).await, 0);
    for digest in &kept {
        store.fetch_bytes(digest).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_used_stays_longer() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path(), options(8 << 20)).await;
    let popular = fill(&store, 0..200, 2_000).await;
    for round in 1..40 {
        fill(&store, round * 1_000..round * 1_000 + 300, 2_000).await;
        for digest in &popular {
            if let Ok(blob) = store.fetch(digest, BlobRange::FULL).await {
                blob.bytes().await.unwrap();
            }
        }
    }
    let lost = absent(&store, &popular).await;
    assert_eq!(lost, 0, "{lost} of 200 popular blobs were evicted");
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn open_blobs_survive_eviction_and_deletion() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path(), options(8 << 20)).await;
    let (digest, data) = content(1, 1_500_000);
    store.put(&digest, data.clone()).await.unwrap();
    let mut by_eviction = store.fetch(&digest, BlobRange::FULL).await.unwrap();
    let first = by_eviction.next().await.unwrap().unwrap();
    let by_deletion = store.fetch(&digest, BlobRange::FULL).await.unwrap();
    assert!(store.delete(&digest).await.unwrap());
    for round in 2..20 {
        fill(&store, round * 1_000..round * 1_000 + 500, 2_000).await;
    }
    let mut read = first.to_vec();
    while let Some(step) = by_eviction.next().await {
        read.extend_from_slice(&step.unwrap());
    }
    assert_eq!(read, data);
    assert_eq!(by_deletion.bytes().await.unwrap(), data);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn eviction_races_with_upload_and_download_of_one_digest() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path(), options(4 << 20)).await;
    let blobs: Vec<_> = vec![content(1, 5_000), content(2, 200_000)];
    let mut tasks = Vec::new();
    for task in 0..6u64 {
        let (store, blobs) = (store.clone(), blobs.clone());
        tasks.push(tokio::spawn(async move {
            for step in 0..150u64 {
                let (digest, data) = &blobs[(step % 2) as usize];
                match task {
                    0 | 1 => {
                        store.put(digest, data.clone()).await.unwrap();
                    }
                    2 => {
                        fill(&store, step * 100 + 10..step * 100 + 40, 4_000).await;
                    }
                    3 => {
                        store.delete(digest).await.unwrap();
                    }
                    _ => match store.fetch_bytes(digest).await {
                        Ok(read) => assert_eq!(read, data),
                        Err(error) => assert!(error.is_not_found(), "{error}"),
                    },
                }
                if task == 5 {
                    let present = store.missing(&[*digest], Lease::None).await.unwrap();
                    assert!(present.len() <= 1);
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    for (digest, data) in &blobs {
        store.put(digest, data.clone()).await.unwrap();
        assert_eq!(store.fetch_bytes(digest).await.unwrap(), data);
    }
    let used = store.usage().await.unwrap().disk_bytes;
    store.close().await.unwrap();
    let on_disk = disk_usage(folder.path());
    assert!(
        used.abs_diff(on_disk) < 300_000,
        "{used} counted, {on_disk} on disk"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_given_back() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path(), options(64 << 20)).await;
    let all = fill(&store, 0..4_000, 4_000).await;
    let before = disk_usage(folder.path());
    for digest in all.iter().skip(100) {
        store.delete(digest).await.unwrap();
    }
    let reclaimable = store.usage().await.unwrap().reclaimable_bytes;
    assert!(reclaimable > 14_000_000, "{reclaimable}");
    let report = store.collect_garbage().await.unwrap();
    assert!(
        report.segments_freed > 0 && report.bytes_freed > 14_000_000,
        "{report:?}"
    );
    let after = disk_usage(folder.path());
    assert!(after < before / 8, "{before} before, {after} after");
    for digest in &all[..100] {
        store.fetch_bytes(digest).await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    let store = open(folder.path(), options(64 << 20)).await;
    assert_eq!(absent(&store, &all).await, all.len() - 100);
    store.close().await.unwrap();
}

/// The part of the next test that runs where a small file system is mounted.
#[tokio::test(flavor = "multi_thread")]
async fn inside_a_small_file_system() {
    let Some(folder) = std::env::var_os("ZAKO_TEST_SMALL_FS") else {
        return;
    };
    let folder = Path::new(&folder).join("store");
    // The cap is far more than there is: the file system itself says stop.
    let store = open(&folder, options(1 << 30)).await;
    let mut stored = Vec::new();
    let mut refused = 0;
    for number in 0..60 {
        // Leased, so that eviction can't relieve the file system.
        let length = if number % 3 == 0 { 1_200_000 } else { 100_000 };
        let (digest, data) = content(number, length);
        match store.put(&digest, data).await {
            Ok(_) => {
                store.missing(&[digest], Lease::Default).await.unwrap();
                stored.push(digest);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                assert_eq!(absent(&store, &[digest]).await, 1);
                refused += 1;
            }
        }
    }
    assert!(refused > 30 && stored.len() > 5, "{refused} refused");
    for digest in &stored {
        store.fetch_bytes(digest).await.unwrap();
    }
    // Once something is deleted there is room again.
    let large = *stored
        .iter()
        .find(|digest| digest.size() > 1 << 20)
        .unwrap();
    assert!(store.delete(&large).await.unwrap());
    let (digest, data) = content(777, 100_000);
    assert_eq!(store.put(&digest, data).await.unwrap(), Stored::New);
    store.close().await.unwrap();
    drop(store);
    let store = open(&folder, options(1 << 30)).await;
    for digest in stored.iter().filter(|digest| **digest != large) {
        store.fetch_bytes(digest).await.unwrap();
    }
    store.close().await.unwrap();
    std::fs::write(Path::new(&folder).join("../done"), "").ok();
    println!("ZAKO-SMALL-FS-DONE");
}

#[test]
fn a_file_system_of_8_mib_filled_to_the_brim() {
    let folder = TempDir::new().unwrap();
    let test = std::env::current_exe().unwrap();
    let script = "mount -t tmpfs -o size=8m tmpfs \"$ZAKO_TEST_SMALL_FS\" && \
                  exec \"$0\" --exact inside_a_small_file_system --nocapture";
    let run = |namespaces: &[&str]| {
        Command::new("unshare")
            .args(namespaces)
            .args(["sh", "-c", script])
            .arg(&test)
            .env("ZAKO_TEST_SMALL_FS", folder.path())
            .output()
    };
    let may_mount = |namespaces: &[&str]| {
        let tried = Command::new("unshare")
            .args(namespaces)
            .args(["mount", "-t", "tmpfs", "tmpfs"])
            .arg(folder.path())
            .output();
        tried.is_ok_and(|tried| tried.status.success())
    };
    let ways: [&[&str]; 2] = [&["--mount"], &["--mount", "--user", "--map-root-user"]];
    let Some(way) = ways.into_iter().find(|way| may_mount(way)) else {
        println!("SKIPPED: nobody may mount a file system here");
        return;
    };
    let output = run(way).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains("ZAKO-SMALL-FS-DONE"), "{text}\n{errors}");
}
