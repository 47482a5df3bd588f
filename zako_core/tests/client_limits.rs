//! A client whose server limits it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod client_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use client_support::{Running, any_port, noise};
use zako_core::BlobRange;
use zako_core::access::{Account, Consumer, Direction, Exceeded, Limit, Quota};
use zako_core::cas::{Cas, ErrorKind, Result};
use zako_core::client::{Client, ClientOptions};
use zako_core::server::{Server, ServerOptions};
use zako_core::store::MemoryStore;

/// Every third call is one too many.
#[derive(Debug)]
struct EveryThird {
    calls: AtomicU64,
    /// From when on.
    limits: AtomicBool,
    retry_after: Duration,
}

#[derive(Debug)]
struct Everyone(Arc<EveryThird>);

impl Quota for Everyone {
    fn account(&self, _: &Consumer<'_>) -> Option<Arc<dyn Account>> {
        Some(Arc::clone(&self.0) as _)
    }
}

impl Account for EveryThird {
    fn begin(&self) -> Result<()> {
        if self.limits.load(Ordering::Relaxed)
            && self.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(3)
        {
            let (limit, subject) = (Limit::Requests, "identity:ci".to_owned());
            let exceeded = Exceeded { limit, subject };
            return Err(exceeded.into_error("too many requests", self.retry_after));
        }
        Ok(())
    }

    fn end(&self) {}

    fn moved(&self, _: Direction, _: u64) {}

    fn debt(&self, _: Direction) -> Duration {
        Duration::ZERO
    }

    fn reserve(&self, _: u64) -> Result<()> {
        Ok(())
    }

    fn release(&self, _: u64) {}
}

async fn limited(retry_after: Duration) -> (Running, Arc<EveryThird>) {
    let limits = Arc::new(EveryThird {
        calls: AtomicU64::new(0),
        limits: AtomicBool::new(false),
        retry_after,
    });
    let store = Arc::new(MemoryStore::new(1 << 30));
    let server = Server::new(store, ServerOptions::default());
    let server = server.with_quota(Arc::new(Everyone(Arc::clone(&limits))));
    (Running::run(server, &any_port()).await, limits)
}

#[tokio::test]
async fn it_waits_as_it_is_told_and_comes_through() {
    let after = Duration::from_millis(300);
    let (server, limits) = limited(after).await;
    let client = Client::connect(&server.url, ClientOptions::default());
    let client = client.await.unwrap();
    limits.limits.store(true, Ordering::Relaxed);
    for length in [100, 3_000_000] {
        let data = noise(length as u64, length);
        let digest = zako_digest::hash::bytes(&data);
        let (began, calls) = (Instant::now(), limits.calls.load(Ordering::Relaxed));
        client.put(&digest, data.clone()).await.unwrap();
        let blob = client.fetch(&digest, BlobRange::FULL).await.unwrap();
        assert!(blob.bytes().await.unwrap() == data);
        let refused = (limits.calls.load(Ordering::Relaxed) - calls) / 3;
        // Not sooner than it was told; how much later is not the point.
        assert!(refused > 0 && began.elapsed() >= after, "{refused}");
    }
}

#[tokio::test]
async fn it_does_not_wait_for_hours_but_says_what_is_wrong() {
    let (server, limits) = limited(Duration::from_secs(3600)).await;
    let client = server.client().await;
    limits.limits.store(true, Ordering::Relaxed);
    let data = noise(1, 1000);
    let digest = zako_digest::hash::bytes(&data);
    let error = client.put(&digest, data).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    let exceeded = Exceeded::of(&error).unwrap();
    assert_eq!(exceeded.limit, Limit::Requests);
    assert_eq!(exceeded.subject, "identity:ci");
    assert!(error.to_string().contains("too many requests"), "{error}");
}
