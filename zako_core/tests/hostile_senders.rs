//! Peers whose requests never get whole.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod wire_harness;

use std::time::Duration;

use bytes::Bytes;
use wire_harness::message::framed;
use wire_harness::{Answer, Call, NEGOTIATE, Running, code};
use zako_core::server::ServerOptions;

const STAT: &str = "/zako.v1.store.Store/Stat";

/// The head of a message of 1000 bytes.
const HEAD: &[u8] = &[0, 0, 0, 3, 232];

async fn server() -> Running {
    let mut options = ServerOptions::default();
    options.upload_idle_timeout = Duration::from_millis(200);
    Running::start(options).await
}

async fn soon(answer: impl Future<Output = Answer>) -> Answer {
    tokio::time::timeout(Duration::from_secs(60), answer)
        .await
        .expect("the call ends")
}

#[tokio::test]
async fn a_request_that_stops_in_the_middle() {
    let server = server().await;
    let client = server.client().await;
    for path in [NEGOTIATE, STAT] {
        for begun in [&HEAD[..3], HEAD] {
            let mut call = client.call(path, &[]).await;
            call.send(Bytes::from_static(begun), false).await;
            soon(call.answer()).await.expect(code::DEADLINE_EXCEEDED);
        }
    }
}

#[tokio::test]
async fn a_request_that_drips() {
    let server = server().await;
    let client = server.client().await;
    for path in [NEGOTIATE, STAT] {
        let mut call = client.call(path, &[]).await;
        call.send(Bytes::from_static(HEAD), false).await;
        let Call { response, mut send } = call;
        let drip = tokio::spawn(async move {
            // Whole only long after it took too long, and never idle.
            while send.send_data(Bytes::from_static(&[0]), false).is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let head = tokio::time::timeout(Duration::from_secs(60), response).await;
        let (head, mut body) = head.expect("the call ends").unwrap().into_parts();
        let trailers = tokio::time::timeout(Duration::from_secs(60), body.trailers()).await;
        let trailers = trailers.expect("the call ends").unwrap();
        let status = trailers.as_ref().unwrap_or(&head.headers)["grpc-status"].clone();
        assert_eq!(status, code::DEADLINE_EXCEEDED.to_string());
        drip.abort();
    }
}

#[tokio::test]
async fn a_negotiation_may_rest_between_messages() {
    let server = server().await;
    let client = server.client().await;
    let mut call = client.call(NEGOTIATE, &[]).await;
    for _ in 0..2 {
        call.send(framed(b"").into(), false).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    call.send(framed(b"").into(), true).await;
    let answer = soon(call.answer()).await;
    assert_eq!(answer.expect(code::OK).messages.len(), 3);
}
