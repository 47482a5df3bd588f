//! What strangers can send, and what they can't do by it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod asking;

use std::time::Duration;

use asking::Asked;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing_subscriber::layer::SubscriberExt;
use zako_admin::{AdminOptions, RecentEvents};
use zako_core::access::{Identity, Rights, Role};
use zako_core::observe::{CallEnd, Interface, Observer};

const HOSTILE: &str = "<script>alert(\"1\")</script>'&<img src=x onerror=y>\u{202e}\0\x1b[31m";

/// Longer than anything here takes, and than a test may hang.
const HUNG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn names_and_texts_of_others_are_escaped() {
    let port = Asked::new().await;
    let identity = Identity::new(format!("id{HOSTILE}"), Rights::everywhere(Role::Read));
    let method = format!("/method{HOSTILE}");
    let mut call = CallEnd::new(Interface::Http, &method);
    let peer = format!("peer{HOSTILE}");
    (call.peer, call.identity, call.code) = (&peer, Some(&identity), 500);
    port.recorder.call(&call);

    let events = RecentEvents::default();
    let subscriber = tracing_subscriber::registry().with(events.layer());
    tracing::subscriber::with_default(subscriber, || {
        tracing::error!(error = %HOSTILE, "event{HOSTILE}");
    });
    port.handle.set_events(events);

    let page = port.get("/").await.body;
    for told in ["id", "/method", "peer", "event"] {
        let escaped = format!("{told}&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;");
        assert!(page.contains(&escaped), "{told}: {page}");
    }
    assert!(
        !page.contains("<script") && !page.contains("<img"),
        "{page}"
    );
    // Nor do they turn the text about them around, or hide.
    assert!(!page.contains(['\u{202e}', '\0', '\x1b']), "{page}");
    let json = port.get("/status.json").await.body;
    let status: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(status["activity"]["peers"][0]["peer"], peer);
}

#[tokio::test]
async fn heads_are_bounded() {
    let port = Asked::new().await;
    let long = "x".repeat(1 << 20);
    let many = "x: y\r\n".repeat(10_000);
    for request in [
        format!("GET /{long} HTTP/1.1\r\nhost: localhost\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nhost: localhost\r\n{many}\r\n"),
    ] {
        let answer = port.send(&request).await;
        assert!(answer.is_none_or(|answer| answer.status >= 400));
    }
    for garbage in [
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\r\n\r\n",
    ] {
        let answer = port.send(garbage).await;
        assert!(answer.is_none_or(|answer| answer.status >= 400));
    }
    assert_eq!(port.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn who_sends_nothing_or_too_slowly_is_cut_off() {
    let mut options = AdminOptions::default();
    // Long for who asks properly, on a machine that is busy.
    options.header_timeout = Duration::from_secs(3);
    options.connection_timeout = Duration::from_secs(5);
    let port = Asked::with(options).await;
    let mut silent = port.connect().await;
    let mut slow = port.connect().await;
    slow.write_all(b"GET / HTTP/1.1\r\nhost: ").await.unwrap();
    for stream in [&mut silent, &mut slow] {
        let mut rest = Vec::new();
        let end = tokio::time::timeout(HUNG, stream.read_to_end(&mut rest)).await;
        // Its end, or a reset: not nothing for ever.
        let _ = end.expect("it is left open");
        assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
    }
    assert_eq!(port.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn connections_are_bounded_and_come_back() {
    let mut options = AdminOptions::default();
    options.max_connections = 4;
    options.header_timeout = HUNG;
    let port = Asked::with(options).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = port.connect().await;
        stream.write_all(b"GET ").await.unwrap();
        held.push(stream);
    }
    // Those that were accepted first are served; one more is closed at once.
    let refused = async {
        loop {
            let mut stream = port.connect().await;
            let mut rest = Vec::new();
            let _ = stream
                .write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
                .await;
            let read = stream.read_to_end(&mut rest).await;
            if read.is_err() || rest.is_empty() {
                return;
            }
        }
    };
    tokio::time::timeout(HUNG, refused)
        .await
        .expect("all are taken in");
    drop(held);
    let back = async {
        while port
            .send("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await
            .is_none_or(|answer| answer.status != 200)
        {}
    };
    tokio::time::timeout(HUNG, back)
        .await
        .expect("it stays closed");
}

#[tokio::test]
async fn it_ends_while_somebody_holds_on() {
    let mut options = AdminOptions::default();
    options.drain_timeout = Duration::from_millis(100);
    let port = Asked::with(options).await;
    let mut stream = port.connect().await;
    stream.write_all(b"GET ").await.unwrap();
    tokio::time::timeout(HUNG, port.end())
        .await
        .expect("it hangs");
}
