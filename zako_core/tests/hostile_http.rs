//! Peers that get HTTP/2 or gRPC itself wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod wire_harness;

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire_harness::message::{framed, metadata};
use wire_harness::{Client, DOWNLOAD, Running, UPLOAD, code, pattern};
use zako_core::server::ServerOptions;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Fails unless the server closes the connection.
async fn closed(mut tcp: TcpStream) {
    let mut rest = Vec::new();
    let read = tcp.read_to_end(&mut rest);
    let read = tokio::time::timeout(Duration::from_secs(30), read).await;
    // An end or a reset: both close it.
    let _ = read.expect("the server closes the connection");
}

async fn works(server: &Running) {
    let digest = server.cas.insert(&pattern(10));
    let client = server.session().await;
    client
        .download(metadata(&digest, 0, None))
        .await
        .expect(code::OK);
}

#[tokio::test]
async fn what_is_no_grpc_call() {
    let server = Running::start(ServerOptions::default()).await;
    let client = server.session().await;
    let grpc = ("content-type", "application/grpc");
    for path in [UPLOAD, DOWNLOAD] {
        for headers in [
            &[][..],
            &[("content-type", "application/json")],
            &[("content-type", "application/grpc+json")],
            &[("content-type", "application/grpc-web")],
        ] {
            let call = client.request("POST", path, headers).await;
            assert_eq!(call.answer().await.http, 415, "{headers:?}");
        }
        for method in ["GET", "PUT", "DELETE"] {
            let call = client.request(method, path, &[grpc]).await;
            assert_eq!(call.answer().await.http, 405);
        }
    }
}

#[tokio::test]
async fn unknown_methods_and_services() {
    let server = Running::start(ServerOptions::default()).await;
    let client = server.session().await;
    for path in [
        "/zako.v1.transport.Transport/Move",
        "/zako.v1.transport.Transport/download",
        "/zako.v1.transport.Transport/Download/",
        "/zako.v1.transport.Teleport/Download",
        "/zako.v1.store.Store/Format",
        "/",
    ] {
        let answer = client.call(path, &[]).await.answer().await;
        answer.expect(code::UNIMPLEMENTED);
    }
}

#[tokio::test]
async fn compression_is_refused_by_name() {
    let server = Running::start(ServerOptions::default()).await;
    let client = server.session().await;
    for path in [UPLOAD, DOWNLOAD] {
        let call = client.call(path, &[("grpc-encoding", "gzip")]).await;
        let answer = call.answer().await;
        answer.expect(code::UNIMPLEMENTED);
        assert_eq!(answer.headers["grpc-accept-encoding"], "identity");
    }
    let digest = server.cas.insert(&pattern(10));
    let mut call = client
        .call(DOWNLOAD, &[("grpc-encoding", "identity")])
        .await;
    call.send(framed(metadata(&digest, 0, None)).into(), true)
        .await;
    call.answer().await.expect(code::OK);
}

#[tokio::test]
async fn headers_beyond_the_limit() {
    let server = Running::start(ServerOptions::default()).await;
    let client = server.session().await;
    let long = "x".repeat(40_000);
    let call = client.call(DOWNLOAD, &[("x-long", &long)]).await;
    match call.try_answer().await {
        Ok(answer) => assert_eq!(answer.http, 431, "{answer:?}"),
        Err(error) => assert!(error.is_reset() || error.is_go_away(), "{error}"),
    }
    works(&server).await;
}

#[tokio::test]
async fn connections_that_never_speak_http2() {
    let mut options = ServerOptions::default();
    // Long for who does speak it, on a machine that is busy.
    options.handshake_timeout = Duration::from_secs(4);
    let server = Running::start(options).await;
    let requests: [&[u8]; 4] = [
        b"",
        &PREFACE[..10],
        b"GET / HTTP/1.1\r\nHost: zako\r\n\r\n",
        &[0xff; 4096],
    ];
    let ended = requests.map(async |request| {
        let mut tcp = TcpStream::connect(server.addr).await.unwrap();
        tcp.write_all(request).await.unwrap();
        closed(tcp).await;
    });
    futures::future::join_all(ended).await;
    works(&server).await;
}

#[tokio::test]
async fn a_peer_that_went_silent_is_noticed() {
    let mut options = ServerOptions::default();
    options.keepalive_interval = Duration::from_millis(500);
    // Long for who does answer, on a machine that is busy.
    options.keepalive_timeout = Duration::from_secs(4);
    let server = Running::start(options).await;
    let mut tcp = TcpStream::connect(server.addr).await.unwrap();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    tcp.write_all(&[PREFACE, &settings].concat()).await.unwrap();
    // It never answers a ping.
    closed(tcp).await;
    works(&server).await;
}

#[tokio::test]
async fn frames_beyond_the_limit() {
    let server = Running::start(ServerOptions::default()).await;
    let mut tcp = TcpStream::connect(server.addr).await.unwrap();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // A DATA frame of 2^24 - 1 bytes on stream 1.
    let long = [0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1];
    let all = [PREFACE, &settings, &long].concat();
    tcp.write_all(&all).await.unwrap();
    closed(tcp).await;
    works(&server).await;
}

#[tokio::test]
async fn connections_are_capped() {
    let mut options = ServerOptions::default();
    options.max_connections = 2;
    let server = Running::start(options).await;
    let first = server.session().await;
    let second = server.session().await;
    closed(TcpStream::connect(server.addr).await.unwrap()).await;
    let digest = server.cas.insert(&pattern(10));
    second
        .download(metadata(&digest, 0, None))
        .await
        .expect(code::OK);
    first.cut().await;
    for _ in 0..1000 {
        let tcp = TcpStream::connect(server.addr).await.unwrap();
        if let Ok((_, connection)) = h2::client::handshake(tcp).await {
            let alive = tokio::time::timeout(Duration::from_millis(200), connection).await;
            if alive.is_err() {
                return;
            }
        }
    }
    panic!("the cut connection's place was never free");
}

#[tokio::test]
async fn a_flood_of_resets_leaves_nothing_behind() {
    let server = Running::start(ServerOptions::default()).await;
    let digest = zako_digest::hash::bytes(&pattern(2_000_000));
    let mut client: Client = server.session().await;
    for round in 0..500 {
        let mut call = client.call(UPLOAD, &[]).await;
        let meta = framed(metadata(&digest, 0, None));
        call.send(meta.into(), false).await;
        call.reset();
        if round % 50 == 49 {
            // The server may have ended a connection that does nothing else.
            client = server.session().await;
        }
    }
    works(&server).await;
    assert_eq!(server.cas.get(&digest), None);
}
