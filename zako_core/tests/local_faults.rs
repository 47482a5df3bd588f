//! The store on a file system that fails: full, broken, damaged.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[allow(dead_code, reason = "other tests use the rest")]
mod sim;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use sim::{Call, EIO, ENOSPC, Fault, SimFs};
use tokio::sync::mpsc;
use zako_core::cas::{Cas, CasExt, ErrorKind, Lease, Maintain, Stored, VerifyScope};
use zako_core::store::{Durability, LocalStore, StoreOptions, VerifyOnRead};
use zako_core::{BlobRange, Digest};

const ROOT: &str = "/store";
const SMALL: usize = 1_000;
const LARGE: usize = 700_000;

fn options(fs: &SimFs) -> StoreOptions {
    let mut options = StoreOptions::default();
    options.max_bytes = Some(64 << 20);
    options.segment_bytes = Some(256 << 10);
    options.large_from = Some(60 << 10);
    options.backend = Arc::new(fs.clone());
    options
}

async fn open(fs: &SimFs) -> LocalStore {
    LocalStore::open(ROOT, options(fs)).await.unwrap()
}

fn content(number: u64, length: usize) -> (Digest, Bytes) {
    let mut data = vec![0; length];
    for (at, byte) in data.iter_mut().enumerate() {
        *byte = (at as u64 * 31 + number * 17 + (at as u64 >> 8)) as u8;
    }
    data[..8].copy_from_slice(&number.to_le_bytes());
    (zako_digest::hash::bytes(&data), data.into())
}

fn fault(call: Call, path: &'static str, errno: i32, times: u64) -> Fault {
    Fault {
        call,
        path,
        after: 0,
        times,
        errno,
    }
}

async fn present(store: &LocalStore, digest: &Digest) -> bool {
    store
        .missing(&[*digest], Lease::None)
        .await
        .unwrap()
        .is_empty()
}

/// After any failure: nothing half there, no space leaked, and the store works.
async fn is_sound(store: LocalStore, fs: &SimFs, stored: &[Digest], refused: &[Digest]) {
    fs.heal();
    for round in 0..2 {
        for digest in stored {
            let data = store.fetch_bytes(digest).await.unwrap();
            assert_eq!(zako_digest::hash::bytes(&data), *digest, "round {round}");
        }
        for digest in refused {
            assert!(
                !present(&store, digest).await,
                "round {round}: {digest} is half there"
            );
        }
        let (digest, data) = content(1_000 + round, SMALL);
        store.put(&digest, data).await.unwrap();
        if round == 1 {
            break;
        }
    }
    store.close().await.unwrap();
    drop(store);
    let store = open(fs).await;
    for digest in stored {
        assert!(store.fetch_bytes(digest).await.is_ok());
    }
    for digest in refused {
        assert!(
            !present(&store, digest).await,
            "{digest} came with the restart"
        );
    }
    let used = store.usage().await.unwrap().disk_bytes;
    let on_disk = fs.bytes_below(Path::new(ROOT));
    let slack = 4096 * (fs.files_below(Path::new(ROOT)).len() as u64 + 1);
    assert!(
        used + 4096 >= on_disk && used <= on_disk + slack,
        "{used} counted, {on_disk} on disk"
    );
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails() {
    for (errno, kind) in [(EIO, ErrorKind::Io), (ENOSPC, ErrorKind::NoSpace)] {
        for length in [SMALL, LARGE] {
            let fs = SimFs::new();
            let store = open(&fs).await;
            let (before, data) = content(1, length);
            store.put(&before, data).await.unwrap();
            // A full disk would be relieved of it otherwise.
            store.missing(&[before], Lease::Default).await.unwrap();
            fs.fail(fault(
                Call::Write,
                if length == SMALL { ".seg" } else { "partial" },
                errno,
                100,
            ));
            let (refused, data) = content(2, length);
            let error = store.put(&refused, data).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(&refused.to_string()), "{error}");
            is_sound(store, &fs, &[before], &[refused]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_relieved_by_eviction() {
    let fs = SimFs::new();
    let store = open(&fs).await;
    let mut all = Vec::new();
    for number in 0..600 {
        let (digest, data) = content(number, SMALL);
        store.put(&digest, data).await.unwrap();
        all.push(digest);
    }
    // One write finds the disk full; the next one may go where eviction has been.
    fs.fail(fault(Call::Write, ".seg", ENOSPC, 1));
    let (digest, data) = content(10_000, SMALL);
    assert_eq!(store.put(&digest, data).await.unwrap(), Stored::New);
    let missing = store.missing(&all, Lease::None).await.unwrap();
    assert!(
        !missing.is_empty() && missing.len() < all.len(),
        "{}",
        missing.len()
    );
    assert!(present(&store, &digest).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn short_writes_are_gone_on_with() {
    let fs = SimFs::new();
    let store = open(&fs).await;
    fs.fail(fault(Call::ShortWrite, "/store", EIO, 1_000_000));
    let mut all = Vec::new();
    for number in 0..50 {
        let (digest, data) = content(number, if number % 10 == 0 { LARGE } else { SMALL });
        store.put(&digest, data).await.unwrap();
        all.push(digest);
    }
    is_sound(store, &fs, &all, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_sync_nothing_is_trusted() {
    for length in [SMALL, LARGE] {
        let fs = SimFs::new();
        let store = open(&fs).await;
        let (before, data) = content(1, length);
        store.put(&before, data).await.unwrap();
        fs.fail(fault(
            Call::Sync,
            if length == SMALL { ".seg" } else { "partial" },
            EIO,
            1,
        ));
        let (refused, data) = content(2, length);
        let error = store.put(&refused, data.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(!present(&store, &refused).await);
        // Stored anew, it lies where a sync has succeeded.
        assert_eq!(store.put(&refused, data).await.unwrap(), Stored::New);
        store.close().await.unwrap();
        drop(store);
        fs.power_off();
        let fs = fs.restart(7);
        let store = open(&fs).await;
        is_sound(store, &fs, &[before, refused], &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_takes_back_what_was_acknowledged_early() {
    let fs = SimFs::new();
    let mut relaxed = options(&fs);
    relaxed.durability = Durability::Interval(std::time::Duration::from_millis(1));
    let store = LocalStore::open(ROOT, relaxed).await.unwrap();
    fs.fail(fault(Call::Sync, ".seg", EIO, 0));
    // The first sync makes the segment; the next one is the interval's.
    fs.fail(Fault {
        after: 1,
        ..fault(Call::Sync, ".seg", EIO, 1)
    });
    let (digest, data) = content(1, SMALL);
    store.put(&digest, data.clone()).await.unwrap();
    while present(&store, &digest).await {
        tokio::task::yield_now().await;
    }
    fs.heal();
    assert_eq!(store.put(&digest, data).await.unwrap(), Stored::New);
    is_sound(store, &fs, &[digest], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_error_is_no_damage() {
    for length in [SMALL, LARGE] {
        let fs = SimFs::new();
        let store = open(&fs).await;
        let (digest, data) = content(1, length);
        store.put(&digest, data).await.unwrap();
        fs.fail(fault(
            Call::Read,
            if length == SMALL { ".seg" } else { "large" },
            EIO,
            u64::MAX,
        ));
        let error = store.fetch_bytes(&digest).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        let (progress, _reports) = mpsc::channel(100);
        let report = store.verify(VerifyScope::All, progress).await.unwrap();
        assert_eq!(report.unreadable, [digest]);
        assert!(report.corrupt.is_empty());
        is_sound(store, &fs, &[digest], &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_bytes_are_put_into_quarantine() {
    for length in [SMALL, LARGE] {
        for by_scrub in [false, true] {
            let fs = SimFs::new();
            let store = open(&fs).await;
            let (digest, data) = content(1, length);
            let (other, more) = content(2, length);
            store.put(&digest, data.clone()).await.unwrap();
            store.put(&other, more).await.unwrap();
            flip(&fs, &data);
            if by_scrub {
                let (progress, _reports) = mpsc::channel(100);
                let report = store.verify(VerifyScope::All, progress).await.unwrap();
                assert_eq!(report.corrupt, [digest]);
                assert_eq!(report.blobs_checked, 2);
            } else {
                let error = store.fetch_bytes(&digest).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            }
            assert!(!present(&store, &digest).await);
            assert_eq!(store.usage().await.unwrap().quarantined_blobs, 1);
            let kept = fs.files_below(&Path::new(ROOT).join("quarantine"));
            assert_eq!(kept.len(), 1);
            assert_eq!(fs.bytes_below(&kept[0]), length as u64);
            is_sound(store, &fs, &[other], &[digest]).await;
            // It can be stored again.
            let store = open(&fs).await;
            assert_eq!(store.put(&digest, data).await.unwrap(), Stored::New);
            is_sound(store, &fs, &[digest, other], &[]).await;
        }
    }
}

/// Flips a bit of these bytes wherever they are on disk.
fn flip(fs: &SimFs, data: &[u8]) {
    let mut flipped = 0;
    for path in fs.files_below(Path::new(ROOT)) {
        fs.edit(&path, |bytes| {
            let at = bytes.windows(64).position(|window| window == &data[..64]);
            if let Some(at) = at {
                bytes[at + 600] ^= 0x10;
                flipped += 1;
            }
        });
    }
    assert_eq!(flipped, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_verify_as_often_as_they_were_told_to() {
    for (verify, finds) in [
        (VerifyOnRead::Never, [false, false]),
        (VerifyOnRead::First, [true, false]),
        (VerifyOnRead::Always, [true, true]),
    ] {
        for (already_read, finds) in [(false, finds[0]), (true, finds[1])] {
            let fs = SimFs::new();
            let mut options = options(&fs);
            options.verify_on_read = verify;
            let store = LocalStore::open(ROOT, options).await.unwrap();
            for (number, length) in [(1, SMALL), (2, LARGE)] {
                let (digest, data) = content(number, length);
                store.put(&digest, data.clone()).await.unwrap();
                if already_read {
                    store.fetch_bytes(&digest).await.unwrap();
                }
                flip(&fs, &data);
                let found = store.fetch_bytes(&digest).await.is_err();
                assert_eq!(found, finds, "{verify:?}, read before: {already_read}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_anywhere_lose_only_what_they_hit() {
    for at in (0..20_000).step_by(331) {
        let fs = SimFs::new();
        let store = open(&fs).await;
        let mut all = Vec::new();
        for number in 0..20 {
            let (digest, data) = content(number, 900);
            store.put(&digest, data).await.unwrap();
            all.push(digest);
        }
        store.close().await.unwrap();
        drop(store);
        let segment = fs.files_below(&Path::new(ROOT).join("segments"));
        fs.edit(&segment[0], |bytes| {
            let at = 64 + at % (bytes.len() - 64);
            bytes[at] ^= 1;
        });
        let store = open(&fs).await;
        let mut lost = 0;
        for digest in &all {
            match store.fetch_bytes(digest).await {
                Ok(data) => assert_eq!(zako_digest::hash::bytes(&data), *digest),
                Err(error) => {
                    let kind = error.kind();
                    assert!(
                        matches!(kind, ErrorKind::Corrupt | ErrorKind::NotFound),
                        "{error}"
                    );
                    lost += 1;
                }
            }
        }
        assert!(lost <= 1, "a bit at {at} lost {lost} blobs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_file_is_damage() {
    let fs = SimFs::new();
    let store = open(&fs).await;
    let (digest, data) = content(1, LARGE);
    store.put(&digest, data).await.unwrap();
    let file = fs.files_below(&Path::new(ROOT).join("large"));
    fs.edit(&file[0], |bytes| bytes.truncate(LARGE / 2));
    let error = store
        .fetch(&digest, BlobRange::from_start(LARGE as u64 - 10))
        .await
        .unwrap();
    assert_eq!(error.bytes().await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(!present(&store, &digest).await);
    is_sound(store, &fs, &[], &[digest]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_upload_whose_first_part_was_damaged_starts_over() {
    let fs = SimFs::new();
    let store = open(&fs).await;
    let (digest, data) = content(1, LARGE);
    let mut writer = store.writer(&digest, 0).await.unwrap();
    writer.write(data.slice(..600_000)).await.unwrap();
    assert_eq!(writer.park().await.unwrap(), 600_000);
    store.close().await.unwrap();
    drop(store);
    flip(&fs, &data);
    let store = open(&fs).await;
    assert_eq!(store.held(&digest).await.unwrap(), 600_000);
    let mut writer = store.writer(&digest, 600_000).await.unwrap();
    writer.write(data.slice(600_000..)).await.unwrap();
    let error = writer.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale);
    assert!(error.is_transient());
    assert_eq!(store.held(&digest).await.unwrap(), 0);
    is_sound(store, &fs, &[], &[digest]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_write_keeps_what_was_written_before_it() {
    let fs = SimFs::new();
    let store = open(&fs).await;
    let (digest, data) = content(1, 4 << 20);
    let mut writer = store.writer(&digest, 0).await.unwrap();
    writer.write(data.slice(..1 << 20)).await.unwrap();
    assert_eq!(writer.park().await.unwrap(), 1 << 20);
    let mut writer = store.writer(&digest, 1 << 20).await.unwrap();
    fs.fail(fault(Call::Write, "partial", ENOSPC, 1_000));
    let mut failure = None;
    for at in 1..4 {
        if let Err(error) = writer.write(data.slice(at << 20..(at + 1) << 20)).await {
            failure = Some(error);
            break;
        }
    }
    assert_eq!(
        failure.expect("the disk is full").kind(),
        ErrorKind::NoSpace
    );
    assert_eq!(writer.park().await.unwrap(), 1 << 20);
    fs.heal();
    let mut writer = store.writer(&digest, 1 << 20).await.unwrap();
    writer.write(data.slice(1 << 20..)).await.unwrap();
    assert_eq!(writer.commit().await.unwrap(), Stored::New);
    is_sound(store, &fs, &[digest], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_removed_by_somebody_else_is_reported_once() {
    let fs = SimFs::new();
    let store = open(&fs).await;
    let (digest, data) = content(1, LARGE);
    store.put(&digest, data.clone()).await.unwrap();
    use zako_core::store::local::io::Backend;
    fs.remove(&fs.files_below(&Path::new(ROOT).join("large"))[0])
        .unwrap();
    let error = store.fetch_bytes(&digest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(!present(&store, &digest).await);
    assert_eq!(store.put(&digest, data).await.unwrap(), Stored::New);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_killed_on_a_full_disk_opens_again() {
    let fs = SimFs::new();
    let store = open(&fs).await;
    let (digest, data) = content(1, SMALL);
    store.put(&digest, data).await.unwrap();
    let after = fs.after_kill();
    fs.power_off();
    let _ = store.close().await;
    // No room for a footer.
    after.fail(fault(Call::Write, ".seg", ENOSPC, 1));
    let store = open(&after).await;
    assert!(store.fetch_bytes(&digest).await.is_ok());
    is_sound(store, &after, &[digest], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_could_not_be_removed_is_removed_later() {
    let fs = SimFs::new();
    let store = open(&fs).await;
    let mut all = Vec::new();
    for number in 0..1_000 {
        let (digest, data) = content(number, SMALL);
        store.put(&digest, data).await.unwrap();
        all.push(digest);
    }
    for digest in &all[1..] {
        assert!(store.delete(digest).await.unwrap());
    }
    // The name is gone, but the folder can't be synced.
    fs.fail(Fault {
        after: 1,
        ..fault(Call::Sync, "/store/segments", EIO, 2)
    });
    let _ = store.collect_garbage().await;
    fs.heal();
    store.collect_garbage().await.unwrap();
    let left = fs.bytes_below(&Path::new(ROOT).join("segments"));
    assert!(left < 200_000, "{left} bytes are left of a kilobyte");
    is_sound(store, &fs, &all[..1], &all[1..]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_whose_name_could_not_be_synced() {
    let fs = SimFs::new();
    let store = open(&fs).await;
    let (digest, data) = content(1, LARGE);
    let mut writer = store.writer(&digest, 0).await.unwrap();
    writer.write(data.clone()).await.unwrap();
    fs.fail(fault(Call::Sync, "/store/large", EIO, 1));
    assert_eq!(writer.commit().await.unwrap_err().kind(), ErrorKind::Io);
    assert!(!present(&store, &digest).await);
    // What was uploaded is still held, under the name that it had before.
    assert_eq!(store.held(&digest).await.unwrap(), LARGE as u64);
    let writer = store.writer(&digest, LARGE as u64).await.unwrap();
    assert_eq!(writer.commit().await.unwrap(), Stored::New);
    is_sound(store, &fs, &[digest], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_fit_evicts_nothing() {
    let fs = SimFs::new();
    let store = open(&fs).await;
    let (kept, data) = content(1, SMALL);
    store.put(&kept, data).await.unwrap();
    let cap = store.max_bytes();
    for size in [cap - 1_000, cap, cap * 2] {
        let huge = Digest::new(*kept.hash(), size);
        let refused = store.writer(&huge, 0).await.map(|_| ()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NoSpace);
        assert_eq!(refused.retry_after(), None);
    }
    assert!(present(&store, &kept).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_uploads_at_once_share_what_eviction_frees() {
    let fs = SimFs::new();
    let mut small = options(&fs);
    small.max_bytes = Some(16 << 20);
    let store = LocalStore::open(ROOT, small).await.unwrap();
    for round in 0..4 {
        let uploads = (0..12).map(|number| {
            let (digest, data) = content(round * 100 + number, LARGE);
            let store = &store;
            async move { store.put(&digest, data).await }
        });
        for stored in futures::future::join_all(uploads).await {
            stored.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_interval_is_kept_under_steady_load() {
    let fs = SimFs::new();
    let mut relaxed = options(&fs);
    relaxed.durability = Durability::Interval(std::time::Duration::from_millis(5));
    let store = LocalStore::open(ROOT, relaxed).await.unwrap();
    let (first, data) = content(0, SMALL);
    store.put(&first, data).await.unwrap();
    let load = {
        let store = store.clone();
        tokio::spawn(async move {
            for number in 1.. {
                let (digest, data) = content(number, SMALL);
                if store.put(&digest, data).await.is_err() {
                    break;
                }
            }
        })
    };
    // However long it takes: with no bound it would never be.
    loop {
        let after = fs.restart(1);
        let found = open(&after).await;
        let durable = present(&found, &first).await;
        found.close().await.unwrap();
        if durable {
            break;
        }
        tokio::task::yield_now().await;
    }
    fs.power_off();
    load.await.unwrap();
    let _ = store.close().await;
}
