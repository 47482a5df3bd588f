//! Interrupted uploads go on where they ended.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::streams::{
    MESSAGE, client, messages, query, read, send, to_read, to_write, unfinished, write,
};
use support::{TestServer, random};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use zako_core::cas::Maintain;
use zako_core::server::ServerOptions;
use zako_core::store::StoreOptions;
use zako_reapi::CacheOptions;
use zako_reapi::digest::{DigestFunction, RemoteDigest};
use zako_reapi::proto::bytestream::WriteRequest;

const FUNCTIONS: [DigestFunction; 3] = [
    DigestFunction::Sha256,
    DigestFunction::Blake3,
    DigestFunction::Sha512,
];

async fn committed(server: &TestServer, digest: &RemoteDigest) -> (i64, bool) {
    let status = query(&server.channel, &to_write(digest)).await.unwrap();
    (status.committed_size, status.complete)
}

/// Asks until so many bytes are held.
async fn held(server: &TestServer, digest: &RemoteDigest, bytes: i64) {
    while committed(server, digest).await.0 != bytes {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn nothing_is_known_of_an_upload_that_never_began() {
    let server = TestServer::start().await;
    for function in FUNCTIONS {
        let digest = function.digest(b"never sent");
        assert_eq!(committed(&server, &digest).await, (0, false));
        let data = random(200);
        let digest = function.digest(&data);
        write(&server.channel, &to_write(&digest), &data)
            .await
            .unwrap();
        assert_eq!(committed(&server, &digest).await, (200, true));
        assert_eq!(committed(&server, &function.digest(b"")).await, (0, true));
    }
    for name in ["", "blobs/x/1", &to_read(&FUNCTIONS[0].digest(b"x"))] {
        let error = query(&server.channel, name).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_unfinished_upload_goes_on_after_a_restart() {
    let mut server = TestServer::start().await;
    let data = random(5 << 20);
    for function in FUNCTIONS {
        let digest = function.digest(&data);
        let name = to_write(&digest);
        let part = unfinished(&name, 0, &data.slice(..2 << 20));
        let held = send(&server.channel, part).await.unwrap();
        assert_eq!(held, 2 << 20, "{digest}");
        assert_eq!(committed(&server, &digest).await, (held, false));
        let dir = server.stop().await;
        let (store, server_options) = (StoreOptions::default(), ServerOptions::default());
        server = TestServer::over(dir, store, CacheOptions::default(), server_options).await;
        assert_eq!(committed(&server, &digest).await, (held, false));
        // Not from behind what is held, nor from behind the end.
        for wrong in [(2 << 20) + 1, 6 << 20] {
            let rest = messages(&name, wrong, &data.slice(..10));
            let error = send(&server.channel, rest).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        }
        let rest = messages(&name, 2 << 20, &data.slice(2 << 20..));
        let all = send(&server.channel, rest).await.unwrap();
        assert_eq!(all, data.len() as i64);
        assert_eq!(committed(&server, &digest).await, (all, true));
        assert!(read(&server.channel, &to_read(&digest)).await.unwrap() == data);
        // The same bytes are there under every name by now.
        let own = zako_digest::hash::bytes(&data);
        zako_core::cas::Cas::delete(&server.store, &own)
            .await
            .unwrap();
    }
    server.stop().await;
}

#[tokio::test]
async fn a_dropped_upload_goes_on_from_what_came() {
    let server = TestServer::start().await;
    for function in FUNCTIONS {
        let data = random(4 << 20);
        let digest = function.digest(&data);
        let name = to_write(&digest);
        let cut = 2 * (1 << 20);
        let (more, rest) = tokio::sync::mpsc::channel(64);
        for message in unfinished(&name, 0, &data.slice(..cut)) {
            more.send(message).await.unwrap();
        }
        let channel = server.channel.clone();
        let call =
            tokio::spawn(async move { client(&channel).write(ReceiverStream::new(rest)).await });
        // All of it has been taken from the channel when it is empty.
        while more.capacity() < 64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        while server.store.usage().await.unwrap().partial_bytes == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        call.abort();
        let _ = call.await;
        loop {
            let (bytes, complete) = committed(&server, &digest).await;
            assert!(!complete);
            if bytes > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (from, _) = committed(&server, &digest).await;
        let from = usize::try_from(from).unwrap();
        assert!(from <= cut);
        let rest = messages(&name, from, &data.slice(from..));
        assert_eq!(
            send(&server.channel, rest).await.unwrap(),
            data.len() as i64
        );
        assert!(read(&server.channel, &to_read(&digest)).await.unwrap() == data);
    }
    server.stop().await;
}

#[tokio::test]
async fn an_upload_without_its_end_is_finished_alone() {
    let server = TestServer::start().await;
    for function in FUNCTIONS {
        let data = random(3 << 20);
        let digest = function.digest(&data);
        let name = to_write(&digest);
        let all = unfinished(&name, 0, &data);
        assert_eq!(send(&server.channel, all).await.unwrap(), 3 << 20);
        assert_eq!(committed(&server, &digest).await, (3 << 20, false));
        let end = messages(&name, data.len(), &data.slice(data.len()..));
        assert_eq!(send(&server.channel, end).await.unwrap(), 3 << 20);
        assert_eq!(committed(&server, &digest).await, (3 << 20, true));
    }
    server.stop().await;
}

#[tokio::test]
async fn what_was_finished_too_early_or_wrongly_is_not_kept() {
    let server = TestServer::start().await;
    for function in FUNCTIONS {
        let data = random(3 << 20);
        let digest = function.digest(&data);
        let name = to_write(&digest);
        let part = unfinished(&name, 0, &data.slice(..1 << 20));
        assert_eq!(send(&server.channel, part).await.unwrap(), 1 << 20);
        let wrong = messages(&name, 1 << 20, &random(2 << 20));
        let error = send(&server.channel, wrong).await.unwrap_err();
        // Nobody knows whether the bytes that were kept are wrong or those that came.
        let codes = [Code::InvalidArgument, Code::Aborted];
        assert!(codes.contains(&error.code()), "{error}");
        assert_eq!(committed(&server, &digest).await, (0, false));
        let absent = read(&server.channel, &to_read(&digest)).await;
        assert_eq!(absent.unwrap_err().code(), Code::NotFound);
        assert_eq!(write(&server.channel, &name, &data).await.unwrap(), 3 << 20);
    }
    server.stop().await;
}

/// Only idle time counts, so the test's own time doesn't matter.
#[tokio::test]
async fn a_sender_that_stops_is_put_aside() {
    let mut options = ServerOptions::default();
    options.upload_idle_timeout = Duration::from_secs(2);
    let server = TestServer::with(CacheOptions::default(), options).await;
    for function in FUNCTIONS {
        let data = random(3 << 20);
        let digest = function.digest(&data);
        let first = unfinished(&to_write(&digest), 0, &data.slice(..MESSAGE * 20));
        let (more, rest) = tokio::sync::mpsc::channel(64);
        for message in first {
            more.send(message).await.unwrap();
        }
        let error = client(&server.channel)
            .write(ReceiverStream::new(rest))
            .await;
        assert_eq!(error.unwrap_err().code(), Code::DeadlineExceeded);
        held(&server, &digest, MESSAGE as i64 * 20).await;
    }
    server.stop().await;
}

/// A byte now and then keeps no upload alive.
#[tokio::test]
async fn a_sender_that_trickles_is_put_aside() {
    let mut options = ServerOptions::default();
    options.upload_idle_timeout = Duration::from_millis(500);
    let server = TestServer::with(CacheOptions::default(), options).await;
    let data = random(3 << 20);
    let name = to_write(&DigestFunction::Sha256.digest(&data));
    let (more, rest) = tokio::sync::mpsc::channel(1);
    let sender = tokio::spawn(async move {
        for at in 0.. {
            let message = WriteRequest {
                resource_name: name.clone(),
                write_offset: at as i64,
                finish_write: false,
                data: data.slice(at..=at),
            };
            if more.send(message).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let error = client(&server.channel)
        .write(ReceiverStream::new(rest))
        .await;
    assert_eq!(error.unwrap_err().code(), Code::DeadlineExceeded);
    sender.await.unwrap();
    server.stop().await;
}
