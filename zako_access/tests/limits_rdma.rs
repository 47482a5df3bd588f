//! Limits of callers hold for what moves over RDMA as for calls.
//!
//! The fabric in memory wants one thread: the tests run on runtimes of one.
#![allow(clippy::unwrap_used, clippy::field_reassign_with_default)]

mod support;

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use support::limited::{HOUR, Limited, day, limits, writers};
use support::token;
use zako_access::{AccessControl, LimitTable};
use zako_core::access::{Accounted, Direction, Exceeded, Limit, Secret};
use zako_core::cas::{BlobWriter, Cas, CasError, CasExt, ErrorKind, Stored};
use zako_core::client::{Client, ClientOptions, RetryPolicy, ServerUrl, SessionOptions};
use zako_core::server::{ListenAddr, RdmaOptions, Server, ServerOptions};
use zako_core::store::MemoryStore;
use zako_core::{BlobRange, Digest};
use zako_rdma::soft::{Faults, SoftNetwork};

/// Large enough for RDMA, and so small that nothing is asked by gRPC before.
const LENGTH: usize = 200_000;

const MIB: usize = 1 << 20;

/// After so long, what is awaited will not come.
const HUNG: Duration = Duration::from_secs(60);

/// A server that offers RDMA under limits, and the network to it.
struct Joined {
    url: ServerUrl,
    network: SoftNetwork,
}

impl Joined {
    async fn new(limited: &Limited) -> Self {
        let network = SoftNetwork::new(7, Faults::default());
        let mut rdma = RdmaOptions::new(network.fabric(), vec!["127.0.0.0/8".parse().unwrap()]);
        rdma.session = session();
        let store = Arc::new(Accounted::new(MemoryStore::new(1 << 30)));
        let server = Server::new(store, ServerOptions::default())
            .with_authorizer(Arc::new(AccessControl::new(writers()).unwrap()))
            .with_quota(limited.quotas.clone())
            .with_rdma(rdma);
        let bound = server.bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let ListenAddr::Tcp(addr) = *bound.local_addr() else {
            unreachable!("a port was asked for");
        };
        tokio::spawn(bound.serve(std::future::pending()));
        let url = ServerUrl::from(addr);
        Self { url, network }
    }

    async fn client(&self, retry: RetryPolicy) -> Client {
        let mut options = ClientOptions::default();
        options.token = Some(Secret::new(token("ci")));
        options.rdma = session();
        options.retry = retry;
        let client = Client::connect_over(&self.url, options, self.network.fabric());
        client.await.unwrap()
    }

    /// One with an open session that tries nothing again, and a blob that is there.
    async fn ready(&self) -> (Client, Digest) {
        let client = self.client(RetryPolicy::NEVER).await;
        let (digest, data) = blob(0, LENGTH);
        client.put(&digest, data).await.unwrap();
        assert_eq!(client.roads().rdma.sent_bytes, LENGTH as u64);
        (client, digest)
    }
}

fn session() -> SessionOptions {
    SessionOptions {
        slot_bytes: 64 << 10,
        exposed_slots: 8,
        pull_slots: 8,
        lent_slots: 8,
        transfers: 4,
        ..SessionOptions::default()
    }
}

/// `length` bytes that no other blob of a test has.
fn blob(number: u8, length: usize) -> (Digest, Bytes) {
    let mut data = vec![number; length];
    data[..4].copy_from_slice(&(length as u32).to_be_bytes());
    (zako_digest::hash::bytes(&data), data.into())
}

/// It says what was exceeded, by whom, and when to try again.
#[track_caller]
fn refused(error: &CasError, limit: Limit, after: Duration) {
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
    let exceeded = Exceeded::of(error).unwrap();
    assert_eq!((exceeded.limit, &*exceeded.subject), (limit, "identity:ci"));
    assert_eq!(error.retry_after(), Some(after), "{error:?}");
}

/// The client took no other road, and holds nothing against this one.
#[track_caller]
fn stayed(client: &Client) {
    let roads = client.roads();
    assert_eq!((roads.grpc.transfers, roads.fallbacks), (0, 0), "{roads:?}");
}

#[tokio::test]
async fn transfers_beyond_the_rate_are_refused_both_ways() {
    let rate = limits(|limits| limits.requests_per_second = NonZeroU32::new(100));
    let limited = Limited::new([("ci", rate)]);
    let joined = Joined::new(&limited).await;
    let (client, digest) = joined.ready().await;
    let account = limited.account();
    while account.begin().is_ok() {
        account.end();
    }
    let after = Duration::from_millis(10);
    let error = client.fetch(&digest, BlobRange::FULL).await.unwrap_err();
    refused(&error, Limit::Requests, after);
    let (other, data) = blob(1, LENGTH);
    let error = client.put(&other, data.clone()).await.unwrap_err();
    refused(&error, Limit::Requests, after);
    limited.pass(after);
    client.fetch_bytes(&digest).await.unwrap();
    limited.pass(after);
    assert_eq!(client.put(&other, data).await.unwrap(), Stored::New);
    stayed(&client);
}

#[tokio::test]
async fn who_is_told_to_wait_comes_through_on_the_same_road() {
    let rate = limits(|limits| limits.requests_per_second = NonZeroU32::new(100));
    let limited = Limited::new([("ci", rate)]);
    let joined = Joined::new(&limited).await;
    let client = joined.client(RetryPolicy::default()).await;
    let (first, data) = blob(0, LENGTH);
    client.put(&first, data).await.unwrap();
    let account = limited.account();
    for number in 1..5 {
        let (digest, data) = blob(number, LENGTH);
        while account.begin().is_ok() {
            account.end();
        }
        let moving = async {
            assert_eq!(
                client.put(&digest, data.clone()).await.unwrap(),
                Stored::New
            );
            assert_eq!(client.fetch_bytes(&digest).await.unwrap(), data);
        };
        let passing = async {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                limited.pass(Duration::from_millis(1));
            }
        };
        tokio::select! {
            () = moving => {}
            () = passing => {}
            () = tokio::time::sleep(HUNG) => panic!("it was never admitted"),
        }
    }
    stayed(&client);
}

#[tokio::test]
async fn bytes_are_booked_and_slowed_down_and_who_is_far_ahead_is_refused() {
    let rate = 1_000_000_000;
    let both = limits(|limits| {
        limits.bytes_in_per_second = NonZeroU64::new(rate);
        limits.bytes_out_per_second = NonZeroU64::new(rate);
    });
    let limited = Limited::new([("ci", both)]);
    let joined = Joined::new(&limited).await;
    let (client, _) = joined.ready().await;
    let account = limited.account();
    // What is free after a rest is used up: what moves is the debt, a nanosecond a byte.
    account.moved(Direction::In, rate);
    account.moved(Direction::Out, rate);
    let debts = || [Direction::In, Direction::Out].map(|way| account.debt(way).as_nanos());
    let (digest, data) = blob(1, LENGTH);
    let before = debts();
    client.put(&digest, data).await.unwrap();
    let stored = debts();
    client.fetch_bytes(&digest).await.unwrap();
    let (came, went) = (stored[0] - before[0], debts()[1] - stored[1]);
    // Messages about the bytes count, too.
    let all = LENGTH as u128..LENGTH as u128 + 5_000;
    assert!(all.contains(&came) && all.contains(&went), "{came} {went}");

    let debt = Duration::from_millis(300);
    account.moved(Direction::Out, debt.as_nanos() as u64);
    let began = Instant::now();
    client.fetch_bytes(&digest).await.unwrap();
    // How much later is not the point.
    assert!(began.elapsed() >= debt);

    account.moved(Direction::In, 3 * rate);
    let ahead = account.debt(Direction::In) - Duration::from_secs(2);
    let error = client.fetch(&digest, BlobRange::FULL).await.unwrap_err();
    assert_eq!(Exceeded::of(&error).unwrap().limit, Limit::Requests);
    let told = error.retry_after().unwrap();
    assert!(told >= ahead && told < ahead + debt, "{told:?} {ahead:?}");
    // All of the debt, which the session's own messages would wait for.
    limited.pass(Duration::from_secs(4));
    client.fetch_bytes(&digest).await.unwrap();
    stayed(&client);
}

#[tokio::test]
async fn a_transfer_is_one_of_the_calls_at_once() {
    let three = limits(|limits| limits.streams = NonZeroU32::new(3));
    let limited = Limited::new([("ci", three)]);
    let joined = Joined::new(&limited).await;
    let (client, digest) = joined.ready().await;
    let account = limited.account();
    // The session is one.
    until("the other calls are over", || {
        if account.begin().is_err() {
            return false;
        }
        let both = account.begin().is_ok();
        if !both {
            account.end();
        }
        both
    })
    .await;
    let error = client.fetch(&digest, BlobRange::FULL).await.unwrap_err();
    refused(&error, Limit::Requests, Duration::from_millis(200));
    account.end();
    for _ in 0..3 {
        client.fetch_bytes(&digest).await.unwrap();
        until("the transfer's place is free", || {
            let free = account.begin().is_ok();
            if free {
                account.end();
            }
            free
        })
        .await;
    }
    stayed(&client);
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(HUNG, waiting).await;
    waited.unwrap_or_else(|_| panic!("it never came that {what}"));
}

#[tokio::test]
async fn who_has_used_up_its_day_stores_nothing_new() {
    let limited = Limited::new([("ci", day(3 * MIB as u64))]);
    let joined = Joined::new(&limited).await;
    let (client, known) = joined.ready().await;
    let account = limited.account();
    limited.pass_hours(23);
    let rest = 3 * MIB - LENGTH;
    // When the hour ends that is a day ago by then.
    let hour = Duration::from_secs(HOUR);
    let (beyond, data) = blob(1, rest + 1);
    let error = client.put(&beyond, data).await.unwrap_err();
    refused(&error, Limit::Stored, hour);
    // What is put aside or given up takes no room.
    let (digest, data) = blob(2, rest);
    let parts = async || -> Box<dyn BlobWriter> {
        let mut writer = client.writer(&digest, 0).await.unwrap();
        writer.write(data.slice(..MIB)).await.unwrap();
        writer
    };
    parts().await.discard().await.unwrap();
    assert_eq!(parts().await.park().await.unwrap(), MIB as u64);
    account.reserve(rest as u64).unwrap();
    account.release(rest as u64);
    assert_eq!(client.put(&digest, data).await.unwrap(), Stored::New);
    let (small, data) = blob(3, LENGTH);
    let error = client.put(&small, data.clone()).await.unwrap_err();
    refused(&error, Limit::Stored, hour);
    // What is there needs none, and is read.
    let (_, known_data) = blob(0, LENGTH);
    assert_eq!(
        client.put(&known, known_data).await.unwrap(),
        Stored::Existing
    );
    client.fetch_bytes(&digest).await.unwrap();
    limited.pass_hours(1);
    assert_eq!(client.put(&small, data).await.unwrap(), Stored::New);
    stayed(&client);
}

#[tokio::test]
async fn limits_that_change_are_in_force_on_sessions_that_are_open() {
    let limited = Limited::new([]);
    let joined = Joined::new(&limited).await;
    let (client, digest) = joined.ready().await;
    let mut table = LimitTable::default();
    table
        .identities
        .insert("ci".to_owned(), day(LENGTH as u64 - 1));
    limited.quotas.replace(table);
    let (small, data) = blob(1, LENGTH);
    let error = client.put(&small, data).await.unwrap_err();
    assert_eq!(Exceeded::of(&error).unwrap().limit, Limit::Stored);
    client.fetch_bytes(&digest).await.unwrap();
    stayed(&client);
}
