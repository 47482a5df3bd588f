//! Limits of callers on the wire: what is refused, and how it is told; what is counted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::field_reassign_with_default,
    missing_docs
)]

mod wire_harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use wire_harness::message::{bytes, digest, framed, metadata};
use wire_harness::{Client, DETAILS, DOWNLOAD, NEGOTIATE, UPLOAD, code, pattern, until};
use zako_core::access::{Account, Accounted, Consumer, Direction, Exceeded, Limit, Quota};
use zako_core::cas::{Cas, Lease, Result};
use zako_core::server::{ListenAddr, Server, ServerOptions};
use zako_core::store::MemoryStore;

const BATCH: &str = "/zako.v1.batch.Batch/BatchUpload";

/// Counts, and refuses on demand.
#[derive(Debug, Default)]
struct Counting {
    refuses: AtomicBool,
    begun: AtomicU64,
    streams: AtomicI64,
    came: AtomicU64,
    went: AtomicU64,
    stored: AtomicU64,
    /// What may be stored; 0 is all.
    room: AtomicU64,
}

#[derive(Debug)]
struct Everyone(Arc<Counting>);

struct Serving {
    counting: Arc<Counting>,
    store: Arc<Accounted<MemoryStore>>,
    client: Client,
    _stop: oneshot::Sender<()>,
}

impl Counting {
    fn exceeded(&self, limit: Limit, message: &str) -> zako_core::cas::CasError {
        let subject = "identity:ci".to_owned();
        Exceeded { limit, subject }.into_error(message, Duration::from_secs(7))
    }
}

impl Quota for Everyone {
    fn account(&self, consumer: &Consumer<'_>) -> Option<Arc<dyn Account>> {
        assert!(consumer.address.unwrap().is_loopback());
        Some(Arc::clone(&self.0) as _)
    }
}

impl Account for Counting {
    fn begin(&self) -> Result<()> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err(self.exceeded(Limit::Requests, "too many requests"));
        }
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.streams.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn end(&self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }

    fn moved(&self, direction: Direction, bytes: u64) {
        let counter = match direction {
            Direction::In => &self.came,
            Direction::Out => &self.went,
        };
        counter.fetch_add(bytes, Ordering::Relaxed);
    }

    fn debt(&self, _: Direction) -> Duration {
        Duration::ZERO
    }

    fn reserve(&self, bytes: u64) -> Result<()> {
        let room = self.room.load(Ordering::Relaxed);
        if room > 0 && self.stored.load(Ordering::Relaxed) + bytes > room {
            return Err(self.exceeded(Limit::Stored, "the day's bytes are used up"));
        }
        self.stored.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn release(&self, bytes: u64) {
        self.stored.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Serving {
    async fn start() -> Self {
        let counting = Arc::new(Counting::default());
        let store = Arc::new(Accounted::new(MemoryStore::new(1 << 30)));
        let server = Server::new(store.clone(), ServerOptions::default())
            .with_quota(Arc::new(Everyone(Arc::clone(&counting))));
        let any = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
        let bound = server.bind(&any).await.unwrap();
        let ListenAddr::Tcp(addr) = *bound.local_addr() else {
            panic!("bound to {}", bound.local_addr());
        };
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(bound.serve(async {
            let _ = stopped.await;
        }));
        let mut client = Client::connect(addr).await;
        client.token = Some(client.negotiate().await);
        Self {
            counting,
            store,
            client,
            _stop: stop,
        }
    }

    fn stored(&self) -> u64 {
        self.counting.stored.load(Ordering::Relaxed)
    }

    /// An upload of this blob in messages that are not too long.
    async fn upload(&self, data: &[u8]) -> wire_harness::Answer {
        let blob = zako_digest::hash::bytes(data);
        let mut messages = vec![metadata(&blob, 0, None)];
        messages.extend(data.chunks(100_000).map(|chunk| bytes(2, chunk)));
        self.client.upload(&messages).await
    }
}

#[tokio::test]
async fn a_caller_beyond_its_rate_is_told_when_to_try_again() {
    let serving = Serving::start().await;
    serving.counting.refuses.store(true, Ordering::Relaxed);
    for path in [
        DOWNLOAD,
        UPLOAD,
        BATCH,
        DETAILS,
        NEGOTIATE,
        "/zako.v1.store.Store/Stat",
        "/grpc.health.v1.Health/Check",
    ] {
        let answer = serving.client.unary(path, b"").await;
        answer.expect(code::RESOURCE_EXHAUSTED);
        assert_eq!(answer.text, "too%20many%20requests");
        for detail in [
            "RATE_LIMITED",
            "google.rpc.RetryInfo",
            "google.rpc.QuotaFailure",
            "identity:ci",
        ] {
            assert!(answer.details_have(detail), "{path}: {detail}: {answer:?}");
        }
    }
    serving.counting.refuses.store(false, Ordering::Relaxed);
    serving.client.negotiate().await;
}

#[tokio::test]
async fn streams_are_given_back_however_calls_end() {
    let serving = Serving::start().await;
    let counting = Arc::clone(&serving.counting);
    let data = pattern(500_000);
    let blob = zako_digest::hash::bytes(&data);
    serving.upload(&data).await.expect(code::OK);
    let download = metadata(&blob, 0, None);
    serving.client.download(&download).await.expect(code::OK);
    // Wrong, unknown, given up, and not read.
    serving.client.download(b"\xff\xff").await;
    serving.client.unary("/no.Service/Call", b"").await;
    let mut call = serving.client.call(UPLOAD, &[]).await;
    call.send(framed(metadata(&blob, 0, None)).into(), false)
        .await;
    call.reset();
    let unread = serving.client.call(NEGOTIATE, &[]).await;
    until("a call has begun", || {
        counting.streams.load(Ordering::Relaxed) > 0
    })
    .await;
    drop(unread);
    until("all streams are given back", || {
        counting.streams.load(Ordering::Relaxed) == 0
    })
    .await;
    assert!(counting.begun.load(Ordering::Relaxed) >= 6);
    drop(serving);
    assert_eq!(counting.streams.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn bytes_are_booked_as_they_move() {
    let serving = Serving::start().await;
    let counting = &serving.counting;
    let data = pattern(3_000_000);
    let blob = zako_digest::hash::bytes(&data);
    serving.upload(&data).await.expect(code::OK);
    let came = counting.came.load(Ordering::Relaxed);
    assert!((3_000_000..3_010_000).contains(&came), "{came}");
    let before = counting.went.load(Ordering::Relaxed);
    let answer = serving.client.download(metadata(&blob, 0, None)).await;
    answer.expect(code::OK);
    let went = counting.went.load(Ordering::Relaxed) - before;
    assert!((3_000_000..3_010_000).contains(&went), "{went}");
}

#[tokio::test]
async fn what_is_newly_stored_is_booked_once() {
    let serving = Serving::start().await;
    let (small, large) = (pattern(1000), pattern(2_500_000));
    serving.upload(&small).await.expect(code::OK);
    assert_eq!(serving.stored(), 1000);
    serving.upload(&large).await.expect(code::OK);
    assert_eq!(serving.stored(), 2_501_000);
    serving.upload(&small).await.expect(code::ALREADY_EXISTS);
    // Bytes that are not the blob's.
    let wrong = zako_digest::hash::bytes(b"other bytes of this length");
    let messages = [metadata(&wrong, 0, None), bytes(2, [7; 26])];
    serving
        .client
        .upload(&messages)
        .await
        .expect(code::INVALID_ARGUMENT);
    assert_eq!(serving.stored(), 2_501_000);
    // Nobody's call: the server's own.
    let own = pattern(77);
    let own_digest = zako_digest::hash::bytes(&own);
    serving.store.put(&own_digest, own).await.unwrap();
    assert_eq!(serving.stored(), 2_501_000);
}

#[tokio::test]
async fn who_has_used_up_its_day_stores_nothing_new() {
    let serving = Serving::start().await;
    let known = pattern(600);
    serving.upload(&known).await.expect(code::OK);
    serving.counting.room.store(1000, Ordering::Relaxed);
    for length in [401, 2_000_000] {
        let answer = serving.upload(&pattern(length)).await;
        answer.expect(code::RESOURCE_EXHAUSTED);
        for detail in ["QUOTA_EXCEEDED", "google.rpc.RetryInfo", "identity:ci"] {
            assert!(answer.details_have(detail), "{answer:?}");
        }
    }
    assert_eq!(serving.stored(), 600);
    // In a batch each blob has its own outcome, and what is there already needs no room.
    let (fits, beyond) = (pattern(400), pattern(402));
    let entry = |data: &[u8]| {
        let blob = zako_digest::hash::bytes(data);
        bytes(1, [bytes(1, digest(&blob)), bytes(2, data)].concat())
    };
    let batch = [entry(&beyond), entry(&known), entry(&fits)].concat();
    serving.client.unary(BATCH, batch).await.expect(code::OK);
    assert_eq!(serving.stored(), 1000);
    let digests = [&beyond, &known, &fits].map(|data| zako_digest::hash::bytes(data));
    let missing = serving.store.missing(&digests, Lease::None).await.unwrap();
    assert_eq!(missing, [digests[0]]);
}
