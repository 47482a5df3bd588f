//! Blobs are written by ByteStream.
#![allow(clippy::unwrap_used)]

mod support;

use bytes::Bytes;
use support::streams::{
    MESSAGE, messages, query, read, send, to_read, to_write, unfinished, write,
};
use support::{TestServer, blake3, random, sha256};
use tonic::Code;
use zako_reapi::digest::{DigestFunction, RemoteDigest};
use zako_reapi::proto::bytestream::WriteRequest;

/// Small ones, one at the bound between small and large, and large ones.
const SIZES: [usize; 6] = [0, 1, 8192, 1 << 20, (1 << 20) + 1, 5 << 20];

async fn assert_absent(server: &TestServer, digest: &RemoteDigest) {
    let error = read(&server.channel, &to_read(digest)).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
}

#[tokio::test]
async fn blobs_of_all_sizes_and_functions_are_written_and_read() {
    let server = TestServer::start().await;
    for function in DigestFunction::ALL {
        for size in SIZES {
            let data = random(size);
            let digest = function.digest(&data);
            let committed = write(&server.channel, &to_write(&digest), &data).await;
            assert_eq!(committed.unwrap(), size as i64, "{digest}");
            let back = read(&server.channel, &to_read(&digest)).await.unwrap();
            assert!(back == data, "{digest}");
            let status = query(&server.channel, &to_write(&digest)).await.unwrap();
            assert_eq!(
                (status.committed_size, status.complete),
                (size as i64, true)
            );
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_blob_stored_by_one_hash_is_found_by_its_blake3() {
    let server = TestServer::start().await;
    for size in [100, 3 << 20] {
        let data = random(size);
        let (sha256, own) = (sha256(&data), blake3(&data));
        write(&server.channel, &to_write(&sha256), &data)
            .await
            .unwrap();
        assert!(read(&server.channel, &to_read(&own)).await.unwrap() == data);
        // It is there under its own name, so nothing need be sent.
        let early = vec![WriteRequest {
            resource_name: to_write(&own),
            ..WriteRequest::default()
        }];
        assert_eq!(send(&server.channel, early).await.unwrap(), size as i64);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_blob_that_is_there_is_not_read_again() {
    let server = TestServer::start().await;
    let data = random(3 << 20);
    for digest in [sha256(&data), blake3(&data)] {
        write(&server.channel, &to_write(&digest), &data)
            .await
            .unwrap();
        // A client that waits for the answer before it sends on.
        let (more, rest) = tokio::sync::mpsc::channel(1);
        let first = unfinished(&to_write(&digest), 0, &data.slice(..MESSAGE));
        more.send(first[0].clone()).await.unwrap();
        let stream = tokio_stream::wrappers::ReceiverStream::new(rest);
        let mut client = support::streams::client(&server.channel);
        let answer = client.write(stream).await.unwrap().into_inner();
        assert_eq!(answer.committed_size, data.len() as i64);
    }
    server.stop().await;
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_not_stored() {
    let server = TestServer::start().await;
    for size in [1000, 2 << 20] {
        for function in [DigestFunction::Sha256, DigestFunction::Blake3] {
            let data = random(size);
            let digest = function.digest(&data);
            let name = to_write(&digest);
            let longer: Bytes = [&data[..], b"x"].concat().into();
            for wrong in [random(size), data.slice(1..), longer] {
                let error = write(&server.channel, &name, &wrong).await.unwrap_err();
                assert_eq!(error.code(), Code::InvalidArgument, "{error}");
                assert_absent(&server, &digest).await;
                let status = query(&server.channel, &name).await.unwrap();
                assert_eq!((status.committed_size, status.complete), (0, false));
            }
            // A right hash with a wrong size names no blob.
            let sized = RemoteDigest::parse(Some(function), &digest.hex(), digest.size() - 1);
            let sized = sized.unwrap();
            let error = write(&server.channel, &to_write(&sized), &data.slice(1..)).await;
            assert_eq!(error.unwrap_err().code(), Code::InvalidArgument);
            assert_absent(&server, &sized).await;
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_write_that_breaks_the_rules_is_refused() {
    let server = TestServer::start().await;
    for size in [200_000, 2 << 20] {
        let data = random(size);
        let digest = sha256(&data);
        let name = to_write(&digest);
        let good = messages(&name, 0, &data);
        type Spoil = fn(&mut Vec<WriteRequest>);
        let spoils: [(Spoil, &str); 9] = [
            (|all| all.clear(), "no message"),
            (|all| all[0].resource_name.clear(), "no name"),
            (|all| all[0].resource_name = "nowhere".into(), "lacks blobs"),
            (
                |all| all[1].resource_name = "other".into(),
                "another resource",
            ),
            (|all| all[1].write_offset += 1, "write_offset is"),
            (|all| all[1].write_offset = 0, "write_offset is"),
            (|all| all[0].write_offset = -1, "write_offset is -1"),
            (
                |all| {
                    let last = all.last().unwrap().clone();
                    all.push(WriteRequest {
                        write_offset: last.write_offset + last.data.len() as i64,
                        data: Bytes::new(),
                        ..last
                    });
                },
                "follows the one that finished",
            ),
            (
                |all| all[1].finish_write = true,
                "follows the one that finished",
            ),
        ];
        for (spoil, text) in spoils {
            let mut bad = good.clone();
            spoil(&mut bad);
            let error = send(&server.channel, bad).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{error}");
            assert!(error.message().contains(text), "{text}: {error}");
            assert_absent(&server, &digest).await;
        }
        // Names may be said again, and the end alone.
        let mut good = good;
        let last = good.last_mut().unwrap();
        last.finish_write = false;
        let end = WriteRequest {
            write_offset: last.write_offset + last.data.len() as i64,
            finish_write: true,
            ..WriteRequest::default()
        };
        good.push(end);
        for message in &mut good {
            message.resource_name.clone_from(&name);
        }
        assert_eq!(send(&server.channel, good).await.unwrap(), size as i64);
    }
    server.stop().await;
}

#[tokio::test]
async fn many_writes_of_one_blob_at_once_store_it_once() {
    let server = TestServer::start().await;
    for size in [8192, 2 << 20] {
        let data = random(size);
        for digest in [sha256(&data), blake3(&data)] {
            let name = to_write(&digest);
            let writes = (0..8).map(|_| write(&server.channel, &name, &data));
            for committed in futures::future::join_all(writes).await {
                assert_eq!(committed.unwrap(), size as i64);
            }
            let back = read(&server.channel, &to_read(&digest)).await.unwrap();
            assert!(back == data);
        }
    }
    server.stop().await;
}
