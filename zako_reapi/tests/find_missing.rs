//! Which blobs are missing.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use prost::Message;
use support::{TestServer, blake3, random, sha256};
use tonic::{Code, Status};
use zako_core::cas::Cas;
use zako_core::store::StoreOptions;
use zako_reapi::CacheOptions;
use zako_reapi::digest::{DigestFunction, RemoteDigest};
use zako_reapi::proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use zako_reapi::proto::reapi::{Digest, FindMissingBlobsRequest, digest_function};

async fn find(server: &TestServer, blobs: &[RemoteDigest]) -> Result<Vec<Digest>, Status> {
    let function = blobs.first().map(|digest| digest.function().wire() as i32);
    let digests = blobs.iter().map(|digest| digest.to_wire()).collect();
    ask(server, digests, function.unwrap_or_default()).await
}

async fn ask(
    server: &TestServer,
    blob_digests: Vec<Digest>,
    digest_function: i32,
) -> Result<Vec<Digest>, Status> {
    let request = FindMissingBlobsRequest {
        instance_name: "an/instance".to_owned(),
        blob_digests,
        digest_function,
    };
    let mut client = ContentAddressableStorageClient::new(server.channel.clone())
        .max_decoding_message_size(64 << 20)
        .max_encoding_message_size(64 << 20);
    let response = client.find_missing_blobs(request).await?;
    Ok(response.into_inner().missing_blob_digests)
}

#[tokio::test]
async fn the_missing_come_in_the_order_asked() {
    let server = TestServer::start().await;
    for function in DigestFunction::ALL {
        let blobs: Vec<_> = (0..6000).map(|_| random(20)).collect();
        let digests: Vec<_> = blobs.iter().map(|data| function.digest(data)).collect();
        let stored = digests.iter().zip(&blobs).step_by(3);
        let stored = stored
            .map(|(digest, data)| (*digest, data.clone()))
            .collect();
        for stored in server.cache.put_batch(stored).await {
            stored.unwrap();
        }
        let missing = |digests: &[RemoteDigest]| -> Vec<Digest> {
            let all = digests.iter().enumerate();
            all.filter(|(at, _)| at % 3 != 0)
                .map(|(_, digest)| digest.to_wire())
                .collect()
        };
        assert_eq!(find(&server, &digests).await.unwrap(), missing(&digests));
        // A blob that is asked for twice is answered twice.
        let twice = [digests[1], digests[0], digests[1]];
        let answer = find(&server, &twice).await.unwrap();
        assert_eq!(answer, [digests[1].to_wire(), digests[1].to_wire()]);
    }
    assert!(find(&server, &[]).await.unwrap().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn the_empty_blob_is_never_missing() {
    let server = TestServer::start().await;
    for function in DigestFunction::ALL {
        assert!(
            find(&server, &[function.digest(b"")])
                .await
                .unwrap()
                .is_empty()
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn a_hash_tells_its_function_where_none_is_named() {
    let server = TestServer::start().await;
    let data = random(100);
    for digest in [sha256(&data), DigestFunction::Sha1.digest(&data)] {
        server.cache.put(digest, data.clone()).await.unwrap();
        let upper = Digest {
            hash: digest.hex().to_uppercase(),
            size_bytes: 100,
        };
        assert!(ask(&server, vec![upper], 0).await.unwrap().is_empty());
        // A missing one is told as it was asked for.
        let other = Digest {
            hash: digest.hex().to_uppercase(),
            size_bytes: 101,
        };
        let missing = ask(&server, vec![other.clone()], 0).await.unwrap();
        assert_eq!(missing, [other]);
    }
    let own = blake3(&data).to_wire();
    let missing = ask(&server, vec![own.clone()], 0).await.unwrap();
    assert_eq!(missing, std::slice::from_ref(&own));
    let blake3 = digest_function::Value::Blake3 as i32;
    assert!(ask(&server, vec![own], blake3).await.unwrap().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn hundreds_of_thousands_are_asked_for_at_once() {
    let server = TestServer::start().await;
    let digests: Vec<_> = (0..200_000u32)
        .map(|at| sha256(&at.to_le_bytes()))
        .collect();
    let missing = find(&server, &digests).await.unwrap();
    assert_eq!(missing.len(), digests.len());
    assert_eq!(missing[199_999], digests[199_999].to_wire());
    server.stop().await;
}

#[tokio::test]
async fn what_is_present_is_leased() {
    let cache = CacheOptions::default();
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let server = TestServer::over(dir, StoreOptions::default(), cache, Default::default()).await;
    let data = random(100);
    let own = zako_digest::hash::bytes(&data);
    server.cache.put(sha256(&data), data.clone()).await.unwrap();
    assert_eq!(
        server.store.stat(&own).await.unwrap().leased_for,
        Duration::ZERO
    );
    assert!(find(&server, &[sha256(&data)]).await.unwrap().is_empty());
    let leased = server.store.stat(&own).await.unwrap().leased_for;
    assert!(leased > Duration::from_secs(30 * 60), "{leased:?}");
    server.stop().await;
}

#[tokio::test]
async fn what_is_no_digest_is_told_why() {
    let server = TestServer::start().await;
    let digest = |hash: String, size_bytes| vec![Digest { hash, size_bytes }];
    for (digests, function, text) in [
        (digest("ab".repeat(32), -1), 0, "size is -1"),
        (digest("ab".repeat(31), 1), 0, "hex digits"),
        (digest("x".repeat(64), 1), 0, "not a hex digit"),
        (digest("ab".repeat(32), 1), 3, "MD5"),
        (digest("ab".repeat(32), 1), 2, "sha1 has 40"),
        (digest("ab".repeat(32), 1), 77, "not offered"),
        (vec![Digest::default()], 0, "hex digits, not 0"),
    ] {
        let error = ask(&server, digests, function).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{text}: {error}");
        assert!(error.message().contains(text), "{text}: {error}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_request_has_a_bound() {
    let mut options = CacheOptions::default();
    options.max_message_bytes = 100_000;
    let server = TestServer::with(options, Default::default()).await;
    let digests = vec![sha256(b"x"); 2000];
    let length = FindMissingBlobsRequest {
        blob_digests: digests.iter().map(|digest| digest.to_wire()).collect(),
        ..FindMissingBlobsRequest::default()
    }
    .encoded_len();
    assert!(length > 100_000);
    let error = find(&server, &digests).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.message().contains("100005 bytes"), "{error}");
    assert_eq!(find(&server, &digests[..1000]).await.unwrap().len(), 1000);
    server.stop().await;
}
