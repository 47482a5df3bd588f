//! Directories below a root.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;

use prost::Message;
use support::TestServer;
use tonic::Code;
use zako_core::cas::Cas;
use zako_reapi::digest::{DigestFunction, RemoteDigest};
use zako_reapi::proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use zako_reapi::proto::reapi::{
    Directory, DirectoryNode, GetTreeRequest, GetTreeResponse, SymlinkNode,
};

/// A directory that is like no other, above `below`.
fn directory(name: &str, below: &[RemoteDigest]) -> Directory {
    let node = |(at, digest): (usize, &RemoteDigest)| DirectoryNode {
        name: format!("{at}"),
        digest: Some(digest.to_wire()),
    };
    Directory {
        directories: below.iter().enumerate().map(node).collect(),
        symlinks: vec![SymlinkNode {
            name: name.to_owned(),
            target: "/".to_owned(),
            ..SymlinkNode::default()
        }],
        ..Directory::default()
    }
}

async fn store(
    server: &TestServer,
    function: DigestFunction,
    directory: &Directory,
) -> RemoteDigest {
    let data = directory.encode_to_vec();
    let digest = function.digest(&data);
    server.cache.put(digest, data.into()).await.unwrap();
    digest
}

async fn tree(server: &TestServer, request: GetTreeRequest) -> Result<Vec<GetTreeResponse>, Code> {
    let mut client = ContentAddressableStorageClient::new(server.channel.clone());
    let answer = client.get_tree(request).await;
    let mut answer = answer.map_err(|status| status.code())?.into_inner();
    let mut pages = Vec::new();
    while let Some(page) = answer.message().await.map_err(|status| status.code())? {
        pages.push(page);
    }
    Ok(pages)
}

fn request(root: &RemoteDigest) -> GetTreeRequest {
    GetTreeRequest {
        root_digest: Some(root.to_wire()),
        digest_function: root.function().wire() as i32,
        ..GetTreeRequest::default()
    }
}

/// The directories of all pages, by the names of their links.
fn names(pages: &[GetTreeResponse]) -> Vec<&str> {
    let directories = pages.iter().flat_map(|page| &page.directories);
    directories
        .map(|directory| &*directory.symlinks[0].name)
        .collect()
}

#[tokio::test]
async fn directories_come_breadth_first_and_once() {
    let server = TestServer::start().await;
    for function in [DigestFunction::Sha256, DigestFunction::Blake3] {
        let leaf = directory("leaf", &[]);
        let leaf_digest = store(&server, function, &leaf).await;
        let left = directory("left", &[leaf_digest, leaf_digest]);
        let left_digest = store(&server, function, &left).await;
        let right = directory("right", &[left_digest, leaf_digest]);
        let right_digest = store(&server, function, &right).await;
        let root = directory("root", &[left_digest, right_digest, left_digest]);
        let root_digest = store(&server, function, &root).await;

        let pages = tree(&server, request(&root_digest)).await.unwrap();
        let expected = ["root", "left", "right", "leaf"];
        assert_eq!(names(&pages), expected);
        assert_eq!(pages.last().unwrap().next_page_token, "");
        assert_eq!(pages[0].directories[0], root);

        let mut paged = request(&root_digest);
        paged.page_size = 3;
        let pages = tree(&server, paged.clone()).await.unwrap();
        let sizes: Vec<usize> = pages.iter().map(|page| page.directories.len()).collect();
        assert_eq!(sizes, [3, 1]);
        assert_eq!(names(&pages), expected);
        // Who lost the stream after the first page goes on behind it.
        paged.page_token = pages[0].next_page_token.clone();
        let rest = tree(&server, paged).await.unwrap();
        assert_eq!(names(&rest), ["leaf"]);
        assert_eq!(rest[0].next_page_token, "");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_there_of_a_tree_is_told() {
    let server = TestServer::start().await;
    let function = DigestFunction::Sha256;
    let leaf = store(&server, function, &directory("leaf", &[])).await;
    let absent = directory("absent", &[]);
    let absent_digest = function.digest(&absent.encode_to_vec());
    let root = directory("root", &[absent_digest, leaf]);
    let root = store(&server, function, &root).await;
    let pages = tree(&server, request(&root)).await.unwrap();
    assert_eq!(names(&pages), ["root", "leaf"]);

    assert_eq!(
        tree(&server, request(&absent_digest)).await,
        Err(Code::NotFound)
    );
    let file = bytes::Bytes::from_static(b"\x0a\xff no directory");
    let digest = function.digest(&file);
    server.cache.put(digest, file).await.unwrap();
    assert_eq!(tree(&server, request(&digest)).await, Err(Code::NotFound));
    server.stop().await;
}

#[tokio::test]
async fn an_empty_directory_is_a_tree_though_nobody_stored_it() {
    let server = TestServer::start().await;
    let root = DigestFunction::Sha256.digest(&[]);
    let pages = tree(&server, request(&root)).await.unwrap();
    assert_eq!(pages.len(), 1);
    assert_eq!(pages[0].directories, [Directory::default()]);
    server.stop().await;
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let server = TestServer::start().await;
    let root = store(&server, DigestFunction::Sha256, &directory("root", &[])).await;
    let mut negative = request(&root);
    negative.page_size = -1;
    let mut token = request(&root);
    token.page_token = "elsewhere".to_owned();
    let mut function = request(&root);
    function.digest_function = 3;
    for refused in [GetTreeRequest::default(), negative, token, function] {
        assert_eq!(tree(&server, refused).await, Err(Code::InvalidArgument));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_large_tree_comes_whole_in_messages_that_clients_take() {
    let server = TestServer::start().await;
    let function = DigestFunction::Blake3;
    let padding = "x".repeat(4096);
    let mut level = Vec::new();
    for at in 0..1500 {
        let leaf = directory(&format!("{at} {padding}"), &[]);
        level.push(store(&server, function, &leaf).await);
    }
    let root = store(&server, function, &directory("root", &level)).await;
    let pages = tree(&server, request(&root)).await.unwrap();
    assert!(pages.len() > 4);
    let mut seen = HashMap::new();
    for page in &pages {
        assert!(page.encoded_len() < 2 << 20);
        for directory in &page.directories {
            *seen.entry(directory.symlinks[0].name.clone()).or_insert(0) += 1;
        }
    }
    assert_eq!(seen.len(), 1501);
    assert!(seen.values().all(|count| *count == 1));
    server.stop().await;
}

#[tokio::test]
async fn what_is_told_is_leased() {
    let server = TestServer::start().await;
    let function = DigestFunction::Blake3;
    let leaf = store(&server, function, &directory("leaf", &[])).await;
    let root = store(&server, function, &directory("root", &[leaf])).await;
    for digest in [&root, &leaf] {
        let before = server.store.stat(&digest.blake3().unwrap()).await.unwrap();
        assert!(before.leased_for.is_zero());
    }
    tree(&server, request(&root)).await.unwrap();
    for digest in [&root, &leaf] {
        let after = server.store.stat(&digest.blake3().unwrap()).await.unwrap();
        assert!(after.leased_for.as_secs() > 3000);
    }
    server.stop().await;
}
