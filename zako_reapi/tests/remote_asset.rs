//! Assets, as BuildStream pushes and fetches them.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::SystemTime;

use bytes::Bytes;
use prost::Message;
use prost_types::Timestamp;
use support::{TestServer, random};
use tonic::Code;
use zako_core::cas::Cas;
use zako_core::server::ServerOptions;
use zako_reapi::digest::{DigestFunction, RemoteDigest};
use zako_reapi::proto::asset::fetch_client::FetchClient;
use zako_reapi::proto::asset::push_client::PushClient;
use zako_reapi::proto::asset::{
    FetchBlobRequest, FetchBlobResponse, FetchDirectoryRequest, FetchDirectoryResponse,
    PushBlobRequest, PushDirectoryRequest, Qualifier,
};
use zako_reapi::proto::reapi::{Directory, FileNode};
use zako_reapi::{ActionUpdates, CacheOptions};

const URN: &str = "urn:fdc:buildstream.build:2020:artifact:project/element/key";

async fn push(server: &TestServer, request: PushBlobRequest) -> Result<(), Code> {
    let mut client = PushClient::new(server.channel.clone());
    let answer = client.push_blob(request).await;
    answer.map(|_| ()).map_err(|status| status.code())
}

async fn fetch(server: &TestServer, request: FetchBlobRequest) -> Result<FetchBlobResponse, Code> {
    let mut client = FetchClient::new(server.channel.clone());
    let answer = client.fetch_blob(request).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| status.code())
}

async fn fetch_directory(server: &TestServer, uri: &str) -> Result<FetchDirectoryResponse, Code> {
    let mut client = FetchClient::new(server.channel.clone());
    let request = FetchDirectoryRequest {
        uris: uris(&[uri]),
        ..FetchDirectoryRequest::default()
    };
    let answer = client.fetch_directory(request).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| status.code())
}

fn uris(uris: &[&str]) -> Vec<String> {
    uris.iter().map(|uri| (*uri).to_owned()).collect()
}

fn qualifiers(all: &[(&str, &str)]) -> Vec<Qualifier> {
    let qualifier = |(name, value): &(&str, &str)| Qualifier {
        name: (*name).to_owned(),
        value: (*value).to_owned(),
    };
    all.iter().map(qualifier).collect()
}

fn pushed(digest: &RemoteDigest, names: &[&str]) -> PushBlobRequest {
    PushBlobRequest {
        uris: uris(names),
        blob_digest: Some(digest.to_wire()),
        digest_function: digest.function().wire() as i32,
        ..PushBlobRequest::default()
    }
}

fn wanted(names: &[&str]) -> FetchBlobRequest {
    FetchBlobRequest {
        uris: uris(names),
        ..FetchBlobRequest::default()
    }
}

async fn store(server: &TestServer, function: DigestFunction, data: &Bytes) -> RemoteDigest {
    let digest = function.digest(data);
    server.cache.put(digest, data.clone()).await.unwrap();
    digest
}

#[tokio::test]
async fn buildstreams_probes_are_answered_as_it_expects() {
    let server = TestServer::start().await;
    let nothing = push(&server, PushBlobRequest::default()).await;
    assert_eq!(nothing, Err(Code::InvalidArgument));
    let nothing = fetch(&server, FetchBlobRequest::default()).await;
    assert_eq!(nothing.unwrap_err(), Code::InvalidArgument);
    let unknown = fetch(&server, wanted(&[URN])).await;
    assert_eq!(unknown.unwrap_err(), Code::NotFound);
    server.stop().await;
}

#[tokio::test]
async fn a_blob_is_found_by_each_of_its_uris() {
    let server = TestServer::start().await;
    for function in [DigestFunction::Sha256, DigestFunction::Blake3] {
        let digest = store(&server, function, &random(100)).await;
        let (strong, weak) = (
            format!("{URN}{digest}/strong"),
            format!("{URN}{digest}/weak"),
        );
        push(&server, pushed(&digest, &[&strong, &weak]))
            .await
            .unwrap();
        for uri in [&*strong, &*weak] {
            // The first one that is known counts.
            let found = fetch(&server, wanted(&["unknown", uri, "more"]))
                .await
                .unwrap();
            assert_eq!(found.uri, uri);
            assert_eq!(found.blob_digest, Some(digest.to_wire()));
            assert_eq!(found.digest_function, function.wire() as i32);
            assert!(found.status.is_none() && found.expires_at.is_none());
        }
        let mut by_function = wanted(&[&strong]);
        by_function.digest_function = DigestFunction::Sha1.wire() as i32;
        assert_eq!(
            fetch(&server, by_function).await.unwrap_err(),
            Code::NotFound
        );
        let mut elsewhere = wanted(&[&strong]);
        elsewhere.instance_name = "elsewhere".to_owned();
        assert_eq!(fetch(&server, elsewhere).await.unwrap_err(), Code::NotFound);
        assert_eq!(
            fetch_directory(&server, &strong).await.unwrap_err(),
            Code::NotFound
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn qualifiers_tell_assets_apart_in_any_order() {
    let server = TestServer::start().await;
    let digest = store(&server, DigestFunction::Sha256, &random(100)).await;
    let mut request = pushed(&digest, &[URN]);
    request.qualifiers = qualifiers(&[("a", "1"), ("b", "2")]);
    push(&server, request).await.unwrap();
    let with = |all: &[(&str, &str)]| FetchBlobRequest {
        qualifiers: qualifiers(all),
        ..wanted(&[URN])
    };
    let found = fetch(&server, with(&[("b", "2"), ("a", "1")]))
        .await
        .unwrap();
    assert_eq!(found.qualifiers, qualifiers(&[("b", "2"), ("a", "1")]));
    for others in [
        &[][..],
        &[("a", "1")],
        &[("a", "2"), ("b", "1")],
        &[("ab", "12")],
    ] {
        let found = fetch(&server, with(others)).await;
        assert_eq!(found.unwrap_err(), Code::NotFound);
    }
    server.stop().await;
}

#[tokio::test]
async fn an_asset_is_gone_with_what_it_refers_to() {
    let server = TestServer::start().await;
    let function = DigestFunction::Sha256;
    let [blob, beside, below]: [Bytes; 3] = std::array::from_fn(|_| random(500));
    let directory = Bytes::from(
        Directory {
            files: vec![FileNode {
                name: "below".to_owned(),
                digest: Some(function.digest(&below).to_wire()),
                ..FileNode::default()
            }],
            ..Directory::default()
        }
        .encode_to_vec(),
    );
    let mut request = pushed(&function.digest(&blob), &[URN]);
    request.references_blobs = vec![function.digest(&beside).to_wire()];
    request.references_directories = vec![function.digest(&directory).to_wire()];
    push(&server, request).await.unwrap();
    let root = function.digest(&directory);
    let request = PushDirectoryRequest {
        uris: uris(&["dir"]),
        root_directory_digest: Some(root.to_wire()),
        ..PushDirectoryRequest::default()
    };
    let mut client = PushClient::new(server.channel.clone());
    client.push_directory(request).await.unwrap();
    for data in [&blob, &beside, &directory, &below] {
        let found = fetch(&server, wanted(&[URN])).await;
        assert_eq!(found.unwrap_err(), Code::NotFound);
        let found = fetch_directory(&server, "dir").await;
        assert_eq!(found.unwrap_err(), Code::NotFound);
        store(&server, function, data).await;
    }
    fetch(&server, wanted(&[URN])).await.unwrap();
    let found = fetch_directory(&server, "dir").await.unwrap();
    assert_eq!(found.root_directory_digest, Some(root.to_wire()));
    assert_eq!(found.uri, "dir");

    for data in [&blob, &beside, &directory, &below] {
        let own = zako_digest::hash::bytes(data);
        let stat = server.store.stat(&own).await.unwrap();
        assert!(stat.leased_for.as_secs() > 3000);
    }
    server
        .store
        .delete(&zako_digest::hash::bytes(&below))
        .await
        .unwrap();
    let found = fetch(&server, wanted(&[URN])).await;
    assert_eq!(found.unwrap_err(), Code::NotFound);
    let found = fetch_directory(&server, "dir").await;
    assert_eq!(found.unwrap_err(), Code::NotFound);
    server.stop().await;
}

#[tokio::test]
async fn assets_expire_and_may_be_too_old() {
    let server = TestServer::start().await;
    let digest = store(&server, DigestFunction::Sha256, &random(100)).await;
    let now = Timestamp::from(SystemTime::now()).seconds;
    let at = |seconds| Some(Timestamp { seconds, nanos: 0 });

    let mut request = pushed(&digest, &["past"]);
    request.expire_at = at(now - 10);
    push(&server, request).await.unwrap();
    let found = fetch(&server, wanted(&["past"])).await;
    assert_eq!(found.unwrap_err(), Code::NotFound);

    let mut request = pushed(&digest, &["future"]);
    request.expire_at = at(now + 100_000);
    push(&server, request).await.unwrap();
    let found = fetch(&server, wanted(&["future"])).await.unwrap();
    assert_eq!(found.expires_at, at(now + 100_000));

    let mut recent = wanted(&["future"]);
    recent.oldest_content_accepted = at(now);
    fetch(&server, recent.clone()).await.unwrap();
    recent.oldest_content_accepted = at(now + 50_000);
    assert_eq!(fetch(&server, recent).await.unwrap_err(), Code::NotFound);

    let mut request = pushed(&digest, &["never"]);
    request.expire_at = at(-1);
    assert_eq!(push(&server, request).await, Err(Code::InvalidArgument));
    server.stop().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let server = TestServer::start().await;
    let digest = DigestFunction::Sha256.digest(b"data");
    let many = vec!["uri"; 1025];
    let mut wrong = pushed(&digest, &[URN]);
    wrong.references_blobs = vec![Default::default()];
    let mut function = pushed(&digest, &[URN]);
    function.digest_function = 3;
    let mut none = pushed(&digest, &[URN]);
    none.blob_digest = None;
    for request in [pushed(&digest, &many), wrong, function, none] {
        assert_eq!(push(&server, request).await, Err(Code::InvalidArgument));
    }
    let found = fetch(&server, wanted(&many)).await;
    assert_eq!(found.unwrap_err(), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test]
async fn a_cache_that_takes_no_results_takes_no_assets() {
    for (updates, expected) in [
        (ActionUpdates::Refused, Err(Code::PermissionDenied)),
        (ActionUpdates::Dropped, Ok(())),
    ] {
        let mut options = CacheOptions::default();
        options.action_updates = updates;
        let server = TestServer::with(options, ServerOptions::default()).await;
        let digest = store(&server, DigestFunction::Sha256, &random(100)).await;
        assert_eq!(push(&server, pushed(&digest, &[URN])).await, expected);
        let found = fetch(&server, wanted(&[URN])).await;
        assert_eq!(found.unwrap_err(), Code::NotFound);
        server.stop().await;
    }
}
