//! Tokens used as they must not be.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod wire_harness;

use std::time::Duration;

use wire_harness::message::{chunk, metadata, number};
use wire_harness::{Answer, Client, DETAILS, Running, UPLOAD, code, pattern};
use zako_core::Digest;
use zako_core::server::ServerOptions;
use zako_digest::hash;

async fn running() -> (Running, Digest) {
    let server = Running::start(ServerOptions::default()).await;
    let digest = server.cas.insert(&pattern(100));
    (server, digest)
}

async fn get(client: &Client, digest: &Digest) -> Answer {
    client.download(metadata(digest, 0, None)).await
}

async fn put(client: &Client, data: &[u8]) -> Answer {
    let digest = hash::bytes(data);
    client
        .upload(&[metadata(&digest, 0, None), chunk(data)])
        .await
}

#[tokio::test]
async fn no_token_no_bytes() {
    let (server, digest) = running().await;
    let client = server.client().await;
    get(&client, &digest).await.expect(code::UNAUTHENTICATED);
    put(&client, b"x").await.expect(code::UNAUTHENTICATED);
    assert_eq!(server.cas.get(&hash::bytes(b"x")), None);
    for path in [
        "/zako.v1.batch.Batch/BatchUpload",
        "/zako.v1.batch.Batch/BatchDownload",
        "/zako.v1.store.Store/Delete",
    ] {
        // Refused before the message is looked at.
        let answer = client.send(path, vec![9; 3]).await;
        answer.expect(code::UNAUTHENTICATED);
    }
    for path in ["/zako.v1.store.Store/Stat", "/zako.v1.store.Store/Status"] {
        client.unary(path, b"").await.expect(code::OK);
    }
}

#[tokio::test]
async fn a_refused_upload_is_not_read() {
    let (server, _) = running().await;
    let client = server.client().await;
    let call = client.call(UPLOAD, &[]).await;
    // Nothing is sent, not even the end of the stream.
    call.answer().await.expect(code::UNAUTHENTICATED);
}

#[tokio::test]
async fn a_session_needs_its_token_once() {
    let (server, digest) = running().await;
    let mut client = server.session().await;
    get(&client, &digest).await.expect(code::OK);
    get(&client, &digest).await.expect(code::OK);
    client.token = None;
    get(&client, &digest).await.expect(code::OK);
    put(&client, b"x").await.expect(code::OK);
}

#[tokio::test]
async fn a_token_on_another_connection() {
    let (server, digest) = running().await;
    let first = server.session().await;
    get(&first, &digest).await.expect(code::OK);
    let mut second = server.client().await;
    second.token = first.token.clone();
    get(&second, &digest).await.expect(code::UNAUTHENTICATED);
    get(&first, &digest).await.expect(code::OK);
    // Nor when the first connection is gone.
    first.cut().await;
    get(&second, &digest).await.expect(code::UNAUTHENTICATED);
}

#[tokio::test]
async fn one_token_raced_from_many_connections_opens_one_session() {
    let (server, digest) = running().await;
    let token = server.client().await.negotiate().await;
    let mut clients = Vec::new();
    for _ in 0..16 {
        let mut client = server.client().await;
        client.token = Some(token.clone());
        clients.push(client);
    }
    let answers = futures::future::join_all(clients.iter().map(|c| get(c, &digest))).await;
    let opened = answers.iter().filter(|a| a.status == code::OK).count();
    let refused = answers.iter().filter(|a| a.status == code::UNAUTHENTICATED);
    assert_eq!((opened, refused.count()), (1, 15));
}

#[tokio::test]
async fn a_token_expires() {
    let (server, digest) = running().await;
    let client = server.session().await;
    server.clock.advance(Duration::from_secs(30));
    get(&client, &digest).await.expect(code::UNAUTHENTICATED);
}

#[tokio::test]
async fn a_session_idles_out() {
    let (server, digest) = running().await;
    let mut client = server.session().await;
    get(&client, &digest).await.expect(code::OK);
    server.clock.advance(Duration::from_secs(299));
    get(&client, &digest).await.expect(code::OK);
    server.clock.advance(Duration::from_secs(300));
    get(&client, &digest).await.expect(code::UNAUTHENTICATED);
    client.token = None;
    get(&client, &digest).await.expect(code::UNAUTHENTICATED);
    client.token = Some(client.negotiate().await);
    get(&client, &digest).await.expect(code::OK);
}

#[tokio::test]
async fn a_fresh_token_renews_a_session() {
    let (server, digest) = running().await;
    let mut client = server.session().await;
    get(&client, &digest).await.expect(code::OK);
    let old = client.token.clone();
    client.token = Some(client.negotiate_scope(1).await);
    get(&client, &digest).await.expect(code::OK);
    put(&client, b"x").await.expect(code::PERMISSION_DENIED);
    // Another client of the connection may still use the one before, as it was.
    client.token = old;
    get(&client, &digest).await.expect(code::OK);
    put(&client, b"x").await.expect(code::OK);
}

#[tokio::test]
async fn scopes() {
    let (server, digest) = running().await;
    let mut client = server.client().await;
    client.token = Some(client.negotiate_scope(1).await);
    put(&client, b"x").await.expect(code::PERMISSION_DENIED);
    let path = "/zako.v1.store.Store/Delete";
    client
        .unary(path, b"")
        .await
        .expect(code::PERMISSION_DENIED);
    let path = "/zako.v1.batch.Batch/BatchUpload";
    client
        .unary(path, b"")
        .await
        .expect(code::PERMISSION_DENIED);
    get(&client, &digest).await.expect(code::OK);
    client.token = Some(client.negotiate_scope(2).await);
    get(&client, &digest).await.expect(code::PERMISSION_DENIED);
    let path = "/zako.v1.batch.Batch/BatchDownload";
    client
        .unary(path, b"")
        .await
        .expect(code::PERMISSION_DENIED);
    put(&client, b"x").await.expect(code::OK);
    assert!(server.cas.get(&digest).is_some());
}

#[tokio::test]
async fn guesses() {
    let (server, digest) = running().await;
    let mut client = server.client().await;
    let token = client.negotiate().await;
    let flipped = match token.as_bytes()[0] {
        b'0' => "1",
        _ => "0",
    };
    let long = "a".repeat(10_000);
    for guess in [
        "",
        "0",
        &"0".repeat(64),
        &token[..63],
        &format!("{token}0"),
        &format!("{flipped}{}", &token[1..]),
        &token.to_uppercase(),
        &long,
    ] {
        client.token = Some(guess.to_owned());
        get(&client, &digest).await.expect(code::UNAUTHENTICATED);
    }
    client.token = Some(token);
    get(&client, &digest).await.expect(code::OK);
}

#[tokio::test]
async fn outstanding_tokens_are_capped() {
    let mut options = ServerOptions::default();
    options.max_tokens = 5;
    let server = Running::start(options).await;
    let mut client = server.client().await;
    let mut tokens = Vec::new();
    for _ in 0..5 {
        tokens.push(client.negotiate().await);
    }
    let refused = client.unary(DETAILS, number(1, 0)).await;
    refused.expect(code::RESOURCE_EXHAUSTED);
    assert!(refused.details_have("google.rpc.RetryInfo"));
    let digest = server.cas.insert(&pattern(1));
    client.token = tokens.pop();
    get(&client, &digest).await.expect(code::OK);
    client.negotiate().await;
    client
        .unary(DETAILS, number(1, 0))
        .await
        .expect(code::RESOURCE_EXHAUSTED);
    server.clock.advance(Duration::from_secs(30));
    client.negotiate().await;
}

#[tokio::test]
async fn sessions_are_capped_and_end_with_their_connections() {
    let mut options = ServerOptions::default();
    options.max_sessions = 2;
    let server = Running::start(options).await;
    let digest = server.cas.insert(&pattern(1));
    let first = server.session().await;
    let second = server.session().await;
    get(&first, &digest).await.expect(code::OK);
    get(&second, &digest).await.expect(code::OK);
    let third = server.session().await;
    get(&third, &digest).await.expect(code::RESOURCE_EXHAUSTED);
    first.cut().await;
    for _ in 0..1000 {
        // The token was not used up by the refusals.
        let answer = get(&third, &digest).await;
        if answer.status == code::OK {
            return;
        }
        answer.expect(code::RESOURCE_EXHAUSTED);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the cut connection's session never ended");
}

#[tokio::test]
async fn without_the_requirement_no_token_is_needed() {
    let mut options = ServerOptions::default();
    options.require_token = false;
    let server = Running::start(options).await;
    let client = server.client().await;
    put(&client, b"x").await.expect(code::OK);
    get(&client, &hash::bytes(b"x")).await.expect(code::OK);
}
