//! Blobs are read by ByteStream.
#![allow(clippy::unwrap_used)]

mod support;

use support::streams::{client, path, read, read_part, to_read, to_write, write};
use support::{TestServer, blake3, random, sha256};
use tonic::Code;
use zako_reapi::digest::DigestFunction;
use zako_reapi::proto::bytestream::ReadRequest;

#[tokio::test]
async fn parts_are_those_of_the_blob() {
    let server = TestServer::start().await;
    for size in [0usize, 1, 10_000, 3 << 20] {
        let data = random(size);
        for digest in [sha256(&data), blake3(&data)] {
            write(&server.channel, &to_write(&digest), &data)
                .await
                .unwrap();
            let name = to_read(&digest);
            for offset in [0, 1, size / 2, size] {
                if offset > size {
                    continue;
                }
                for limit in [0, 1, size / 3, size, size + 100, i64::MAX as usize] {
                    let end = match limit {
                        0 => size,
                        limit => size.min(offset.saturating_add(limit)),
                    };
                    let part = read_part(&server.channel, &name, offset as i64, limit as i64);
                    assert!(part.await.unwrap() == data[offset..end], "{offset} {limit}");
                }
            }
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_told_why() {
    let server = TestServer::start().await;
    let data = random(1000);
    let digest = sha256(&data);
    write(&server.channel, &to_write(&digest), &data)
        .await
        .unwrap();
    let name = to_read(&digest);
    for (offset, limit, code) in [
        (-1, 0, Code::OutOfRange),
        (1001, 0, Code::OutOfRange),
        (i64::MAX, 0, Code::OutOfRange),
        (0, -1, Code::InvalidArgument),
    ] {
        let error = read_part(&server.channel, &name, offset, limit).await;
        let error = error.unwrap_err();
        assert_eq!(error.code(), code, "{offset} {limit}: {error}");
    }
    let absent = sha256(b"never stored");
    for (name, code, text) in [
        (to_read(&absent), Code::NotFound, absent.hex()),
        (
            to_read(&blake3(b"never")),
            Code::NotFound,
            "not here".into(),
        ),
        (to_write(&digest), Code::InvalidArgument, "no upload".into()),
        (String::new(), Code::InvalidArgument, "no name".into()),
        (
            "blobs/12/3".into(),
            Code::InvalidArgument,
            "hex digits".into(),
        ),
    ] {
        let error = read(&server.channel, &name).await.unwrap_err();
        assert_eq!(error.code(), code, "{name}: {error}");
        assert!(error.message().contains(&text), "{name}: {error}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_empty_blob_is_always_there() {
    let server = TestServer::start().await;
    for function in DigestFunction::ALL {
        let name = to_read(&function.digest(b""));
        assert!(read(&server.channel, &name).await.unwrap().is_empty());
    }
    server.stop().await;
}

#[tokio::test]
async fn instances_and_slashes_don_t_matter() {
    let server = TestServer::start().await;
    let data = random(5000);
    let digest = sha256(&data);
    write(&server.channel, &to_write(&digest), &data)
        .await
        .unwrap();
    let path = path(&digest);
    for name in [
        format!("blobs/{path}"),
        format!("/blobs/{path}"),
        format!("x/blobs/sha256/{path}"),
        format!("/x/y/z/blobs/{path}/a/file"),
    ] {
        assert!(
            read(&server.channel, &name).await.unwrap() == data,
            "{name}"
        );
    }
    server.stop().await;
}

/// The stream's window bounds what is on its way, so the blob is not held.
#[tokio::test]
async fn who_reads_nothing_is_waited_for_and_others_are_served() {
    let server = TestServer::start().await;
    let data = random(32 << 20);
    let digest = sha256(&data);
    write(&server.channel, &to_write(&digest), &data)
        .await
        .unwrap();
    let request = || ReadRequest {
        resource_name: to_read(&digest),
        ..ReadRequest::default()
    };
    let mut unread = Vec::new();
    for _ in 0..20 {
        let stream = client(&server.channel).read(request()).await.unwrap();
        unread.push(stream.into_inner());
    }
    let small = random(100);
    let small_digest = sha256(&small);
    // On another connection: the unread streams fill the window of theirs.
    let endpoint = format!("http://{}", server.addr);
    let endpoint = tonic::transport::Endpoint::from_shared(endpoint).unwrap();
    let other = endpoint.connect().await.unwrap();
    write(&other, &to_write(&small_digest), &small)
        .await
        .unwrap();
    assert!(read(&other, &to_read(&small_digest)).await.unwrap() == small);
    drop(unread);
    assert!(read(&server.channel, &to_read(&digest)).await.unwrap() == data);
    server.stop().await;
}
