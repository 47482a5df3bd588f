//! One content under the names of both protocols.
#![allow(clippy::unwrap_used)]

mod support;

use bytes::Bytes;
use support::streams::{read, read_part, to_read, to_write, write};
use support::{TestServer, blake3, random, sha256};
use zako_core::cas::{Cas, CasExt, Maintain};
use zako_core::client::{Client, ClientOptions};
use zako_reapi::digest::DigestFunction;

async fn own_client(server: &TestServer) -> Client {
    let url = format!("http://{}", server.addr).parse().unwrap();
    Client::connect(&url, ClientOptions::default())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_blob_is_stored_once_and_found_by_all_its_names() {
    let server = TestServer::start().await;
    let own = own_client(&server).await;
    for size in [1000, 3 << 20] {
        let data = random(size);
        let before = server.store.usage().await.unwrap().blobs;
        for function in DigestFunction::ALL {
            let digest = function.digest(&data);
            write(&server.channel, &to_write(&digest), &data)
                .await
                .unwrap();
            assert!(read(&server.channel, &to_read(&digest)).await.unwrap() == data);
        }
        let after = server.store.usage().await.unwrap().blobs;
        assert_eq!(after - before, 1, "stored once");
        let name = zako_digest::hash::bytes(&data);
        assert_eq!(own.fetch_bytes(&name).await.unwrap(), data);
        // Gone is gone, by whatever name.
        assert!(server.store.delete(&name).await.unwrap());
        for function in DigestFunction::ALL {
            let digest = function.digest(&data);
            assert!(read(&server.channel, &to_read(&digest)).await.is_err());
        }
        // And comes back for all when one brings it.
        own.put(&name, data.clone()).await.unwrap();
        for function in DigestFunction::ALL {
            let digest = function.digest(&data);
            assert!(read(&server.channel, &to_read(&digest)).await.unwrap() == data);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn what_came_by_the_own_protocol_is_read_by_build_tools() {
    let server = TestServer::start().await;
    let own = own_client(&server).await;
    for size in [0usize, 1000, 3 << 20] {
        let data: Bytes = random(size);
        own.put_bytes(data.clone()).await.unwrap();
        let digest = blake3(&data);
        assert!(read(&server.channel, &to_read(&digest)).await.unwrap() == data);
        let part = read_part(&server.channel, &to_read(&digest), size as i64 / 2, 0).await;
        assert!(part.unwrap() == data[size / 2..]);
        // Nobody has told its SHA-256; who sends it under that stores nothing new.
        let before = server.store.usage().await.unwrap().blobs;
        write(&server.channel, &to_write(&sha256(&data)), &data)
            .await
            .unwrap();
        assert_eq!(server.store.usage().await.unwrap().blobs, before);
    }
    server.stop().await;
}
