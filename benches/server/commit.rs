//! What a durable put waits for in the store, beside one fdatasync.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use zako_core::Digest;
use zako_core::cas::Cas;
use zako_core::store::{LocalStore, StoreOptions};

use crate::Outcome;
use crate::blobs::blobs;
use crate::report::{Report, quantile};
use crate::run::Run;

/// The title of the table.
pub(crate) const TITLE: &str = "Group commit in the store, 8 KiB";
/// A row that a goal is set for, and its column.
pub(crate) const ONE: &str = "put, 1 at a time";
pub(crate) const PER_SYNC: &str = "p50 ÷ fdatasync";

const SIZE: usize = 8 << 10;

/// One round.
pub(crate) async fn round(run: &Run, report: &mut Report) -> Outcome<()> {
    let count = if run.short { 64 } else { 4096 };
    run.take_pages(0)?;
    for (in_flight, sync, put) in [
        (1, "append 8 KiB and fdatasync", ONE),
        (
            64,
            "append 64 times 8 KiB and fdatasync",
            "put, 64 at a time",
        ),
    ] {
        let syncs = appends(run, in_flight * SIZE, count / in_flight.min(16))?;
        let puts = puts(run, in_flight, count).await?;
        for (row, times) in [(sync, &syncs), (put, &puts)] {
            for (column, at) in [("p50 ms", 0.5), ("p99 ms", 0.99)] {
                if let Some(time) = quantile(times, at) {
                    report.add(TITLE, row, &[(column, time)]);
                }
            }
        }
        if let (Some(sync), Some(time)) = (quantile(&syncs, 0.5), quantile(&puts, 0.5)) {
            report.add(TITLE, put, &[(PER_SYNC, time / sync)]);
        }
    }
    Ok(())
}

/// The milliseconds of each of `count` appends to one file.
fn appends(run: &Run, bytes: usize, count: usize) -> Outcome<Vec<f64>> {
    let folder = run.new_folder()?;
    let mut file = File::create(folder.path().join("file"))?;
    let block = vec![1; bytes];
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

/// The milliseconds of each of `count` puts, `in_flight` of them under way at once.
async fn puts(run: &Run, in_flight: usize, count: usize) -> Outcome<Vec<f64>> {
    let folder = run.new_folder()?;
    let store = LocalStore::open(folder.path(), StoreOptions::default()).await?;
    let blobs: Arc<Vec<(Digest, Bytes)>> = Arc::new(blobs(5, count, SIZE));
    let next = Arc::new(AtomicUsize::new(0));
    let workers = (0..in_flight).map(|_| {
        let (store, blobs, next) = (store.clone(), Arc::clone(&blobs), Arc::clone(&next));
        tokio::spawn(async move {
            let mut times = Vec::new();
            while let Some((digest, data)) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let start = Instant::now();
                store.put(digest, data.clone()).await?;
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
            Outcome::Ok(times)
        })
    });
    let mut times = Vec::with_capacity(count);
    for worker in workers.collect::<Vec<_>>() {
        times.extend(worker.await??);
    }
    store.close().await?;
    Ok(times)
}
