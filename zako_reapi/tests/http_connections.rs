//! What connections may do, and how they end.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use support::http::{HttpTest, chunked, head, in_time, until};
use support::{random, sha256};
use zako_core::cas::Lease;
use zako_reapi::http::HttpOptions;

const MOMENT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn requests_that_are_none_are_refused_and_end_their_connection_only() {
    let test = HttpTest::start().await;
    let mut bystander = test.connect().await;
    assert_eq!(bystander.request("GET", "/", &[], b"").await.status, 200);
    let many: String = (0..200).map(|at| format!("x-{at}: y\r\n")).collect();
    for (bytes, status) in [
        ("NONSENSE\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/9.9\r\n\r\n".to_owned(), 400),
        ("GET /\0 HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nbad header\r\n\r\n".to_owned(), 400),
        (
            "PUT /dav/x HTTP/1.1\r\ncontent-length: -1\r\n\r\n".to_owned(),
            400,
        ),
        (
            "PUT /dav/x HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n".to_owned(),
            400,
        ),
        (
            "PUT /dav/x HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n".to_owned(),
            400,
        ),
        (format!("GET / HTTP/1.1\r\n{many}\r\n"), 431),
        (
            format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)),
            431,
        ),
    ] {
        let mut http = test.connect().await;
        http.send(&bytes).await;
        let answer = http.maybe_answer("GET").await;
        let told = answer.map(|answer| answer.status);
        assert_eq!(told, Some(status), "{:.60}", bytes);
        http.rest().await;
    }
    // HTTP/2 is the other port's.
    let mut http = test.connect().await;
    http.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    http.rest().await;
    assert_eq!(bystander.request("GET", "/", &[], b"").await.status, 200);
    assert_eq!(test.usage().await.partial_bytes, 0);
}

#[tokio::test]
async fn paths_that_are_none_are_told_so() {
    let test = HttpTest::start().await;
    for (path, status, text) in [
        ("/cas/12", 400, "hex digits"),
        ("/dav/a/../b", 400, ".."),
        ("/dav/a%00b", 400, "NUL"),
        ("/dav/%zz", 400, "%"),
        (&format!("/dav/{}", "x".repeat(9000)), 400, "9005 bytes"),
        ("/what", 404, "cas/<hash>"),
    ] {
        for method in ["GET", "PUT"] {
            let answer = test.ask(method, path, &[], b"").await;
            assert_eq!(answer.status, status, "{path:.50}");
            assert!(
                answer.text().contains(text),
                "{path:.50}: {}",
                answer.text()
            );
        }
    }
}

#[tokio::test]
async fn requests_sent_at_once_are_answered_in_order() {
    let test = HttpTest::start().await;
    let data = random(50_000);
    let path = format!("/cas/{}", sha256(&data).hex());
    let mut all = head("PUT", &path, &[], Some(data.len())).into_bytes();
    all.extend_from_slice(&data);
    all.extend_from_slice(head("GET", &path, &[], None).as_bytes());
    all.extend_from_slice(head("HEAD", &path, &[], None).as_bytes());
    all.extend_from_slice(head("GET", "/nowhere", &[], None).as_bytes());
    all.extend_from_slice(head("GET", &path, &[("range", "bytes=0-9")], None).as_bytes());
    all.extend_from_slice(head("GET", "/", &[("connection", "close")], None).as_bytes());
    let mut http = test.connect().await;
    http.send(&all).await;
    assert_eq!(http.answer("PUT").await.status, 201);
    assert!(http.answer("GET").await.body == data);
    assert_eq!(http.answer("HEAD").await.header("content-length"), "50000");
    assert_eq!(http.answer("GET").await.status, 404);
    assert!(http.answer("GET").await.body == data[..10]);
    assert_eq!(http.answer("GET").await.status, 200);
    assert!(http.is_closed().await);
}

#[tokio::test]
async fn heads_that_dawdle_and_connections_that_rest_are_closed() {
    let mut options = HttpOptions::default();
    options.header_timeout = MOMENT;
    let test = HttpTest::with(options).await;
    let mut silent = test.connect().await;
    assert!(silent.is_closed().await);
    let mut slow = test.connect().await;
    slow.send("GET / HTTP/1.1\r\nhost: x\r\n").await;
    assert!(slow.is_closed().await);
    // Each byte in time, but not the head.
    let mut drip = test.connect().await;
    for _ in 0..40 {
        drip.send("G").await;
        tokio::time::sleep(MOMENT / 4).await;
    }
    assert!(drip.is_closed().await);
    // A head has its usual time here, which is long for a machine that is busy.
    let mut options = HttpOptions::default();
    options.keep_alive_timeout = 8 * MOMENT;
    let test = HttpTest::with(options).await;
    let mut rests = test.connect().await;
    assert_eq!(rests.request("GET", "/", &[], b"").await.status, 200);
    assert!(rests.is_closed().await);
}

#[tokio::test]
async fn uploads_that_stall_end_and_free_their_space() {
    let mut options = HttpOptions::default();
    // Long for a sender that goes on, on a machine that is busy.
    options.body_idle_timeout = 20 * MOMENT;
    let test = HttpTest::with(options).await;
    let data = random(8 << 20);
    let digest = sha256(&data);
    let path = format!("/cas/{}", digest.hex());
    for (method, path) in [("PUT", &*path), ("PUT", "/dav/value")] {
        for sent in [0, 1000, 5 << 20] {
            let mut http = test.connect().await;
            http.send(head(method, path, &[], Some(data.len()))).await;
            http.send(&data[..sent]).await;
            let answer = http.maybe_answer(method).await;
            assert_eq!(answer.map(|answer| answer.status), Some(408), "{sent}");
            assert!(http.is_closed().await);
        }
    }
    // One byte at a time is as good as none.
    let mut http = test.connect().await;
    http.send(head("PUT", &path, &[], Some(data.len()))).await;
    let drip = async {
        while !http.has_said().await {
            http.send("x").await;
            tokio::time::sleep(MOMENT / 4).await;
        }
    };
    in_time(drip).await;
    assert_eq!(
        http.maybe_answer("PUT").await.map(|answer| answer.status),
        Some(408)
    );
    until(async || test.usage().await.partial_bytes == 0).await;
    assert_eq!(
        test.cache().missing(&[digest], Lease::None).await.unwrap(),
        [0]
    );
    assert_eq!(test.usage().await.blobs, 0);
}

#[tokio::test]
async fn an_upload_whose_connection_drops_leaves_nothing() {
    let test = HttpTest::start().await;
    let data = random(8 << 20);
    let digest = sha256(&data);
    let path = format!("/cas/{}", digest.hex());
    for chunks in [false, true] {
        let mut http = test.connect().await;
        if chunks {
            http.send(head(
                "PUT",
                &path,
                &[("transfer-encoding", "chunked")],
                None,
            ))
            .await;
            http.send(&chunked(&data, 1 << 20)[..6 << 20]).await;
        } else {
            http.send(head("PUT", &path, &[], Some(data.len()))).await;
            http.send(&data[..6 << 20]).await;
        }
        // It has begun to be stored.
        until(async || test.usage().await.partial_bytes > 0).await;
        drop(http);
        until(async || test.usage().await.partial_bytes == 0).await;
    }
    assert_eq!(
        test.cache().missing(&[digest], Lease::None).await.unwrap(),
        [0]
    );
    assert_eq!(test.put(&path, &data).await.status, 201);
    assert!(test.get(&path).await.body == data);
}

#[tokio::test]
async fn an_answer_that_nobody_reads_ends() {
    let mut options = HttpOptions::default();
    // Long for a reader that goes on, on a machine that is busy.
    options.answer_idle_timeout = 40 * MOMENT;
    let test = HttpTest::with(options).await;
    let data = random(32 << 20);
    let path = format!("/cas/{}", sha256(&data).hex());
    assert_eq!(test.put(&path, &data).await.status, 201);
    let mut http = test.connect().await;
    http.send(head("GET", &path, &[], None)).await;
    // Longer than the server waits: what then comes is what the sockets hold.
    tokio::time::sleep(80 * MOMENT).await;
    assert!(http.rest().await < data.len());
    // A reader that goes on, however slowly it begins, has it all.
    assert!(test.get(&path).await.body == data);
}

#[tokio::test]
async fn connections_beyond_the_most_are_closed_at_once() {
    let mut options = HttpOptions::default();
    options.max_connections = 2;
    let test = HttpTest::with(options).await;
    let (mut first, mut second) = (test.connect().await, test.connect().await);
    for http in [&mut first, &mut second] {
        assert_eq!(http.request("GET", "/", &[], b"").await.status, 200);
    }
    assert!(test.connect().await.is_closed().await);
    drop(first);
    until(async || {
        let mut http = test.connect().await;
        http.send(head("GET", "/", &[], None)).await;
        http.maybe_answer("GET").await.is_some()
    })
    .await;
}

#[tokio::test]
async fn many_bodies_share_the_memory_that_there_is() {
    let mut options = HttpOptions::default();
    options.max_memory_bytes = 1 << 20;
    let test = HttpTest::with(options).await;
    // None of them fits beside another.
    let puts = (0..12).map(|_| async {
        let data = random(900 << 10);
        let path = format!("/cas/{}", sha256(&data).hex());
        assert_eq!(test.put(&path, &data).await.status, 201);
        assert!(test.get(&path).await.body == data);
    });
    futures::future::join_all(puts).await;
}

#[tokio::test]
async fn a_shutdown_lets_requests_end_and_no_others_begin() {
    let mut test = HttpTest::start().await;
    let data = random(4 << 20);
    let path = format!("/cas/{}", sha256(&data).hex());
    let mut rests = test.connect().await;
    assert_eq!(rests.request("GET", "/", &[], b"").await.status, 200);
    let mut http = test.connect().await;
    http.send(head("PUT", &path, &[], Some(data.len()))).await;
    http.send(&data[..3 << 20]).await;
    until(async || test.usage().await.partial_bytes > 0).await;
    test.begin_stop();
    assert!(rests.is_closed().await);
    http.send(&data[3 << 20..]).await;
    let answer = http.answer("PUT").await;
    assert_eq!((answer.status, answer.header("connection")), (201, "close"));
    test.stopped().await;
    assert!(tokio::net::TcpStream::connect(&test.addr).await.is_err());
    assert!(
        test.cache()
            .missing(&[sha256(&data)], Lease::None)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_ever() {
    let mut options = HttpOptions::default();
    options.drain_timeout = MOMENT;
    let mut test = HttpTest::with(options).await;
    let data = random(4 << 20);
    let mut http = test.connect().await;
    http.send(head("PUT", "/dav/value", &[], Some(data.len())))
        .await;
    http.send(&data[..3 << 20]).await;
    until(async || test.usage().await.partial_bytes > 0).await;
    test.begin_stop();
    test.stopped().await;
    assert_eq!(test.usage().await.partial_bytes, 0);
    assert!(http.maybe_answer("PUT").await.is_none());
}
