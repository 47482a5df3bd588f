//! Streams of messages that no well-behaved client sends.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use support::raw::{Raw, framed};
use support::streams::{messages, read, to_read, to_write};
use support::{TestServer, random, sha256};
use tonic::Code;
use zako_core::server::ServerOptions;
use zako_reapi::CacheOptions;
use zako_reapi::proto::bytestream::WriteRequest;

const WRITE: &str = "/google.bytestream.ByteStream/Write";
const READ: &str = "/google.bytestream.ByteStream/Read";
const CAS: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage";

fn wire(messages: &[WriteRequest]) -> Vec<Vec<u8>> {
    let encoded = messages.iter().map(Message::encode_to_vec);
    encoded.map(|message| framed(&message)).collect()
}

#[tokio::test]
async fn malformed_writes_are_refused_and_nothing_is_stored() {
    let server = TestServer::start().await;
    let mut raw = Raw::connect(&server.addr).await;
    let data = random(200_000);
    let digest = sha256(&data);
    let name = to_write(&digest);
    let good = wire(&messages(&name, 0, &data));
    let all = good.concat();
    let long = WriteRequest {
        resource_name: "x".repeat(5000),
        ..WriteRequest::default()
    };
    let unnamed = [&[0x0a, 2, 0xff, 0xfe][..]].concat();
    let twice = [&good[0][5..], &[0x10, 0]].concat();
    let group = [&[0x0b, 0x0c][..], &good[0][5..]].concat();
    let mut compressed = all.clone();
    compressed[0] = 1;
    let mut endless = all.clone();
    endless[1..5].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut cases = vec![
        (
            all[..all.len() - 1].to_vec(),
            Code::InvalidArgument,
            "ends inside",
        ),
        (all[..3].to_vec(), Code::InvalidArgument, "ends inside"),
        (
            wire(&[long]).concat(),
            Code::ResourceExhausted,
            "5000 bytes",
        ),
        (framed(&unnamed), Code::InvalidArgument, "not UTF-8"),
        (framed(&twice), Code::InvalidArgument, "payload"),
        (framed(&group), Code::InvalidArgument, "groups"),
        (framed(&[0xff; 30]), Code::InvalidArgument, "varint"),
        (framed(&[]), Code::InvalidArgument, "no name"),
        (compressed, Code::Internal, "compressed"),
        (endless, Code::ResourceExhausted, "allowed"),
    ];
    // A length that reaches past its message.
    let mut past = good[0][5..].to_vec();
    past.truncate(past.len() - 1);
    cases.push((framed(&past), Code::InvalidArgument, "past its message"));
    for (bytes, code, text) in cases {
        let (told, message) = raw.status(WRITE, bytes).await;
        assert_eq!(told, code, "{text}: {message}");
        let message = percent_encoding::percent_decode_str(&message);
        let message = message.decode_utf8().unwrap().into_owned();
        assert!(message.contains(text), "{text}: {message}");
        let absent = read(&server.channel, &to_read(&digest)).await;
        assert_eq!(absent.unwrap_err().code(), Code::NotFound);
    }
    let (code, message) = raw.status(WRITE, all).await;
    assert_eq!(code, Code::Ok, "{message}");
    assert!(read(&server.channel, &to_read(&digest)).await.unwrap() == data);
    server.stop().await;
}

#[tokio::test]
async fn malformed_requests_are_refused() {
    let server = TestServer::start().await;
    let mut raw = Raw::connect(&server.addr).await;
    for method in ["FindMissingBlobs", "BatchUpdateBlobs", "BatchReadBlobs"] {
        let path = format!("{CAS}/{method}");
        for bytes in [
            Vec::new(),
            vec![0, 0, 0, 0, 9, 1],
            framed(&[0x12, 5, 1]),
            framed(&[0x12, 2, 0x0a, 9]),
            framed(&[0x12, 2, 0x08, 0]),
            framed(&[0x10, 1]),
            framed(&[0xff; 12]),
            framed(&[0x13, 0]),
            framed(&[0x00, 0]),
            [framed(&[]), framed(&[])].concat(),
        ] {
            let (code, message) = raw.status(&path, bytes.clone()).await;
            assert_eq!(code, Code::InvalidArgument, "{method} {bytes:?} {message}");
        }
        // What it doesn't know it passes over.
        let unknown = framed(&[0x7a, 2, 1, 2, 0x78, 9, 0x7d, 1, 2, 3, 4]);
        let (code, message) = raw.status(&path, unknown).await;
        assert_eq!(code, Code::Ok, "{message}");
    }
    for path in [READ, "/google.bytestream.ByteStream/QueryWriteStatus"] {
        for bytes in [Vec::new(), framed(&[0x0a, 9]), framed(&[0x0a, 1, 0xff])] {
            let (code, _) = raw.status(path, bytes).await;
            assert_eq!(code, Code::InvalidArgument, "{path}");
        }
        let (code, _) = raw.status(path, framed(&[0; 9000])).await;
        assert_eq!(code, Code::ResourceExhausted);
    }
    for path in [
        format!("{CAS}/Nothing"),
        "/google.bytestream.ByteStream/Nothing".to_owned(),
        "/google.bytestream.ByteStream".to_owned(),
    ] {
        let (code, _) = raw.status(&path, framed(&[])).await;
        assert_eq!(code, Code::Unimplemented, "{path}");
    }
    server.stop().await;
}

/// However the bytes of a write are cut on their way.
#[tokio::test]
async fn bytes_may_come_one_by_one() {
    let server = TestServer::start().await;
    let data = random(300);
    let digest = sha256(&data);
    let mut raw = Raw::connect(&server.addr).await;
    let mut call = raw.call(WRITE).await;
    let all = wire(&messages(&to_write(&digest), 0, &data)).concat();
    for byte in &all {
        call.send(vec![*byte]);
    }
    call.send.send_data(Bytes::new(), true).unwrap();
    let (code, message) = call.status().await;
    assert_eq!(code, Code::Ok, "{message}");
    assert!(read(&server.channel, &to_read(&digest)).await.unwrap() == data);
    server.stop().await;
}

/// All that it had to say has come.
#[tokio::test]
async fn a_finished_write_is_stored_though_its_stream_never_ends() {
    let mut options = ServerOptions::default();
    // Long for bytes that are on their way, on a machine that is busy.
    options.upload_idle_timeout = Duration::from_secs(2);
    let server = TestServer::with(CacheOptions::default(), options).await;
    for size in [1000, 2 << 20] {
        let data = random(size);
        let digest = sha256(&data);
        let mut raw = Raw::connect(&server.addr).await;
        let mut call = raw.call(WRITE).await;
        for message in wire(&messages(&to_write(&digest), 0, &data)) {
            call.send(message);
        }
        let (code, message) = call.status().await;
        assert_eq!(code, Code::Ok, "{message}");
        assert!(read(&server.channel, &to_read(&digest)).await.unwrap() == data);
    }
    server.stop().await;
}
