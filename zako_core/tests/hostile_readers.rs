//! Peers that ask and don't read the answers.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod wire_harness;

use std::time::Duration;

use wire_harness::message::{bytes, digest, framed, metadata, number, number_in};
use wire_harness::{Answer, Call, Client, DETAILS, DOWNLOAD, NEGOTIATE, Running, code, pattern};
use zako_core::server::ServerOptions;

const BATCH: &str = "/zako.v1.batch.Batch/BatchDownload";

/// Longer than any test may take.
const NEVER: Duration = Duration::from_secs(3600);

fn idle(idle: Duration) -> ServerOptions {
    let mut options = ServerOptions::default();
    options.download_idle_timeout = idle;
    options
}

/// A client with small windows and a session, and the streams that it may run.
async fn client(server: &Running) -> (Client, u64) {
    let mut client = Client::with_windows(server.addr, 65_535, 1 << 26).await;
    let details = client.unary(DETAILS, number(1, 0)).await;
    let streams = number_in(details.message(), 3);
    client.token = Some(client.negotiate().await);
    (client, streams)
}

async fn open(client: &Client, path: &str, headers: &[(&str, &str)], message: &[u8]) -> Call {
    let mut call = client.call(path, headers).await;
    call.send(framed(message).into(), true).await;
    call
}

async fn soon(answer: impl Future<Output = Answer>) -> Answer {
    tokio::time::timeout(Duration::from_secs(60), answer)
        .await
        .expect("the call ends")
}

#[tokio::test]
async fn unread_answers_keep_their_streams_until_they_are_reset() {
    // Long for who reads, on a machine that is busy.
    let server = Running::start(idle(Duration::from_secs(3))).await;
    let large = server.cas.insert(&pattern(4_000_000));
    let small = server.cas.insert(&pattern(10));
    for (path, message) in [
        (BATCH, bytes(1, digest(&large))),
        (DOWNLOAD, metadata(&large, 0, None)),
    ] {
        let (client, streams) = client(&server).await;
        let mut stalled = Vec::new();
        for _ in 0..streams {
            stalled.push(open(&client, path, &[], &message).await);
        }
        let next = client.download(metadata(&small, 0, None));
        soon(next).await.expect(code::OK);
        // Its stream was one that was reset: that call's answer has no end.
        let mut reset = 0;
        for call in stalled {
            reset += usize::from(soon(call.answer()).await.status == -1);
        }
        assert!(reset > 0, "{path}");
    }
}

#[tokio::test]
async fn unread_answers_end_at_their_deadline() {
    let server = Running::start(idle(NEVER)).await;
    let large = server.cas.insert(&pattern(4_000_000));
    let (client, _) = client(&server).await;
    for (path, message) in [
        (BATCH, bytes(1, digest(&large))),
        (DOWNLOAD, metadata(&large, 0, None)),
    ] {
        let mut call = open(&client, path, &[("grpc-timeout", "6S")], &message).await;
        let mut body = (&mut call.response).await.unwrap().into_body();
        let reset = tokio::time::timeout(Duration::from_secs(60), async {
            // The window is not given back.
            while let Some(piece) = body.data().await {
                if piece.is_err() {
                    return true;
                }
            }
            false
        });
        assert!(reset.await.expect("the call ends"), "{path}");
    }
}

#[tokio::test]
async fn a_slow_reader_gets_all() {
    let server = Running::start(idle(Duration::from_secs(20))).await;
    let data = pattern(2_000_000);
    let large = server.cas.insert(&data);
    let (client, _) = client(&server).await;
    let batch = open(&client, BATCH, &[], &bytes(1, digest(&large))).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(soon(batch.answer()).await.expect(code::OK).message().len() > data.len());
}

#[tokio::test]
async fn a_deadline_holds_for_the_rest_of_a_generated_answer() {
    let server = Running::start(ServerOptions::default()).await;
    let client = server.client().await;
    for path in [NEGOTIATE, "/grpc.health.v1.Health/Watch"] {
        let mut call = client.call(path, &[("grpc-timeout", "6S")]).await;
        call.send(framed(b"").into(), path != NEGOTIATE).await;
        let answer = soon(call.answer()).await;
        assert_eq!(answer.expect(code::DEADLINE_EXCEEDED).messages.len(), 1);
    }
}
