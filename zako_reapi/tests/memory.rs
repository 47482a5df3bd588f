//! What clients can make a server hold. One test, since it reads the peak of the whole
//! process, clients included.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use support::raw::{Raw, framed};
use support::streams::{client, to_read_zstd, to_write, to_write_zstd, write};
use support::{TestServer, random, sha256};
use tonic::Code;
use zako_reapi::digest::{DigestFunction, RemoteDigest};
use zako_reapi::proto::bytestream::{ReadRequest, WriteRequest};
use zako_reapi::proto::reapi::BatchUpdateBlobsRequest;
use zako_reapi::proto::reapi::batch_update_blobs_request::Request;

const MIB: usize = 1 << 20;
const WRITE: &str = "/google.bytestream.ByteStream/Write";
const UPDATE: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs";

/// The most memory that this process had since the peak was forgotten, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() * 1024
}

/// Forgets the peak; the memory in use now, in bytes.
fn forget_peak() -> usize {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    peak()
}

#[track_caller]
fn assert_grown(before: usize, most: usize, what: &str) {
    let grown = peak().saturating_sub(before);
    assert!(grown < most, "{what} took {} MiB", grown / MIB);
}

/// A blob of this size that no one has.
fn unknown(function: DigestFunction, size: u64) -> RemoteDigest {
    let hex = function.digest(&random(20)).hex();
    RemoteDigest::parse(Some(function), &hex, size).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_bounded() {
    lengths_reserve_nothing().await;
    large_uploads().await;
    what_grows_when_it_is_decompressed().await;
    compressed_reads_that_no_one_takes().await;
    entries_that_decode_to_much().await;
    messages_that_never_end().await;
}

/// Sizes and lengths that promise much more than what comes.
async fn lengths_reserve_nothing() {
    let server = TestServer::start().await;
    let mut raw = Raw::connect(&server.addr).await;
    let before = forget_peak();
    let mut calls = Vec::new();
    for size in [1 << 20, 1 << 40].repeat(50) {
        let message = WriteRequest {
            resource_name: to_write(&unknown(DigestFunction::Sha256, size)),
            ..WriteRequest::default()
        };
        let mut bytes = message.encode_to_vec();
        // Data of 15 MiB, of which one byte comes.
        bytes.extend([0x52, 0x80, 0x80, 0xc0, 0x07, 7]);
        let length = (bytes.len() + 15 * MIB - 1) as u32;
        let mut call = raw.call(WRITE).await;
        call.send([&[0][..], &length.to_be_bytes(), &bytes].concat());
        calls.push(call);
        let mut call = raw.call(UPDATE).await;
        call.send([&[0][..], &(30 * MIB as u32).to_be_bytes()].concat());
        calls.push(call);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_grown(before, 48 * MIB, "200 promises");
    drop(calls);
    server.stop().await;
}

/// Much in all, of each a part.
async fn large_uploads() {
    let server = TestServer::start().await;
    let data = random(MIB);
    let before = forget_peak();
    let mut raw = Raw::connect(&server.addr).await;
    let mut calls = Vec::new();
    for at in 0..64 {
        let function = [DigestFunction::Sha256, DigestFunction::Blake3][at % 2];
        let name = to_write(&unknown(function, 1 << 30));
        let mut call = raw.call(WRITE).await;
        for at in 0..4 {
            let message = WriteRequest {
                resource_name: name.clone(),
                write_offset: at * MIB as i64,
                ..WriteRequest::default()
            };
            let mut bytes = message.encode_to_vec();
            bytes.extend([0x52, 0x80, 0x80, 0x40]);
            let length = (bytes.len() + MIB) as u32;
            call.send([&[0][..], &length.to_be_bytes(), &bytes].concat());
            call.send(data.clone());
        }
        calls.push(call);
    }
    for mut call in calls {
        call.send.send_data(Bytes::new(), true).unwrap();
        let (code, message) = call.status().await;
        assert_eq!(code, Code::Ok, "{message}");
    }
    assert_grown(before, 160 * MIB, "64 uploads");
    server.stop().await;
}

async fn what_grows_when_it_is_decompressed() {
    let server = TestServer::start().await;
    let before = forget_peak();
    let mut hasher = zako_reapi::digest::RemoteHasher::new(DigestFunction::Sha256);
    let mut compressed = zstd::Encoder::new(Vec::new(), 3).unwrap();
    for _ in 0..256 {
        hasher.update(&vec![0; MIB]);
        std::io::Write::write_all(&mut compressed, &vec![0; MIB]).unwrap();
    }
    let compressed = Bytes::from(compressed.finish().unwrap());
    let name = to_write_zstd(&hasher.finish());
    let committed = write(&server.channel, &name, &compressed).await.unwrap();
    assert_eq!(committed, compressed.len() as i64);
    assert_grown(before, 64 * MIB, "256 MiB of zeros");
    server.stop().await;
}

async fn compressed_reads_that_no_one_takes() {
    let server = TestServer::start().await;
    let data = random(24 * MIB);
    let digest = sha256(&data);
    write(&server.channel, &to_write(&digest), &data)
        .await
        .unwrap();
    drop(data);
    let before = forget_peak();
    let mut unread = Vec::new();
    for _ in 0..100 {
        let request = ReadRequest {
            resource_name: to_read_zstd(&digest),
            ..ReadRequest::default()
        };
        unread.push(client(&server.channel).read(request).await.unwrap());
    }
    assert_grown(before, 250 * MIB, "100 unread streams");
    drop(unread);
    server.stop().await;
}

/// Messages that decode to many times their length.
async fn entries_that_decode_to_much() {
    let server = TestServer::start().await;
    let mut raw = Raw::connect(&server.addr).await;
    let message = framed(&[0x12, 0].repeat(15 * MIB));
    for method in ["BatchUpdateBlobs", "BatchReadBlobs", "FindMissingBlobs"] {
        let before = forget_peak();
        let path = UPDATE.replace("BatchUpdateBlobs", method);
        let (code, _) = raw.status(&path, message.clone()).await;
        assert_eq!(code, Code::InvalidArgument, "{method}");
        assert_grown(before, 128 * MIB, method);
    }
    server.stop().await;
}

/// Many long ones of which the end is missing: together they get what all may have.
async fn messages_that_never_end() {
    let server = TestServer::start().await;
    let data = random(15 * MIB);
    let request = BatchUpdateBlobsRequest {
        requests: vec![Request {
            digest: Some(sha256(&data).to_wire()),
            data,
            ..Request::default()
        }],
        ..BatchUpdateBlobsRequest::default()
    };
    let message = Bytes::from(framed(&request.encode_to_vec()));
    let short = message.slice(..message.len() - 1);
    drop(request);
    let before = forget_peak();
    let mut calls = Vec::new();
    for _ in 0..40 {
        let mut raw = Raw::connect(&server.addr).await;
        let mut call = raw.call(UPDATE).await;
        call.send(short.clone());
        calls.push((raw, call));
    }
    // All that have memory wait for their ends, so the others are the first to end.
    let mut refused = Vec::new();
    let mut ends: Vec<_> = calls
        .into_iter()
        .map(|(raw, call)| Box::pin(async move { (raw, call.status().await) }))
        .collect();
    while refused.len() < 40 - 256 / 15 {
        let ((_, (code, message)), _, rest) = futures::future::select_all(ends).await;
        assert_eq!(code, Code::Unavailable, "{message}");
        refused.push(code);
        ends = rest;
    }
    assert_grown(before, 340 * MIB, "40 messages of 15 MiB");
    drop(ends);
    // When they are gone, there is room again.
    let mut raw = Raw::connect(&server.addr).await;
    while raw.status(UPDATE, message.to_vec()).await.0 == Code::Unavailable {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (code, message) = raw.status(UPDATE, message.to_vec()).await;
    assert_eq!(code, Code::Ok, "{message}");
    server.stop().await;
}
