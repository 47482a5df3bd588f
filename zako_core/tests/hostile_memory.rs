//! What peers can make a server hold. One test, since it reads the peak of the
//! whole process, client included.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
#![cfg(target_os = "linux")]

mod wire_harness;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use wire_harness::message::{bytes, framed, metadata, varint};
use wire_harness::{Client, DOWNLOAD, MapCas, NEGOTIATE, Running, UPLOAD, code, pattern};
use zako_core::server::ServerOptions;
use zako_core::{Digest, Hash};

const MIB: usize = 1024 * 1024;

/// The most memory that this process had since the peak was forgotten, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

/// Forgets the peak; the memory in use now, in bytes.
fn forget_peak() -> usize {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    peak()
}

/// A blob of this size that no one has.
fn unknown(size: u64, number: u8) -> Digest {
    Digest::new(Hash::from_bytes([number; 32]), size)
}

fn chunk_head(length: u32) -> Vec<u8> {
    let field = [vec![0x12], varint(u64::from(length))].concat();
    let total = field.len() as u32 + length;
    [&[0][..], &total.to_be_bytes(), &field].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_bounded() {
    endless_upload().await;
    lengths_reserve_nothing().await;
    batches_of_empty_entries().await;
    messages_that_never_end().await;
    // These count bytes; what they allocate themselves would blur the peaks above.
    a_blocked_store_blocks_its_senders().await;
    downloads_that_no_one_reads().await;
}

/// A sender that never stops, in one message of the greatest length after another.
async fn endless_upload() {
    let mut cas = MapCas::default();
    cas.swallow = true;
    let server = Running::over(Arc::new(cas), ServerOptions::default()).await;
    let client = server.session().await;
    let before = forget_peak();
    let mut call = client.call(UPLOAD, &[]).await;
    let meta = framed(metadata(&unknown(1 << 40, 1), 0, None));
    call.send(meta.into(), false).await;
    let piece = pattern(MIB);
    for _ in 0..32 {
        call.send(chunk_head(15 << 20).into(), false).await;
        for _ in 0..15 {
            call.send(piece.clone(), false).await;
        }
    }
    let written = server.cas.counts.written.load(Ordering::Relaxed);
    assert!(written > 400 << 20, "{written}");
    let grown = peak().saturating_sub(before);
    assert!(grown < 32 * MIB, "480 MiB took {grown} bytes of memory");
}

/// Lengths that promise much more than what comes.
async fn lengths_reserve_nothing() {
    let server = Running::start(ServerOptions::default()).await;
    let client = server.session().await;
    let before = forget_peak();
    let mut calls = Vec::new();
    for number in 0..60 {
        let mut call = client.call(UPLOAD, &[]).await;
        let meta = framed(metadata(&unknown(1 << 60, number), 0, None));
        let body = [meta, chunk_head(16 * MIB as u32 - 10), vec![1]].concat();
        call.send(body.into(), false).await;
        calls.push(call);
        let mut call = client.call(UPLOAD, &[]).await;
        call.send(chunk_head(u32::MAX - 6).into(), false).await;
        calls.push(call);
        let mut call = client.call(NEGOTIATE, &[]).await;
        let head = [&[0][..], &(MIB as u32).to_be_bytes()].concat();
        call.send(head.into(), false).await;
        calls.push(call);
    }
    // A small blob's declared size is no reason to make room either.
    for number in 100..160 {
        let mut call = client.call(UPLOAD, &[]).await;
        let meta = framed(metadata(&unknown(MIB as u64, number), 0, None));
        let body = [meta, chunk_head(MIB as u32), vec![1]].concat();
        call.send(body.into(), false).await;
        calls.push(call);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let grown = peak().saturating_sub(before);
    assert!(
        grown < 24 * MIB,
        "240 promises took {grown} bytes of memory"
    );
}

/// Messages that decode to many times their length.
async fn batches_of_empty_entries() {
    let server = Running::start(ServerOptions::default()).await;
    let client = server.session().await;
    let message = [0x0a, 0].repeat(2_900_000);
    let before = forget_peak();
    for method in ["BatchUpload", "BatchDownload"] {
        let path = format!("/zako.v1.batch.Batch/{method}");
        let answer = client.unary(&path, &message).await;
        answer.expect(code::INVALID_ARGUMENT);
    }
    let grown = peak().saturating_sub(before);
    assert!(grown < 64 * MIB, "{grown} bytes of memory");
}

/// Senders come no further than their windows when the store takes nothing.
async fn a_blocked_store_blocks_its_senders() {
    let mut cas = MapCas::default();
    cas.hold_writes = Some(Arc::new(Semaphore::new(0)));
    let options = ServerOptions::default();
    let window = options.connection_window_bytes as usize;
    let server = Running::over(Arc::new(cas), options).await;
    let client = server.session().await;
    let mut calls = Vec::new();
    let mut sent = 0;
    for number in 0..16 {
        let mut call = client.call(UPLOAD, &[]).await;
        let meta = framed(metadata(&unknown(1 << 40, number), 0, None));
        let body = [meta, chunk_head(15 << 20)].concat();
        if !push(&mut call, body.into(), &mut sent).await {
            calls.push(call);
            break;
        }
        push(&mut call, pattern(8 * MIB), &mut sent).await;
        calls.push(call);
    }
    assert!(sent >= MIB, "{sent}");
    // What the server's tasks took off the windows and hold: a frame a stream.
    let limit = window + 16 * 256 * 1024;
    assert!(
        sent <= limit,
        "{sent} bytes were taken in for a blocked store"
    );
}

/// Sends until the peer takes no more for a while; whether all was sent.
async fn push(call: &mut wire_harness::Call, mut data: Bytes, sent: &mut usize) -> bool {
    while !data.is_empty() {
        let granted = call.capacity(data.len());
        match tokio::time::timeout(Duration::from_secs(2), granted).await {
            Ok(Some(granted)) => {
                let piece = data.split_to(granted.min(data.len()));
                *sent += piece.len();
                call.send.send_data(piece, false).unwrap();
            }
            _ => return false,
        }
    }
    true
}

/// Readers that ask for much and take nothing: the store is read a step ahead.
async fn downloads_that_no_one_reads() {
    let mut cas = MapCas::default();
    cas.step = 256 * 1024;
    let server = Running::over(Arc::new(cas), ServerOptions::default()).await;
    let data = pattern(64 * MIB);
    let digest = server.cas.insert(&data);
    let mut client = Client::with_windows(server.addr, 65_535, 65_535).await;
    client.token = Some(client.negotiate().await);
    let mut calls = Vec::new();
    for _ in 0..64 {
        let mut call = client.call(DOWNLOAD, &[]).await;
        call.send(framed(metadata(&digest, 0, None)).into(), true)
            .await;
        calls.push(call);
    }
    wire_harness::until("a download has begun", || {
        server.cas.counts.read.load(Ordering::Relaxed) > 0
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let read = server.cas.counts.read.load(Ordering::Relaxed);
    assert!(
        read <= 64 * 2 * 256 * 1024,
        "{read} bytes were read for no one"
    );
}

/// Requests of calls without bulk that go on and on.
async fn messages_that_never_end() {
    let server = Running::start(ServerOptions::default()).await;
    let client = server.session().await;
    let before = forget_peak();
    let piece = pattern(MIB);
    for path in [
        NEGOTIATE,
        DOWNLOAD,
        "/zako.v1.store.Store/Stat",
        "/zako.v1.store.Store/Delete",
        "/zako.v1.batch.Batch/BatchUpload",
        "/grpc.health.v1.Health/Check",
    ] {
        let mut call = client.call(path, &[]).await;
        let head = [0, 0xff, 0xff, 0xff, 0xff];
        call.send(Bytes::copy_from_slice(&head), false).await;
        for _ in 0..16 {
            call.send(piece.clone(), false).await;
        }
        let answer = call.answer().await;
        let refused = [code::RESOURCE_EXHAUSTED, code::OUT_OF_RANGE];
        assert!(refused.contains(&answer.status), "{path}: {answer:?}");
    }
    for path in [
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ] {
        // An unknown field would be skipped, however long, once it was taken in;
        // field 7 asks reflection for the services.
        let asked = match path.contains("health") {
            true => Vec::new(),
            false => bytes(7, ""),
        };
        let request = |length| [asked.clone(), bytes(50, vec![0; length])].concat();
        let short = client.unary(path, request(1000)).await;
        assert_eq!(short.expect(code::OK).messages.len(), 1);
        let long = client.unary(path, request(20_000)).await;
        assert!(long.messages.is_empty(), "{path}");
    }
    let many = framed(bytes(50, vec![0; MIB]));
    let answer = client.send(NEGOTIATE, many).await;
    assert_ne!(answer.status, code::OK);
    let grown = peak().saturating_sub(before);
    assert!(grown < 32 * MIB, "{grown} bytes of memory");
}
