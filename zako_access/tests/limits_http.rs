//! What the HTTP cache answers callers beyond their limits: 429 and 507.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use support::limited::{HOUR, Limited, day, limits};
use support::{Servers, ask, bearer, rules, token, with_token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zako_core::access::Direction;
use zako_core::server::ServerOptions;
use zako_core::store::StoreOptions;

const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Larger contents are not collected in memory.
const SMALL: usize = 1 << 20;

/// The status, when to try again, and all of the answer.
type Answered = (u16, Option<u64>, String);

async fn asked(addr: SocketAddr, name: &str, method: &str, path: &str, body: &[u8]) -> Answered {
    let bearer = bearer(&token(name));
    let headers = [("authorization", &*bearer)];
    let (status, answer) = ask(addr, method, path, &headers, body).await;
    (status, retry_after(&answer), answer)
}

fn retry_after(answer: &str) -> Option<u64> {
    let answer = answer.to_ascii_lowercase();
    let value = answer
        .lines()
        .find_map(|line| line.strip_prefix("retry-after: "));
    value.map(|value| value.trim().parse().unwrap())
}

/// `length` bytes that no other blob of a test has.
fn content(number: u8, length: usize) -> (String, Vec<u8>) {
    let mut data = vec![number; length];
    data[..4].copy_from_slice(&(length as u32).to_be_bytes());
    let path = format!("/cas/blake3/{}", zako_digest::hash::bytes(&data).hash());
    (path, data)
}

/// Stores a content whose length is not told beforehand.
async fn chunked(addr: SocketAddr, path: &str, data: &[u8]) -> Answered {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let bearer = bearer(&token("ci"));
    let head = format!(
        "PUT {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: {bearer}\r\n\
         transfer-encoding: chunked\r\n\r\n"
    );
    let mut sent = head.into_bytes();
    for chunk in data.chunks(100_000) {
        sent.extend(format!("{:x}\r\n", chunk.len()).bytes());
        sent.extend_from_slice(chunk);
        sent.extend(b"\r\n");
    }
    sent.extend(b"0\r\n\r\n");
    // Who is refused may be closed to before all is sent.
    let _ = stream.write_all(&sent).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, retry_after(&answer), answer)
}

#[tokio::test]
async fn requests_beyond_the_rate_are_429_until_the_time_that_is_told() {
    let rate = limits(|limits| limits.requests_per_second = NonZeroU32::new(1));
    let limited = Limited::new([("ci", rate)]);
    let servers = limited.servers().await;
    let http = servers.http;
    let blob = format!("/cas/{HASH}");
    for (method, path) in [
        ("GET", "/cas/"),
        ("HEAD", "/cas/"),
        ("PUT", "/cas/"),
        ("GET", "/ac/"),
        ("PUT", "/team/ac/"),
        ("GET", "/dav/"),
        ("PUT", "/team/dav/"),
        ("DELETE", "/dav/"),
        ("PROPFIND", "/dav/"),
    ] {
        let path = format!("{path}{HASH}");
        let (first, ..) = asked(http, "ci", "GET", &blob, b"").await;
        assert_ne!(first, 429, "{method} {path}");
        let (status, after, answer) = asked(http, "ci", method, &path, b"x").await;
        assert_eq!((status, after), (429, Some(1)), "{method} {path}: {answer}");
        let says = answer.contains("1 requests a second");
        assert!(says || method == "HEAD", "{answer}");
        // Others are not held up by it.
        let (status, ..) = asked(http, "other", "GET", &path, b"").await;
        assert_ne!(status, 429);
        limited.pass(Duration::from_secs(after.unwrap()));
    }
    let (status, ..) = asked(http, "ci", "GET", &blob, b"").await;
    assert_ne!(status, 429);
}

#[tokio::test]
async fn bytes_ahead_of_the_rate_and_too_many_calls_at_once_are_429() {
    let both = limits(|limits| {
        limits.bytes_in_per_second = NonZeroU64::new(1_000_000);
        limits.streams = NonZeroU32::new(1);
    });
    let limited = Limited::new([("ci", both)]);
    let servers = limited.servers().await;
    let http = servers.http;
    let account = limited.account();
    let blob = format!("/cas/{HASH}");
    // A second is free and two are waited for: half a second remains, told as a whole one.
    account.moved(Direction::In, 3_500_000);
    let (status, after, answer) = asked(http, "ci", "GET", &blob, b"").await;
    assert_eq!((status, after), (429, Some(1)), "{answer}");
    account.moved(Direction::In, 1_000_000);
    let (status, after, answer) = asked(http, "ci", "GET", &blob, b"").await;
    assert_eq!((status, after), (429, Some(2)), "{answer}");
    limited.pass(Duration::from_secs(2));
    account.begin().unwrap();
    let (status, after, answer) = asked(http, "ci", "GET", &blob, b"").await;
    assert_eq!((status, after), (429, Some(1)), "{answer}");
    assert!(answer.contains("calls at once"), "{answer}");
    account.end();
    assert_ne!(asked(http, "ci", "GET", &blob, b"").await.0, 429);
}

#[tokio::test]
async fn bytes_are_booked_as_they_move() {
    let rate = 1_000_000_000;
    let both = limits(|limits| {
        limits.bytes_in_per_second = NonZeroU64::new(rate);
        limits.bytes_out_per_second = NonZeroU64::new(rate);
    });
    let limited = Limited::new([("ci", both)]);
    let servers = limited.servers().await;
    let http = servers.http;
    let account = limited.account();
    // What is free after a rest is used up: what moves is the debt, a nanosecond a byte.
    account.moved(Direction::In, rate);
    account.moved(Direction::Out, rate);
    let debts = || [Direction::In, Direction::Out].map(|way| account.debt(way).as_nanos());
    for length in [1000, 3 * SMALL] {
        let (path, data) = content(1, length);
        let before = debts();
        let (status, _, answer) = asked(http, "ci", "PUT", &path, &data).await;
        assert_eq!(status, 201, "{answer}");
        let stored = debts();
        assert_eq!(stored[0] - before[0], length as u128);
        let (status, _, answer) = asked(http, "ci", "GET", &path, b"").await;
        assert!(status == 200 && answer.len() > length);
        assert_eq!(debts()[1] - stored[1], length as u128);
    }
}

#[tokio::test]
async fn who_has_used_up_its_day_is_507_for_what_is_new() {
    let room = 3 * SMALL as u64;
    let limited = Limited::new([("ci", day(room))]);
    let servers = limited.servers().await;
    let http = servers.http;
    let put =
        |path: String, data: Vec<u8>| async move { asked(http, "ci", "PUT", &path, &data).await };
    let (known, known_data) = content(1, SMALL);
    assert_eq!(put(known.clone(), known_data.clone()).await.0, 201);
    let beyond = 2 * SMALL + 1;
    limited.pass_hours(23);
    for path in [
        content(2, beyond).0,
        format!("/ac/{HASH}"),
        "/dav/value".to_owned(),
        "/team/dav/value".to_owned(),
    ] {
        let (_, data) = content(2, beyond);
        let (status, after, answer) = put(path.clone(), data.clone()).await;
        // When the hour ends that is a day ago by then.
        assert_eq!((status, after), (507, Some(HOUR)), "{path}: {answer}");
        assert!(answer.contains("new bytes a day"), "{answer}");
        let (status, after, answer) = chunked(http, &path, &data).await;
        assert_eq!((status, after), (507, Some(HOUR)), "{path}: {answer}");
        let (status, ..) = asked(http, "ci", "GET", &path, b"").await;
        assert_eq!(status, 404, "{path}: nothing came of it");
    }
    // What was refused has taken no room, and what is there needs none.
    let (rest, data) = content(3, 2 * SMALL);
    assert_eq!(put(rest, data).await.0, 201);
    let (small, data) = content(4, 100);
    assert_eq!(put(small.clone(), data.clone()).await.0, 507);
    assert_eq!(put(known.clone(), known_data.clone()).await.0, 200);
    assert_eq!(chunked(http, &known, &known_data).await.0, 200);
    assert_eq!(asked(http, "ci", "GET", &known, b"").await.0, 200);
    let (by_other, others) = content(5, SMALL);
    assert_eq!(asked(http, "other", "PUT", &by_other, &others).await.0, 201);
    limited.pass_hours(1);
    assert_eq!(put(small, data).await.0, 201);
}

#[tokio::test]
async fn what_has_no_room_in_the_store_is_507() {
    let mut store = StoreOptions::default();
    store.max_bytes = Some(4 << 20);
    let rules = rules([with_token("ci", r#""write""#)]);
    let servers = Servers::with(rules, ServerOptions::default(), store, None).await;
    let (path, data) = content(1, 8 << 20);
    for (status, after, answer) in [
        asked(servers.http, "ci", "PUT", &path, &data).await,
        chunked(servers.http, &path, &data).await,
    ] {
        assert_eq!(status, 507, "{answer}");
        assert_eq!(after, None, "it can never fit: {answer}");
    }
    let (path, data) = content(2, 1000);
    assert_eq!(asked(servers.http, "ci", "PUT", &path, &data).await.0, 201);
}
