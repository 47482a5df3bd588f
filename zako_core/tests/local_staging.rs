//! Staged uploads on a real disk and on one that fails: restarts, room, what is left.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[allow(dead_code, reason = "other tests use the rest")]
mod sim;
mod witness;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sim::{Call, EIO, ENOSPC, Fault, SimFs};
use witness::{counting, wants};
use zako_core::Digest;
use zako_core::cas::{
    Cas, CasExt, ErrorKind, Lease, Location, Maintain, NoWitness, Result, StagedSize, StagedWriter,
    Staging, Stored, UploadKey, Witness,
};
use zako_core::store::{Clock, LocalStore, StoreOptions};

const LARGE: usize = 3_000_007;
const SMALL: usize = 20_000;

fn options() -> StoreOptions {
    let mut options = StoreOptions::default();
    options.max_bytes = Some(64 << 20);
    options.segment_bytes = Some(1 << 20);
    options.large_from = Some(64 << 10);
    options
}

/// Opens a store whose last user may still be finishing what it had begun.
async fn open(folder: &Path, options: StoreOptions) -> LocalStore {
    loop {
        match LocalStore::open(folder, options.clone()).await {
            Err(error) if error.kind() == ErrorKind::Locked => tokio::task::yield_now().await,
            outcome => return outcome.unwrap(),
        }
    }
}

fn content(number: u64, length: usize) -> (Digest, Bytes) {
    let data: Bytes = (0..length as u64)
        .map(|at| (at * 31 + number * 17 + (at >> 8)) as u8)
        .collect();
    (zako_digest::hash::bytes(&data), data)
}

fn key(number: u64) -> UploadKey {
    UploadKey::of_name(&number.to_le_bytes())
}

fn exactly(length: usize) -> StagedSize {
    StagedSize::Exactly(length as u64)
}

async fn stage(
    store: &LocalStore,
    number: u64,
    size: StagedSize,
    offset: u64,
    witness: Box<dyn Witness>,
) -> Result<Box<dyn StagedWriter>> {
    store.stage(&key(number), size, offset, witness).await
}

async fn write(writer: &mut Box<dyn StagedWriter>, data: Bytes) -> Result<()> {
    for step in data.chunks(100_000) {
        writer.write(data.slice_ref(step)).await?;
    }
    Ok(())
}

/// Goes on with the first upload to its end.
async fn finish(store: &LocalStore, data: &Bytes, held: u64) {
    let digest = zako_digest::hash::bytes(data);
    let staged = stage(store, 1, exactly(data.len()), held, wants(digest));
    let mut writer = staged.await.unwrap();
    let rest = data.slice(held as usize..);
    write(&mut writer, rest).await.unwrap();
    assert_eq!(writer.commit().await.unwrap(), (digest, Stored::New));
}

fn partials(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("partial")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staged_upload_outlives_the_process_and_is_shown_again() {
    let folder = tempfile::tempdir().unwrap();
    let (digest, data) = content(1, LARGE);
    for sized in [exactly(LARGE), StagedSize::AtMost(u64::MAX)] {
        let store = open(folder.path(), options()).await;
        let mut writer = stage(&store, 1, sized, 0, wants(digest)).await.unwrap();
        write(&mut writer, data.slice(..2_000_000)).await.unwrap();
        drop(writer);
        drop(store);

        let store = open(folder.path(), options()).await;
        let held = store.staged(&key(1)).await.unwrap();
        assert!(held > 0 && held <= 2_000_000, "{held}");
        assert_eq!(store.staged(&key(2)).await.unwrap(), 0);
        let seen = Arc::default();
        let witness = counting(digest, &seen);
        let mut writer = stage(&store, 1, sized, held, witness).await.unwrap();
        let rest = data.slice(held as usize..);
        write(&mut writer, rest).await.unwrap();
        assert_eq!(writer.commit().await.unwrap(), (digest, Stored::New));
        assert_eq!(seen.load(Ordering::Relaxed), LARGE as u64);
        assert_eq!(store.stat(&digest).await.unwrap().location, Location::File);
        assert!(store.fetch_bytes(&digest).await.unwrap() == data);
        assert!(partials(folder.path()).is_empty());
        assert!(store.delete(&digest).await.unwrap());
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_damaged_meanwhile_is_found_by_the_witness() {
    let folder = tempfile::tempdir().unwrap();
    let (digest, data) = content(1, LARGE);
    let store = open(folder.path(), options()).await;
    let mut writer = stage(&store, 1, exactly(LARGE), 0, wants(digest))
        .await
        .unwrap();
    write(&mut writer, data.slice(..1 << 20)).await.unwrap();
    assert_eq!(writer.park().await.unwrap(), 1 << 20);
    store.close().await.unwrap();
    drop(store);
    let [partial] = &partials(folder.path())[..] else {
        panic!("one upload is parked")
    };
    let mut bytes = std::fs::read(partial).unwrap();
    bytes[77_777] ^= 1;
    std::fs::write(partial, bytes).unwrap();

    let store = open(folder.path(), options()).await;
    let mut writer = stage(&store, 1, exactly(LARGE), 1 << 20, wants(digest))
        .await
        .unwrap();
    write(&mut writer, data.slice(1 << 20..)).await.unwrap();
    let error = writer.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale, "{error}");
    assert_eq!(store.staged(&key(1)).await.unwrap(), 0);
    let usage = store.usage().await.unwrap();
    assert_eq!((usage.blobs, usage.partial_bytes), (0, 0));
    assert!(partials(folder.path()).is_empty());
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_ahead_of_an_upload_that_ends_early_is_given_back() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), options()).await;
    let (digest, data) = content(1, LARGE);
    let bound = StagedSize::AtMost(u64::MAX);
    let mut writer = stage(&store, 1, bound, 0, wants(digest)).await.unwrap();
    write(&mut writer, data).await.unwrap();
    assert_eq!(writer.commit().await.unwrap(), (digest, Stored::New));
    let name = digest.file_name();
    let blob = folder.path().join("large").join(&name[..2]).join(&name);
    let metadata = std::fs::metadata(blob).unwrap();
    let spare = (metadata.blocks() * 512).saturating_sub(metadata.len());
    assert!(spare < 1 << 20, "{spare} bytes lie behind the end");
    let usage = store.usage().await.unwrap();
    assert!(usage.disk_bytes < LARGE as u64 + (64 << 10), "{usage:?}");
}

/// A clock that the test moves.
#[derive(Debug, Default)]
struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now() + self.monotonic()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn staged_uploads_expire_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::default());
    let mut options = options();
    options.clock = Arc::clone(&clock) as _;
    options.partial_ttl = Duration::from_secs(3_600);
    for restart in [false, true] {
        // Of a file that is found, the age is the file system's.
        clock.0.store(0, Ordering::Relaxed);
        let mut store = open(folder.path(), options.clone()).await;
        let (_, data) = content(1, 1 << 20);
        let mut writer = stage(&store, 1, exactly(LARGE), 0, Box::new(NoWitness))
            .await
            .unwrap();
        write(&mut writer, data).await.unwrap();
        assert_eq!(writer.park().await.unwrap(), 1 << 20);
        if restart {
            store.close().await.unwrap();
            drop(store);
            store = open(folder.path(), options.clone()).await;
        }
        clock.0.fetch_add(3_000, Ordering::Relaxed);
        assert_eq!(store.collect_garbage().await.unwrap().partials_expired, 0);
        clock.0.fetch_add(700, Ordering::Relaxed);
        let report = store.collect_garbage().await.unwrap();
        assert_eq!((report.partials_expired, report.bytes_freed), (1, 1 << 20));
        assert_eq!(store.staged(&key(1)).await.unwrap(), 0);
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_ends_small_becomes_a_record() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), options()).await;
    let bound = StagedSize::AtMost(LARGE as u64);
    let (digest, data) = content(1, SMALL);
    let mut writer = stage(&store, 1, bound, 0, wants(digest)).await.unwrap();
    writer.write(data.clone()).await.unwrap();
    assert_eq!(writer.commit().await.unwrap(), (digest, Stored::New));
    let location = store.stat(&digest).await.unwrap().location;
    assert_eq!(location, Location::Segment);

    // From a file, of which less is taken than there is.
    let (_, long) = content(2, LARGE);
    let mut writer = stage(&store, 2, bound, 0, Box::new(NoWitness))
        .await
        .unwrap();
    write(&mut writer, long.clone()).await.unwrap();
    assert_eq!(writer.park().await.unwrap(), LARGE as u64);
    let data = long.slice(..SMALL);
    let digest = zako_digest::hash::bytes(&data);
    let writer = stage(&store, 2, bound, SMALL as u64, wants(digest));
    let stored = writer.await.unwrap().commit().await.unwrap();
    assert_eq!(stored, (digest, Stored::New));
    assert_eq!(store.stat(&digest).await.unwrap().location, location);
    assert!(store.fetch_bytes(&digest).await.unwrap() == data);
    assert!(partials(folder.path()).is_empty());
    assert_eq!(store.usage().await.unwrap().partial_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_exists_or_is_refused_or_too_long_frees_its_space() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), options()).await;
    for length in [SMALL, LARGE] {
        let (digest, data) = content(1, length);
        store.put(&digest, data.clone()).await.unwrap();
        let before = store.usage().await.unwrap().disk_bytes;
        let bound = StagedSize::AtMost(u64::MAX);
        let mut writer = stage(&store, 1, bound, 0, wants(digest)).await.unwrap();
        write(&mut writer, data.clone()).await.unwrap();
        assert_eq!(writer.commit().await.unwrap(), (digest, Stored::Existing));
        assert_eq!(store.usage().await.unwrap().disk_bytes, before);

        let (other, wrong) = content(2, length);
        let mut writer = stage(&store, 1, bound, 0, wants(digest)).await.unwrap();
        write(&mut writer, wrong).await.unwrap();
        let error = writer.commit().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert_eq!(error.digest(), Some(digest), "the witness's own error");
        assert!(!store.contains(&other).await.unwrap());
        assert_eq!(store.usage().await.unwrap().disk_bytes, before);
    }
    // All that can go is evicted, but not more is taken than there is.
    let bound = StagedSize::AtMost(u64::MAX);
    let witness = Box::new(NoWitness);
    let mut writer = stage(&store, 3, bound, 0, witness).await.unwrap();
    let step = Bytes::from(vec![1; 1 << 20]);
    let error = loop {
        if let Err(error) = writer.write(step.clone()).await {
            break error;
        }
        assert!(store.usage().await.unwrap().disk_bytes <= 64 << 20);
    };
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(writer.write(step).await.is_err());
    writer.discard().await.unwrap();
    assert_eq!(store.usage().await.unwrap().partial_bytes, 0);
    assert!(partials(folder.path()).is_empty());
    let too_large = stage(&store, 3, exactly(65 << 20), 0, Box::new(NoWitness));
    let error = too_large.await.err().expect("it can never fit");
    assert_eq!(error.kind(), ErrorKind::NoSpace);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stored_upload_leaves_behind_elsewhere_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), options()).await;
    let (digest, data) = content(1, LARGE);
    let mut writers = Vec::new();
    for _ in 0..3 {
        let staged = stage(&store, 1, exactly(LARGE), 0, wants(digest));
        let mut writer = staged.await.unwrap();
        write(&mut writer, data.slice(..2 << 20)).await.unwrap();
        writers.push(writer);
    }
    writers.pop().unwrap().park().await.unwrap();
    let mut first = writers.pop().unwrap();
    write(&mut first, data.slice(2 << 20..)).await.unwrap();
    assert_eq!(first.commit().await.unwrap(), (digest, Stored::New));
    writers.pop().unwrap().park().await.unwrap();
    assert_eq!(store.staged(&key(1)).await.unwrap(), 0);
    assert!(partials(folder.path()).is_empty());
    // A later one of this key is kept.
    let staged = stage(&store, 1, exactly(LARGE), 0, wants(digest));
    let mut writer = staged.await.unwrap();
    write(&mut writer, data.slice(..2 << 20)).await.unwrap();
    assert_eq!(writer.park().await.unwrap(), 2 << 20);
    assert_eq!(store.staged(&key(1)).await.unwrap(), 2 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staged_file_that_is_a_blob_s_own_is_not_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), options()).await;
    let (digest, data) = content(1, LARGE);
    store.put(&digest, data.clone()).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    // As a loss of power may leave it between the two names.
    let name = digest.file_name();
    let blob = folder.path().join("large").join(&name[..2]).join(&name);
    let staged = folder
        .path()
        .join("partial")
        .join(format!("staged-{}.0", key(1)));
    for offset in [1_000_000, LARGE as u64] {
        std::fs::hard_link(&blob, &staged).unwrap();
        let store = open(folder.path(), options()).await;
        assert_eq!(store.staged(&key(1)).await.unwrap(), LARGE as u64);
        let bound = StagedSize::AtMost(u64::MAX);
        let again = stage(&store, 1, bound, offset, Box::new(NoWitness));
        let error = again.await.err().expect("it is the blob's");
        assert_eq!((error.kind(), error.held()), (ErrorKind::NotHeld, Some(0)));
        assert_eq!(store.staged(&key(1)).await.unwrap(), 0);
        assert!(partials(folder.path()).is_empty());
        assert!(store.fetch_bytes(&digest).await.unwrap() == data);
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_none_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path(), options()).await.close().await.unwrap();
    let (hex, short) = ("a".repeat(64), "a".repeat(63));
    let litter = [
        format!("staged-{hex}"),
        format!("staged-{short}.0"),
        format!("staged-{hex}-7.0"),
        format!("staged-{hex}.x"),
        format!("{hex}.0"),
    ];
    for name in &litter {
        std::fs::write(folder.path().join("partial").join(name), "litter").unwrap();
    }
    let store = open(folder.path(), options()).await;
    assert!(partials(folder.path()).is_empty());
    assert_eq!(store.usage().await.unwrap().partial_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn unnamed_blobs_are_records_and_files() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), options()).await;
    let blobs: Vec<_> = (0..40)
        .map(|at| content(at, if at % 9 == 4 { LARGE / 4 } else { SMALL }))
        .collect();
    let data = blobs.iter().map(|(_, data)| data.clone()).collect();
    let outcomes = store.put_unnamed(data).await;
    for (outcome, (digest, data)) in outcomes.into_iter().zip(&blobs) {
        assert_eq!(outcome.unwrap(), (*digest, Stored::New));
        let location = match data.len() {
            SMALL => Location::Segment,
            _ => Location::File,
        };
        assert_eq!(store.stat(digest).await.unwrap().location, location);
        assert!(store.fetch_bytes(digest).await.unwrap() == *data);
    }
    assert!(partials(folder.path()).is_empty());
    store.close().await.unwrap();
    let outcomes = store.put_unnamed(vec![Bytes::new(); 3]).await;
    for outcome in outcomes {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Closed);
    }
}

/// Panics behind so many bytes.
struct Fragile(u64);

impl Witness for Fragile {
    fn update(&mut self, data: &[u8]) {
        self.0 = self.0.checked_sub(data.len() as u64).expect("a bug");
    }

    fn check(&mut self) -> Result<()> {
        panic!("a bug")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_panics_harms_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), options()).await;
    let (digest, data) = content(1, LARGE);
    for patience in [0, 1_000_000, u64::MAX] {
        let witness = Box::new(Fragile(patience));
        let staged = stage(&store, 1, exactly(LARGE), 0, witness);
        let mut writer = staged.await.unwrap();
        let outcome = match write(&mut writer, data.clone()).await {
            Ok(()) => writer.commit().await,
            Err(error) => Err(error),
        };
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Internal);
        assert!(!store.contains(&digest).await.unwrap());
    }
    let held = store.staged(&key(1)).await.unwrap();
    finish(&store, &data, held).await;
    assert!(partials(folder.path()).is_empty());
}

fn simulated(fs: &SimFs) -> StoreOptions {
    let mut options = options();
    options.backend = Arc::new(fs.clone());
    options
}

fn fault(call: Call, errno: i32, times: u64) -> Fault {
    Fault {
        call,
        path: "partial",
        after: 0,
        times,
        errno,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_is_written_again_is_shown_once() {
    let fs = SimFs::new();
    let store = open(Path::new("/store"), simulated(&fs)).await;
    // Something to evict.
    for number in 0..20 {
        let (digest, data) = content(number, 100_000);
        store.put(&digest, data).await.unwrap();
    }
    let (digest, data) = content(99, LARGE);
    let seen = Arc::default();
    let staged = stage(&store, 1, exactly(LARGE), 0, counting(digest, &seen));
    let mut writer = staged.await.unwrap();
    write(&mut writer, data.slice(..700_000)).await.unwrap();
    fs.fail(fault(Call::Write, ENOSPC, 1));
    write(&mut writer, data.slice(700_000..)).await.unwrap();
    assert_eq!(writer.commit().await.unwrap(), (digest, Stored::New));
    assert_eq!(seen.load(Ordering::Relaxed), LARGE as u64);
    assert!(store.fetch_bytes(&digest).await.unwrap() == data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_disk_stores_nothing_and_keeps_what_was_written_before() {
    for call in [Call::Write, Call::Sync, Call::Create, Call::Rename] {
        let fs = SimFs::new();
        let store = open(Path::new("/store"), simulated(&fs)).await;
        let (digest, data) = content(1, LARGE);
        let path = match call {
            Call::Rename => "large",
            _ => "partial",
        };
        fs.fail(Fault {
            after: u64::from(call == Call::Write),
            path,
            ..fault(call, EIO, 1_000)
        });
        let outcome = async {
            let staged = stage(&store, 1, exactly(LARGE), 0, wants(digest));
            let mut writer = staged.await?;
            write(&mut writer, data.clone()).await?;
            writer.commit().await
        };
        let error = outcome.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{call:?}: {error}");
        fs.heal();
        let missing = store.missing(&[digest], Lease::None).await.unwrap();
        assert_eq!(missing, [digest], "{call:?}");
        let held = store.staged(&key(1)).await.unwrap();
        let keeps = call == Call::Write || call == Call::Rename;
        assert_eq!(held > 0, keeps, "{call:?}");
        finish(&store, &data, held).await;
        assert!(store.fetch_bytes(&digest).await.unwrap() == data);
        assert_eq!(store.usage().await.unwrap().partial_bytes, 0);
    }
}
