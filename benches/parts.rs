//! Measures parts of the store and of the wire format within one process.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a failure ends the run, and criterion's macros write no docs"
)]

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::StreamExt;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use zako_core::Digest;
use zako_core::alias::{Alias, AliasKey, AliasKind, AliasOptions, AliasTable};
use zako_core::cas::{Cas, CasExt, Lease};
use zako_core::store::{Durability, LocalStore, StoreOptions};
use zako_core::transport::grpc::frame::{Framer, PayloadField};
use zako_core::transport::grpc::{DecodeLimits, DownloadDecoder, UploadDecoder};
use zako_digest::hash;

const MIB: usize = 1 << 20;

/// The size of a small blob.
const SMALL: usize = 8 << 10;

criterion_group! {
    name = parts;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = hashing, missing, putting, fetching, decoding, opening, finding_aliases, inserting_aliases
}
criterion_main!(parts);

fn hashing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hash");
    for (name, size) in [("8 KiB", SMALL), ("1 MiB", MIB), ("128 MiB", 128 * MIB)] {
        let data = vec![7; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("one thread, {name}"), |bench| {
            bench.iter(|| hash::bytes(black_box(&data)));
        });
        if size >= MIB {
            group.bench_function(format!("all cores, {name}"), |bench| {
                bench.iter(|| hash::bytes_parallel(black_box(&data)));
            });
        }
    }
}

/// A batch of an index with half of them, as the protocol has it.
fn missing(criterion: &mut Criterion) {
    const COUNT: usize = 1_000_000;
    const BATCH: usize = 8192;
    let runtime = runtime();
    let folder = folder();
    let store = open(&runtime, folder.path(), Durability::None);
    let digests: Vec<Digest> = (0..COUNT as u64).map(|at| numbered(at, 8).0).collect();
    for from in (0..COUNT as u64).step_by(2 * BATCH) {
        let end = (COUNT as u64).min(from + 2 * BATCH as u64);
        let blobs = (from..end).step_by(2).map(|at| numbered(at, 8)).collect();
        for outcome in runtime.block_on(store.put_batch(blobs)) {
            outcome.unwrap();
        }
    }
    let mut group = criterion.benchmark_group("missing");
    group.throughput(Throughput::Elements(COUNT as u64));
    for (name, lease) in [("leasing", Lease::Default), ("not leasing", Lease::None)] {
        group.bench_function(format!("1 M digests, half present, {name}"), |bench| {
            bench.iter(|| {
                let found = digests.chunks(BATCH).map(|batch| {
                    let missing = runtime.block_on(store.missing(batch, lease));
                    missing.unwrap().len()
                });
                assert_eq!(found.sum::<usize>(), COUNT / 2);
            });
        });
    }
    runtime.block_on(store.close()).unwrap();
}

fn putting(criterion: &mut Criterion) {
    const IN_FLIGHT: usize = 64;
    const AT_ONCE: u64 = 1024;
    const BATCH: u64 = 128;
    let runtime = runtime();
    let mut next = 0;
    let mut group = criterion.benchmark_group("put");
    group.throughput(Throughput::Elements(AT_ONCE));
    group.bench_function("8 KiB, durable, 64 in flight", |bench| {
        bench.iter_custom(|times| {
            let folder = folder();
            let store = open(&runtime, folder.path(), Durability::Immediate);
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                let blobs = some(&mut next, AT_ONCE);
                let start = Instant::now();
                let puts = futures::stream::iter(&blobs)
                    .map(|(digest, data)| store.put(digest, data.clone()))
                    .buffer_unordered(IN_FLIGHT)
                    .for_each(|outcome| {
                        outcome.unwrap();
                        std::future::ready(())
                    });
                runtime.block_on(puts);
                spent += start.elapsed();
            }
            runtime.block_on(store.close()).unwrap();
            spent
        });
    });
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("8 KiB, durable, batch of 128", |bench| {
        bench.iter_custom(|times| {
            let folder = folder();
            let store = open(&runtime, folder.path(), Durability::Immediate);
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                let blobs = some(&mut next, BATCH);
                let start = Instant::now();
                for outcome in runtime.block_on(store.put_batch(blobs)) {
                    outcome.unwrap();
                }
                spent += start.elapsed();
            }
            runtime.block_on(store.close()).unwrap();
            spent
        });
    });
}

fn fetching(criterion: &mut Criterion) {
    const COUNT: u64 = 10_000;
    let runtime = runtime();
    let folder = folder();
    let store = open(&runtime, folder.path(), Durability::None);
    let blobs = some(&mut 0, COUNT);
    let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    for outcome in runtime.block_on(store.put_batch(blobs)) {
        outcome.unwrap();
    }
    let mut group = criterion.benchmark_group("fetch");
    group.throughput(Throughput::Elements(COUNT));
    group.bench_function("8 KiB, hot", |bench| {
        bench.iter(|| {
            runtime.block_on(async {
                for digest in &digests {
                    assert_eq!(store.fetch_bytes(digest).await.unwrap().len(), SMALL);
                }
            });
        });
    });
    runtime.block_on(store.close()).unwrap();
}

/// A stream of messages, cut as HTTP/2 frames would cut it.
fn decoding(criterion: &mut Criterion) {
    const SIZE: usize = 16 * MIB;
    let wire = |field| {
        let mut data = Bytes::from(vec![7; SIZE]);
        let mut framer = Framer::new(field, 256 << 10);
        let mut wire = Vec::with_capacity(SIZE + MIB);
        while let Some(frame) = framer.next_frame(&mut data) {
            wire.extend_from_slice(&frame.prefix);
            wire.extend_from_slice(&frame.payload);
        }
        Bytes::from(wire)
    };
    let (download, upload) = (wire(PayloadField::Data), wire(PayloadField::Chunk));
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Bytes(SIZE as u64));
    for (name, frame) in [("16 KiB frames", 16 << 10), ("256 KiB frames", 256 << 10)] {
        group.bench_function(format!("download, {name}"), |bench| {
            bench.iter(|| {
                let mut decoder = DownloadDecoder::new(DecodeLimits::default());
                let mut wire = download.clone();
                while wire.has_remaining() {
                    let mut data = wire.split_to(frame.min(wire.len()));
                    while let Some(piece) = decoder.next(&mut data).unwrap() {
                        black_box(piece);
                    }
                }
                decoder.finish().unwrap();
            });
        });
        group.bench_function(format!("upload, {name}"), |bench| {
            bench.iter(|| {
                let mut decoder = UploadDecoder::new(DecodeLimits::default());
                let mut wire = upload.clone();
                while wire.has_remaining() {
                    let mut data = wire.split_to(frame.min(wire.len()));
                    while let Some(event) = decoder.next(&mut data).unwrap() {
                        black_box(event);
                    }
                }
                decoder.finish().unwrap();
            });
        });
    }
}

/// Rebuilding the index: from footers, and by scanning what a crash left.
fn opening(criterion: &mut Criterion) {
    const COUNT: u64 = 20_000;
    let runtime = runtime();
    let (stopped, crashed) = (folder(), folder());
    let store = open(&runtime, stopped.path(), Durability::Immediate);
    for outcome in runtime.block_on(store.put_batch(some(&mut 0, COUNT))) {
        outcome.unwrap();
    }
    // All is on disk, so a copy is what a crash at this moment would leave.
    copy_folder(stopped.path(), crashed.path());
    runtime.block_on(store.close()).unwrap();
    drop(store);
    let mut group = criterion.benchmark_group("open");
    group.throughput(Throughput::Elements(COUNT));
    group.bench_function("20,000 blobs of 8 KiB, closed", |bench| {
        bench.iter_custom(|times| opened(&runtime, stopped.path(), times));
    });
    group.bench_function("20,000 blobs of 8 KiB, crashed", |bench| {
        bench.iter_custom(|times| {
            let once = |_| {
                let folder = folder();
                copy_folder(crashed.path(), folder.path());
                opened(&runtime, folder.path(), 1)
            };
            (0..times).map(once).sum()
        });
    });
}

/// The time that opening takes, without closing.
fn opened(runtime: &Runtime, folder: &Path, times: u64) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..times {
        let start = Instant::now();
        let store = open(runtime, folder, Durability::Immediate);
        spent += start.elapsed();
        runtime.block_on(store.close()).unwrap();
    }
    spent
}

/// A million aliases: finding them, in another order than they came, and opening them.
fn finding_aliases(criterion: &mut Criterion) {
    const COUNT: u64 = 1_000_000;
    const BATCH: usize = 8192;
    let runtime = runtime();
    let folder = folder();
    let table = open_aliases(&runtime, folder.path(), Durability::None);
    let aliases = some_aliases(0, COUNT);
    let mut keys: Vec<AliasKey> = aliases.iter().map(|(key, _)| *key).collect();
    keys.sort_unstable();
    runtime.block_on(table.insert(aliases)).unwrap();
    let mut group = criterion.benchmark_group("alias");
    group.throughput(Throughput::Elements(COUNT));
    group.bench_function("find, 1 M, one by one", |bench| {
        bench.iter(|| assert!(keys.iter().all(|key| table.find(key).is_some())));
    });
    let mut found = Vec::with_capacity(BATCH);
    group.bench_function("find, 1 M, in batches of 8192", |bench| {
        bench.iter(|| {
            for batch in keys.chunks(BATCH) {
                found.clear();
                table.find_many(batch, &mut found);
                assert!(found.iter().all(Option::is_some));
            }
        });
    });
    runtime.block_on(table.close()).unwrap();
    group.bench_function("open, 1 M", |bench| {
        bench.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                let start = Instant::now();
                let table = open_aliases(&runtime, folder.path(), Durability::None);
                spent += start.elapsed();
                runtime.block_on(table.close()).unwrap();
            }
            spent
        });
    });
    let kind = AliasKind::new("zako 2026-11 bench");
    group.bench_function("deriving 1 M keys", |bench| {
        bench.iter(|| {
            for number in 0..COUNT {
                black_box(kind.key(&[&[7; 32], &number.to_le_bytes()]));
            }
        });
    });
}

fn inserting_aliases(criterion: &mut Criterion) {
    const IN_FLIGHT: usize = 64;
    const AT_ONCE: u64 = 4096;
    const BATCH: u64 = 8192;
    let runtime = runtime();
    let folder = folder();
    let table = open_aliases(&runtime, folder.path(), Durability::Immediate);
    let mut next = 0;
    let mut group = criterion.benchmark_group("alias");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("insert, durable, batch of 8192", |bench| {
        bench.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                let aliases = some_aliases(next, BATCH);
                next += BATCH;
                let start = Instant::now();
                runtime.block_on(table.insert(aliases)).unwrap();
                spent += start.elapsed();
            }
            spent
        });
    });
    group.throughput(Throughput::Elements(AT_ONCE));
    group.bench_function("insert, durable, 64 in flight", |bench| {
        bench.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                let aliases = some_aliases(next, AT_ONCE);
                next += AT_ONCE;
                let start = Instant::now();
                let inserts = futures::stream::iter(aliases)
                    .map(|alias| table.insert(vec![alias]))
                    .buffer_unordered(IN_FLIGHT)
                    .for_each(|outcome| {
                        outcome.unwrap();
                        std::future::ready(())
                    });
                runtime.block_on(inserts);
                spent += start.elapsed();
            }
            spent
        });
    });
    runtime.block_on(table.close()).unwrap();
}

fn open_aliases(runtime: &Runtime, folder: &Path, durability: Durability) -> AliasTable {
    let mut options = AliasOptions::default();
    options.durability = durability;
    runtime.block_on(AliasTable::open(folder, options)).unwrap()
}

/// The aliases of these numbers.
fn some_aliases(from: u64, count: u64) -> Vec<(AliasKey, Alias)> {
    let kind = AliasKind::new("zako 2026-11 bench");
    let digest = numbered(0, 8).0;
    (from..from + count)
        .map(|number| {
            let digest = Digest::new(*digest.hash(), number);
            (kind.key(&[&number.to_le_bytes()]), Alias::new(digest))
        })
        .collect()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// On the disk of the target folder, since the system's temporary one may be memory.
fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn open(runtime: &Runtime, folder: &Path, durability: Durability) -> LocalStore {
    let mut options = StoreOptions::default();
    options.durability = durability;
    runtime.block_on(LocalStore::open(folder, options)).unwrap()
}

/// The blob of this number.
fn numbered(number: u64, size: usize) -> (Digest, Bytes) {
    let mut data = vec![0; size];
    data[..8].copy_from_slice(&number.to_le_bytes());
    (hash::bytes(&data), Bytes::from(data))
}

/// The next small blobs.
fn some(next: &mut u64, count: u64) -> Vec<(Digest, Bytes)> {
    let from = *next;
    *next += count;
    (from..*next).map(|at| numbered(at, SMALL)).collect()
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&to).unwrap();
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
