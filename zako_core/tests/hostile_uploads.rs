//! Uploads and downloads that break the rules: each gets its status, and nothing
//! is stored.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod wire_harness;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use wire_harness::message::{bytes, chunk, framed, metadata, number};
use wire_harness::{Call, DOWNLOAD, MapCas, Running, UPLOAD, code, pattern, until};
use zako_core::Digest;
use zako_core::cas::{CasError, ErrorKind};
use zako_core::server::ServerOptions;
use zako_digest::hash;

const SMALL: usize = 1000;
const LARGE: usize = 1_500_000;

/// Long for a sender that goes on, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(2);

fn impatient() -> ServerOptions {
    let mut options = ServerOptions::default();
    options.upload_idle_timeout = PATIENCE;
    options
}

fn nothing_stored(server: &Running, digest: &Digest) {
    assert_eq!(server.cas.get(digest), None);
    assert_eq!(server.cas.partial(digest), None);
}

#[tokio::test]
async fn the_order_of_messages() {
    let server = Running::start(ServerOptions::default()).await;
    let client = server.session().await;
    let data = pattern(SMALL);
    let digest = hash::bytes(&data);
    let meta = || metadata(&digest, 0, None);
    for messages in [
        vec![],
        vec![vec![]],
        vec![chunk(&data)],
        vec![chunk(b"")],
        vec![chunk(b""), meta(), chunk(&data)],
        vec![meta(), meta(), chunk(&data)],
        vec![meta(), chunk(&data), meta()],
        vec![meta(), chunk(&data[..500]), meta(), chunk(&data[500..])],
        vec![meta(), vec![], chunk(&data)],
        vec![meta(), number(9, 9), chunk(&data)],
        vec![[meta(), chunk(&data)].concat()],
        vec![meta(), [chunk(&data), chunk(&data)].concat()],
    ] {
        let answer = client.upload(&messages).await;
        answer.expect(code::INVALID_ARGUMENT);
        nothing_stored(&server, &digest);
    }
}

#[tokio::test]
async fn more_fewer_and_other_bytes_than_declared() {
    let server = Running::start(ServerOptions::default()).await;
    let client = server.session().await;
    for size in [SMALL, LARGE] {
        let data = pattern(size);
        let digest = hash::bytes(&data);
        let mut other = data.to_vec();
        other[size / 2] ^= 1;
        let more = [&data[..], b"x"].concat();
        for sent in [&other[..], &more, &data[..size - 1], &data[..0]] {
            let answer = client
                .upload(&[metadata(&digest, 0, None), chunk(sent)])
                .await;
            answer.expect(code::INVALID_ARGUMENT);
            assert!(answer.details_have("MISMATCH"), "{answer:?}");
            nothing_stored(&server, &digest);
        }
    }
}

#[tokio::test]
async fn more_bytes_are_refused_while_they_come() {
    let server = Running::start(ServerOptions::default()).await;
    let client = server.session().await;
    for size in [SMALL, LARGE] {
        let data = pattern(size);
        let digest = hash::bytes(&data);
        let mut call = client.call(UPLOAD, &[]).await;
        let too_much = [&data[..], b"x"].concat();
        let body = [framed(metadata(&digest, 0, None)), framed(chunk(too_much))].concat();
        // The stream is never ended.
        call.send(body.into(), false).await;
        call.answer().await.expect(code::INVALID_ARGUMENT);
        nothing_stored(&server, &digest);
    }
}

#[tokio::test]
async fn a_digest_of_another_size_is_refused() {
    let server = Running::start(ServerOptions::default()).await;
    let client = server.session().await;
    let data = pattern(SMALL);
    let lie = Digest::new(*hash::bytes(&data).hash(), SMALL as u64 + 1);
    let answer = client
        .upload(&[metadata(&lie, 0, None), chunk(&data)])
        .await;
    answer.expect(code::INVALID_ARGUMENT);
    nothing_stored(&server, &lie);
    // Size 0 with another hash than that of nothing.
    let lie = Digest::new(*hash::bytes(&data).hash(), 0);
    let answer = client.upload(&[metadata(&lie, 0, None)]).await;
    answer.expect(code::INVALID_ARGUMENT);
    nothing_stored(&server, &lie);
}

#[tokio::test]
async fn ranges_that_no_upload_has() {
    let server = Running::start(ServerOptions::default()).await;
    let client = server.session().await;
    let digest = hash::bytes(&pattern(SMALL));
    for (start, length) in [
        (SMALL as u64 + 1, None),
        (u64::MAX, None),
        (0, Some(SMALL as u64 - 1)),
        (0, Some(SMALL as u64 + 1)),
        (1, Some(u64::MAX)),
        (1, None),
    ] {
        let answer = client.upload(&[metadata(&digest, start, length)]).await;
        answer.expect(code::INVALID_ARGUMENT);
        assert!(answer.details_have("metadata.range"), "{answer:?}");
    }
}

#[tokio::test]
async fn frames_that_lie() {
    let server = Running::start(ServerOptions::default()).await;
    let client = server.session().await;
    let data = pattern(LARGE);
    let digest = hash::bytes(&data);
    let meta = framed(metadata(&digest, 0, None));
    let long = |length: u32| [&[0][..], &length.to_be_bytes(), &[0x12, 0xff]].concat();
    for (bad, status) in [
        (long(u32::MAX), code::RESOURCE_EXHAUSTED),
        (long(16 * 1024 * 1024 + 1), code::RESOURCE_EXHAUSTED),
        (vec![1, 0, 0, 0, 0], code::INTERNAL),
        (vec![2, 0, 0, 0, 0], code::INVALID_ARGUMENT),
        // Truncated: in the head, in the key's value, in the payload.
        (vec![0, 0, 0], code::INVALID_ARGUMENT),
        (vec![0, 0, 0, 0, 9, 0x12], code::INVALID_ARGUMENT),
        (
            framed(chunk(&data))[..1000].to_vec(),
            code::INVALID_ARGUMENT,
        ),
        // A field that is longer than its message, and one of 2^64 - 1 bytes.
        (framed([0x12, 5, 1]), code::INVALID_ARGUMENT),
        (
            framed([0x12, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
            code::INVALID_ARGUMENT,
        ),
        // An endless varint, a group, an unknown wire type, the field number 0.
        (framed([0x80; 12]), code::INVALID_ARGUMENT),
        (framed([0x1b, 0x1c]), code::INVALID_ARGUMENT),
        (framed([0x1f]), code::INVALID_ARGUMENT),
        (framed([0x02, 0x00]), code::INVALID_ARGUMENT),
        // The chunk as a varint.
        (framed(number(2, 5)), code::INVALID_ARGUMENT),
    ] {
        let whole = [&meta[..], &framed(chunk(&data[..500])), &bad].concat();
        for body in [whole, bad.clone()] {
            let answer = client.send(UPLOAD, body).await;
            assert_eq!(answer.status, status, "{bad:?}: {answer:?}");
            nothing_stored(&server, &digest);
        }
    }
    // Metadata above 4 KiB, by its length alone.
    let long = framed(bytes(1, vec![0; 5000]));
    let answer = client.send(UPLOAD, long[..10].to_vec()).await;
    answer.expect(code::RESOURCE_EXHAUSTED);
}

#[tokio::test]
async fn download_requests_that_lie() {
    let server = Running::start(ServerOptions::default()).await;
    let client = server.session().await;
    let digest = server.cas.insert(&pattern(SMALL));
    let good = framed(metadata(&digest, 0, None));
    for (body, status) in [
        (vec![], code::INVALID_ARGUMENT),
        (good[..good.len() - 1].to_vec(), code::INVALID_ARGUMENT),
        ([&good[..], &good].concat(), code::INVALID_ARGUMENT),
        ([&good[..], &[0]].concat(), code::INVALID_ARGUMENT),
        (vec![0, 255, 255, 255, 255, 0x0a], code::INVALID_ARGUMENT),
        (vec![1, 0, 0, 0, 0], code::INTERNAL),
        (framed([0xff; 40]), code::INVALID_ARGUMENT),
        (framed(bytes(50, vec![0; 9000])), code::RESOURCE_EXHAUSTED),
    ] {
        let answer = client.send(DOWNLOAD, body).await;
        answer.expect(status);
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_parked() {
    for size in [SMALL, LARGE] {
        for reset in [true, false] {
            let server = Running::start(ServerOptions::default()).await;
            let client = server.session().await;
            let data = pattern(size);
            let digest = hash::bytes(&data);
            let part = size - size / 3;
            let mut call = client.call(UPLOAD, &[]).await;
            let meta = framed(metadata(&digest, 0, None));
            let head = framed(chunk(&data[..part]));
            call.send([meta, head].concat().into(), false).await;
            // An answer on the same connection tells that all of it was taken in.
            settled(&client).await;
            if reset {
                call.reset();
            } else {
                client.cut().await;
            }
            until("the upload is parked", || {
                server.cas.partial(&digest).is_some()
            })
            .await;
            let held = server.cas.partial(&digest).unwrap();
            assert!(held <= part, "{held}");

            let client = server.session().await;
            let rest = [metadata(&digest, held as u64, None), chunk(&data[held..])];
            client.upload(&rest).await.expect(code::OK);
            assert_eq!(server.cas.get(&digest), Some(data));
        }
    }
}

/// Calls until what was sent before has had its time.
async fn settled(client: &wire_harness::Client) {
    for _ in 0..20 {
        let absent = hash::bytes(b"absent");
        let answer = client.download(metadata(&absent, 0, None)).await;
        answer.expect(code::NOT_FOUND);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_stalled_upload_is_ended_and_parked() {
    let server = Running::start(impatient()).await;
    let client = server.session().await;
    for size in [SMALL, LARGE] {
        let data = pattern(size);
        let digest = hash::bytes(&data);
        let mut call = client.call(UPLOAD, &[]).await;
        let meta = framed(metadata(&digest, 0, None));
        let head = framed(chunk(&data[..size / 2]));
        call.send([meta, head].concat().into(), false).await;
        call.answer().await.expect(code::DEADLINE_EXCEEDED);
        assert_eq!(server.cas.partial(&digest), Some(size / 2));
    }
}

#[tokio::test]
async fn a_call_that_never_begins_is_ended() {
    let server = Running::start(impatient()).await;
    let client = server.session().await;
    for begun in [&b""[..], &[0, 0]] {
        let mut calls = Vec::new();
        for path in [
            UPLOAD,
            DOWNLOAD,
            "/zako.v1.store.Store/Stat",
            "/zako.v1.batch.Batch/BatchUpload",
        ] {
            let mut call = client.call(path, &[]).await;
            call.send(Bytes::from_static(begun), false).await;
            calls.push(call);
        }
        for call in calls {
            call.answer().await.expect(code::DEADLINE_EXCEEDED);
        }
    }
}

#[tokio::test]
async fn messages_without_bytes_keep_no_upload_alive() {
    let server = Running::start(impatient()).await;
    let client = server.session().await;
    let digest = hash::bytes(&pattern(LARGE));
    let mut call = client.call(UPLOAD, &[]).await;
    call.send(framed(metadata(&digest, 0, None)).into(), false)
        .await;
    let Call { response, mut send } = call;
    let dripping = tokio::spawn(async move {
        loop {
            let _ = send.send_data(framed(chunk(b"")).into(), false);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let head = tokio::time::timeout(Duration::from_secs(60), response)
        .await
        .expect("the server ends the call")
        .unwrap();
    assert_eq!(head.headers()["grpc-status"], "4");
    dripping.abort();
    nothing_stored(&server, &digest);
}

#[tokio::test]
async fn a_slow_store_is_not_a_stalled_sender() {
    let permits = Arc::new(Semaphore::new(0));
    let mut cas = MapCas::default();
    cas.hold_writes = Some(permits.clone());
    let server = Running::over(Arc::new(cas), impatient()).await;
    let client = server.session().await;
    let data = pattern(LARGE);
    let digest = hash::bytes(&data);
    let mut call = client.call(UPLOAD, &[]).await;
    let meta = framed(metadata(&digest, 0, None));
    call.send([meta, framed(chunk(&data[..10]))].concat().into(), false)
        .await;
    let cas = server.cas.clone();
    until("the store is asked to write", || {
        cas.counts.writers.load(Ordering::Relaxed) == 1
    })
    .await;
    tokio::time::sleep(2 * PATIENCE).await;
    permits.add_permits(1_000_000);
    call.send(framed(chunk(&data[10..])).into(), true).await;
    call.answer().await.expect(code::OK);
}

#[tokio::test]
async fn deadlines() {
    let server = Running::start(ServerOptions::default()).await;
    let client = server.session().await;
    let data = pattern(LARGE);
    let digest = hash::bytes(&data);
    let mut call = client.call(UPLOAD, &[("grpc-timeout", "3S")]).await;
    let meta = framed(metadata(&digest, 0, None));
    call.send([meta, framed(chunk(&data[..10]))].concat().into(), false)
        .await;
    call.answer().await.expect(code::DEADLINE_EXCEEDED);
    assert_eq!(server.cas.partial(&digest), Some(10));
    let passed = client.call(DOWNLOAD, &[("grpc-timeout", "1n")]).await;
    passed.answer().await.expect(code::DEADLINE_EXCEEDED);
    for bad in ["", "1", "S", "123456789S", "1.5S", "-1S"] {
        let call = client.call(UPLOAD, &[("grpc-timeout", bad)]).await;
        call.answer().await.expect(code::INVALID_ARGUMENT);
    }
}

#[tokio::test]
async fn what_the_store_says_is_told() {
    let server = Running::start(ServerOptions::default()).await;
    let client = server.session().await;
    let seconds = Duration::from_secs(77);
    for (kind, status, reason) in [
        (ErrorKind::NoSpace, code::RESOURCE_EXHAUSTED, "NO_SPACE"),
        (ErrorKind::Corrupt, code::DATA_LOSS, "CORRUPT"),
        (ErrorKind::Io, code::INTERNAL, "IO"),
        (ErrorKind::Stale, code::ABORTED, "STALE"),
        (ErrorKind::Closed, code::UNAVAILABLE, "CLOSED"),
        (ErrorKind::Unavailable, code::UNAVAILABLE, "UNAVAILABLE"),
        (ErrorKind::Timeout, code::DEADLINE_EXCEEDED, "TIMEOUT"),
        (
            ErrorKind::Unsupported,
            code::FAILED_PRECONDITION,
            "UNSUPPORTED",
        ),
        (ErrorKind::Mismatch, code::INVALID_ARGUMENT, "MISMATCH"),
    ] {
        for size in [SMALL, LARGE] {
            let data = pattern(size);
            let digest = hash::bytes(&data);
            let error = CasError::new(kind, "said the store").with_retry_after(seconds);
            server.cas.fail(&digest, error);
            let uploaded = client
                .upload(&[metadata(&digest, 0, None), chunk(&data)])
                .await;
            let downloaded = client.download(metadata(&digest, 0, None)).await;
            for answer in [uploaded, downloaded] {
                answer.expect(status);
                assert!(answer.text.contains("said%20the%20store"), "{answer:?}");
                assert!(answer.details_have(reason), "{answer:?}");
                assert!(answer.details_have("google.rpc.RetryInfo"), "{answer:?}");
            }
            nothing_stored(&server, &digest);
        }
    }
}

#[tokio::test]
async fn damage_found_on_the_way_ends_the_download() {
    for damaged_after in [0, 500_000, LARGE as u64] {
        let mut cas = MapCas::default();
        cas.step = 100_000;
        cas.damaged_after = Some(damaged_after);
        let server = Running::over(Arc::new(cas), ServerOptions::default()).await;
        let client = server.session().await;
        let digest = server.cas.insert(&pattern(LARGE));
        let answer = client.download(metadata(&digest, 0, None)).await;
        answer.expect(code::DATA_LOSS);
        assert!(answer.details_have("CORRUPT") && answer.details_have(&digest.to_string()));
        assert_eq!(answer.data().len() as u64, damaged_after);
    }
}
