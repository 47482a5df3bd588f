//! Attacks on a real server, each beside a good client that must not notice it. Memory and
//! files are those of the server's process. Time limits are short for an attack, and long for a
//! good client on a machine that is busy.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
#![cfg(target_os = "linux")]

#[path = "attacks/frames.rs"]
mod frames;
#[path = "attacks/stalled.rs"]
mod stalled;
#[path = "attacks/target.rs"]
mod target;

use std::time::Duration;

use frames::{
    CONTINUATION, END_HEADERS, HEADERS, PING, RST_STREAM, SETTINGS, call, field, frame, hello,
};
use futures::future::join_all;
use stalled::{Kind, Plan, Stalled};
use target::{MIB, Target, attacker, closed, from, in_time, many, noise};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Between two bytes of who sends slowly.
const DRIP: Duration = Duration::from_millis(20);

/// Sends a byte after the other until the server has had enough.
async fn drip(mut stream: TcpStream, start: &str) {
    stream.write_all(start.as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.split();
    let mut answer = Vec::new();
    let drip = async {
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(DRIP).await;
        }
    };
    let end = async {
        let _ = read.read_to_end(&mut answer).await;
    };
    in_time("a slow sender's end", async {
        tokio::select! { () = drip => {} () = end => {} }
    })
    .await;
}

/// Sends this again and again, and reads nothing, until the server has had enough or has
/// read so many bytes without a word.
async fn flood(stream: &mut TcpStream, part: &[u8], most: u64) -> u64 {
    let mut sent = 0;
    while sent < most {
        match in_time("a flood's end", stream.write_all(part)).await {
            Ok(()) => sent += part.len() as u64,
            Err(_) => break,
        }
    }
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_and_greetings_that_drip() {
    let target = Target::start(&["--handshake-timeout", "4s"]);
    let mut good = target.good_client().await;
    good.works().await;
    let (peak, files) = (target.peak(), target.files());
    let mut slow = Vec::new();
    for _ in 0..150 {
        let heads = attacker(target.http).await;
        slow.push(tokio::spawn(drip(heads, "GET / HTTP/1.1\r\nx: ")));
        let greetings = attacker(target.grpc).await;
        slow.push(tokio::spawn(drip(greetings, "PRI * HT")));
        let silent = attacker(target.grpc).await;
        slow.push(tokio::spawn(async {
            closed(silent).await;
        }));
    }
    good.works().await;
    for slow in join_all(slow).await {
        slow.unwrap();
    }
    good.works().await;
    settled(&target, files).await;
    let grown = target.peak() - peak;
    assert!(grown < 64 * MIB, "{grown} bytes for 450 slow beginnings");
}

/// Waits until what an attack opened is closed again.
async fn settled(target: &Target, files: usize) {
    in_time("the end of what an attack opened", async {
        // The good client's own may have grown by a few.
        while target.files() > files + 8 {
            tokio::time::sleep(DRIP).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_drip() {
    let target = Target::start(&["--upload-idle-timeout", "4s"]);
    let mut good = target.good_client().await;
    good.works().await;
    let (peak, files) = (target.peak(), target.files());
    let mut slow = Vec::new();
    for at in 0..150 {
        let stream = attacker(target.http).await;
        let head = format!("PUT /dav/{at} HTTP/1.1\r\nhost: x\r\ncontent-length: 900000\r\n\r\n");
        slow.push(tokio::spawn(async move { drip(stream, &head).await }));
    }
    good.works().await;
    for slow in join_all(slow).await {
        slow.unwrap();
    }
    good.works().await;
    settled(&target, files).await;
    let grown = target.peak() - peak;
    assert!(grown < 48 * MIB, "{grown} bytes for 150 slow bodies");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_never_read() {
    let target = Target::start(&["--answer-idle-timeout", "4s"]);
    let data = noise(32 << 20);
    let mut put = TcpStream::connect(target.http).await.unwrap();
    let head = format!(
        "PUT /dav/large HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        data.len()
    );
    put.write_all(head.as_bytes()).await.unwrap();
    put.write_all(&data).await.unwrap();
    closed(put).await;
    let mut good = target.good_client().await;
    good.works().await;
    let (peak, files) = (target.peak(), target.files());
    let mut readers = Vec::new();
    for _ in 0..150 {
        let mut reader = attacker(target.http).await;
        let request = b"GET /dav/large HTTP/1.1\r\nhost: x\r\n\r\n";
        reader.write_all(request).await.unwrap();
        readers.push(reader);
    }
    good.works().await;
    // The server gives up; the sockets are still open on this side.
    settled(&target, files).await;
    good.works().await;
    drop(readers);
    let grown = target.peak() - peak;
    assert!(
        grown < 200 * MIB,
        "{grown} bytes for 150 answers that nobody reads"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_idle_connections_of_one_address() {
    let target = Target::start(&["--max-connections-per-address", "100"]);
    let files = target.files();
    let mut idle = Vec::new();
    for at in 0..many() {
        let port = if at % 2 == 0 {
            target.grpc
        } else {
            target.http
        };
        let mut stream = attacker(port).await;
        // What is refused may be closed before this.
        let _ = stream.write_all(&hello()).await;
        idle.push(stream);
    }
    // Places are counted by address: another one has its own.
    let mut good = target.good_client().await;
    good.works().await;
    let open = target.files();
    assert!(open <= files + 200 + 40, "{open} files");
    assert!(target.peak() < 300 * MIB, "{}", target.peak());
    drop(idle);
    // And they are given back.
    in_time("a place", async {
        loop {
            let mut stream = attacker(target.http).await;
            let request = b"GET /status HTTP/1.1\r\nconnection: close\r\n\r\n";
            let _ = stream.write_all(request).await;
            if closed(stream).await > 0 {
                return;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_connections_beyond_the_cap() {
    let target = Target::start(&[
        "--max-connections",
        "120",
        "--max-connections-per-address",
        "50",
    ]);
    let mut good = target.good_client().await;
    good.works().await;
    let files = target.files();
    let mut flood = Vec::new();
    for round in 0..many() {
        let host = 10 + (round % 40) as u8;
        let stream = from([127, 0, 0, host], target.grpc).await;
        flood.push(stream.unwrap());
        if round % 500 == 0 {
            good.works().await;
        }
    }
    // Its connections are there already: nobody takes their places.
    good.works().await;
    let open = target.files();
    assert!(open <= files + 120 + 40, "{open} files");
    assert!(target.peak() < 300 * MIB, "{}", target.peak());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_answer_pings_and_never_call() {
    let target = Target::start(&["--idle-timeout", "4s"]);
    let mut idle = Vec::new();
    for _ in 0..50 {
        let stream = attacker(target.grpc).await;
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        idle.push(async move {
            // A GOAWAY without an error, and the end.
            let ended = in_time("an idle connection's end", connection).await;
            drop(send);
            ended.unwrap()
        });
    }
    for ended in join_all(idle).await {
        ended.unwrap();
    }
    // One whose connection was ended so connects anew by itself.
    let mut good = target.good_client().await;
    good.works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_in_rapid_succession() {
    let target = Target::start(&[]);
    let mut good = target.good_client().await;
    good.works().await;
    let peak = target.peak();
    for _ in 0..10 {
        let mut stream = attacker(target.grpc).await;
        stream.write_all(&hello()).await.unwrap();
        let block = call("/zako.v1.transport.Transport/Upload");
        let (mut next, mut sent) = (1u32, 0u32);
        let ended = loop {
            let mut burst = Vec::new();
            for _ in 0..500 {
                burst.extend(frame(HEADERS, END_HEADERS, next, &block));
                burst.extend(frame(RST_STREAM, 0, next, &8u32.to_be_bytes()));
                next += 2;
            }
            sent += 500;
            if stream.write_all(&burst).await.is_err() {
                break true;
            }
            if sent > 200_000 {
                break false;
            }
        };
        assert!(ended, "{sent} resets were taken");
        good.works().await;
    }
    let grown = target.peak() - peak;
    assert!(grown < 64 * MIB, "{grown} bytes for resets");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_headers() {
    let target = Target::start(&[]);
    let mut good = target.good_client().await;
    good.works().await;
    let peak = target.peak();
    // Frames that go on with headers, which never end.
    for content in [vec![], field("x", "y").repeat(2000)] {
        let mut stream = attacker(target.grpc).await;
        let block = call("/zako.v1.store.Store/Stat");
        let start = [hello(), frame(HEADERS, 0, 1, &block)].concat();
        stream.write_all(&start).await.unwrap();
        let more = frame(CONTINUATION, 0, 1, &content).repeat(64);
        let sent = flood(&mut stream, &more, 256 * MIB).await;
        assert!(sent < 64 * MIB, "{sent} bytes of headers were taken");
        good.works().await;
    }
    // The same over HTTP/1: one without end, and many.
    for part in ["y".repeat(1 << 16), "x: y\r\n".repeat(1 << 13)] {
        let mut stream = attacker(target.http).await;
        stream.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
        let sent = flood(&mut stream, part.as_bytes(), 256 * MIB).await;
        assert!(sent < 64 * MIB, "{sent} bytes of headers were taken");
        good.works().await;
    }
    let grown = target.peak() - peak;
    assert!(grown < 64 * MIB, "{grown} bytes for headers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_settings_and_pings() {
    let target = Target::start(&["--answer-idle-timeout", "4s"]);
    let mut good = target.good_client().await;
    good.works().await;
    let peak = target.peak();
    let settings = [0, 4, 0, 1, 0, 0];
    for part in [frame(SETTINGS, 0, 0, &settings), frame(PING, 0, 0, &[7; 8])] {
        // Nobody reads the acknowledgements: the server stops to read, then gives up.
        let mut stream = attacker(target.grpc).await;
        stream.write_all(&hello()).await.unwrap();
        let sent = flood(&mut stream, &part.repeat(4096), 1024 * MIB).await;
        assert!(sent < 1024 * MIB, "{sent} bytes were taken");
        good.works().await;
    }
    let grown = target.peak() - peak;
    assert!(grown < 64 * MIB, "{grown} bytes for acknowledgements");
}

/// What connections and calls take besides the bytes that came, with room to spare.
const AROUND: u64 = 160 * MIB;

/// What may be sent in all that isn't read.
const RECEIVE: u64 = 32 * MIB;

/// What calls may hold in all of what they have read.
const HELD: u64 = 256 * MIB;

/// What uploads may hold in all for the next step that they write.
const STEPS: u64 = 128 * MIB;

/// Clients of one address send what they are let of so many calls, and never finish; the
/// server may hold so much of it besides what isn't read.
async fn stalled(plan: Plan, held: u64) {
    // Nothing is ended for being idle while this lasts.
    let receive = RECEIVE.to_string();
    let options = [
        "--max-receive-memory",
        &receive,
        "--upload-idle-timeout",
        "10m",
    ];
    let target = Target::start(&options);
    let mut good = target.good_client().await;
    good.works().await;
    let peak = target.peak();
    let stalled = Stalled::begin(target.grpc, plan).await;
    // The least window that HTTP/2 has.
    stalled.settled(65_535).await;
    good.works().await;
    let (grown, sent) = (target.peak() - peak, stalled.sent());
    drop(stalled);
    good.works().await;
    let most = RECEIVE + u64::from(plan.connections) * 65_536 + held + AROUND;
    assert!(
        sent > most + 50 * MIB,
        "{sent} bytes were sent, and {most} may be held"
    );
    assert!(grown < most, "{grown} of {most} bytes, {sent} sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_stall_on_many_connections() {
    let plan = Plan {
        kind: Kind::Upload,
        connections: 800,
        calls: 1,
    };
    stalled(plan, HELD).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_stall_on_many_connections() {
    let plan = Plan {
        kind: Kind::Batch,
        connections: 800,
        calls: 1,
    };
    stalled(plan, HELD).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_stall_on_many_connections() {
    let plan = Plan {
        kind: Kind::Request,
        connections: 100,
        calls: 10,
    };
    stalled(plan, HELD).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_of_build_tools_that_stall_on_many_connections() {
    let plan = Plan {
        kind: Kind::Write,
        connections: 100,
        calls: 10,
    };
    stalled(plan, HELD).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_uploads_that_stall_on_many_connections() {
    let plan = Plan {
        kind: Kind::LargeWrite,
        connections: 100,
        calls: 12,
    };
    stalled(plan, STEPS).await;
}
