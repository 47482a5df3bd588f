//! Batches of small blobs, and looking after the store, by their field numbers.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod wire_harness;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use wire_harness::message::{bytes, bytes_in, digest, number, number_in};
use wire_harness::{Client, MapCas, Running, code, pattern};
use zako_core::Digest;
use zako_core::cas::{
    CasError, ErrorKind, GcReport, Maintain, Result, Usage, VerifyReport, VerifyScope,
};
use zako_core::server::{ListenAddr, MaintenanceAccess, Server, ServerOptions};
use zako_digest::hash;

const BATCH_UPLOAD: &str = "/zako.v1.batch.Batch/BatchUpload";
const BATCH_DOWNLOAD: &str = "/zako.v1.batch.Batch/BatchDownload";
const STAT: &str = "/zako.v1.store.Store/Stat";
const DELETE: &str = "/zako.v1.store.Store/Delete";
const VERIFY: &str = "/zako.v1.store.Store/Verify";
const COLLECT: &str = "/zako.v1.store.Store/CollectGarbage";
const STATUS: &str = "/zako.v1.store.Store/Status";
const MIB: usize = 1024 * 1024;

fn blob(of: &Digest, data: &[u8]) -> Vec<u8> {
    bytes(1, [bytes(1, digest(of)), bytes(2, data)].concat())
}

fn digests<'a>(of: impl IntoIterator<Item = &'a Digest>) -> Vec<u8> {
    of.into_iter().flat_map(|of| bytes(1, digest(of))).collect()
}

/// The codes of the outcomes in a BatchUploadResponse.
fn codes(response: &[u8]) -> Vec<u64> {
    let outcomes = bytes_in(response, 1);
    outcomes
        .iter()
        .map(|outcome| number_in(outcome, 2))
        .collect()
}

#[tokio::test]
async fn each_blob_of_a_batch_has_its_outcome() {
    let server = Running::start(ServerOptions::default()).await;
    let client = server.session().await;
    let good = hash::bytes(b"good");
    let full = hash::bytes(b"full");
    let old = server.cas.insert(&pattern(10));
    server
        .cas
        .fail(&full, CasError::new(ErrorKind::NoSpace, "full"));
    let request = [
        blob(&good, b"good"),
        blob(&good, b"bad!"),
        blob(&old, &pattern(10)),
        blob(&full, b"full"),
        blob(&Digest::EMPTY, b""),
    ]
    .concat();
    let answer = client.unary(BATCH_UPLOAD, request).await;
    let answer = answer.expect(code::OK).message();
    assert_eq!(codes(answer), [0, 3, 6, 8, 0]);
    assert_eq!(bytes_in(&bytes_in(answer, 1)[2], 1), [digest(&old)]);
    assert_eq!(server.cas.get(&good).unwrap(), "good");

    let absent = hash::bytes(b"absent");
    let request = digests([&good, &absent, &Digest::EMPTY, &full]);
    let answer = client.unary(BATCH_DOWNLOAD, request).await;
    let blobs = bytes_in(answer.expect(code::OK).message(), 1);
    let codes: Vec<u64> = blobs
        .iter()
        .map(|blob| number_in(&bytes_in(blob, 1)[0], 2))
        .collect();
    assert_eq!(codes, [0, 5, 0, 8]);
    assert_eq!(bytes_in(&blobs[0], 2), [b"good"]);
}

#[tokio::test]
async fn a_batch_is_bounded() {
    let server = Running::start(ServerOptions::default()).await;
    let client = server.session().await;
    let data = pattern(MIB);
    let named = hash::bytes(&data);
    let whole: Vec<u8> = (0..4).flat_map(|_| blob(&named, &data)).collect();
    let answer = client.unary(BATCH_UPLOAD, &whole).await;
    assert_eq!(codes(answer.expect(code::OK).message()), [0, 6, 6, 6]);
    let more = [whole, blob(&hash::bytes(b"x"), b"x")].concat();
    let answer = client.unary(BATCH_UPLOAD, more).await;
    answer.expect(code::INVALID_ARGUMENT);
    assert_eq!(server.cas.get(&hash::bytes(b"x")), None);

    let answer = client.unary(BATCH_DOWNLOAD, digests([&named; 4])).await;
    answer.expect(code::OK);
    let fetches = server.cas.counts.fetches.load(Ordering::Relaxed);
    let huge = Digest::new(*named.hash(), u64::MAX);
    for request in [
        digests([&named; 5]),
        digests([&huge]),
        digests([&huge, &huge]),
    ] {
        let answer = client.unary(BATCH_DOWNLOAD, request).await;
        answer.expect(code::INVALID_ARGUMENT);
    }
    assert_eq!(server.cas.counts.fetches.load(Ordering::Relaxed), fetches);
}

#[tokio::test]
async fn digests_must_be_whole() {
    let server = Running::start(ServerOptions::default()).await;
    let client = server.session().await;
    let short = bytes(1, [number(1, 1), bytes(2, [0; 31])].concat());
    for path in [BATCH_DOWNLOAD, STAT, DELETE] {
        client
            .unary(path, &short)
            .await
            .expect(code::INVALID_ARGUMENT);
    }
    for request in [bytes(1, &short), bytes(1, bytes(2, b"no digest"))] {
        client
            .unary(BATCH_UPLOAD, request)
            .await
            .expect(code::INVALID_ARGUMENT);
    }
}

#[tokio::test]
async fn stat_tells_what_is_here_and_what_is_held() {
    let server = Running::start(ServerOptions::default()).await;
    let client = server.client().await;
    let here = server.cas.insert(&pattern(10));
    let part = hash::bytes(&pattern(20));
    server.cas.set_partial(&part, &pattern(7));
    let absent = hash::bytes(b"absent");
    let answer = client.unary(STAT, digests([&here, &part, &absent])).await;
    let blobs = bytes_in(answer.expect(code::OK).message(), 1);
    let figures: Vec<(u64, u64)> = blobs
        .iter()
        .map(|blob| (number_in(blob, 2), number_in(blob, 3)))
        .collect();
    assert_eq!(figures, [(1, 0), (0, 7), (0, 0)]);
    assert_eq!(bytes_in(&blobs[0], 1), [digest(&here)]);
    assert_eq!(bytes_in(&blobs[0], 5), [b"memory"]);
}

#[tokio::test]
async fn delete_tells_what_was_there() {
    let server = Running::start(ServerOptions::default()).await;
    let client = server.session().await;
    let here = server.cas.insert(&pattern(10));
    let absent = hash::bytes(b"absent");
    let answer = client.unary(DELETE, digests([&absent, &here, &here])).await;
    let deleted = bytes_in(answer.expect(code::OK).message(), 1);
    assert_eq!(deleted, [digest(&here)]);
    assert_eq!(server.cas.get(&here), None);
}

/// Finds one corrupt blob after the other.
#[derive(Debug)]
struct Keeper {
    corrupt: Vec<Digest>,
}

#[async_trait::async_trait]
impl Maintain for Keeper {
    async fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        usage.blobs = 12;
        usage.disk_bytes = 345;
        usage.durability = "immediate";
        Ok(usage)
    }

    async fn verify(
        &self,
        scope: VerifyScope,
        progress: mpsc::Sender<VerifyReport>,
    ) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        if let VerifyScope::Blobs(asked) = scope {
            report.missing = asked;
        }
        for corrupt in &self.corrupt {
            report.blobs_checked += 1;
            report.corrupt.push(*corrupt);
            let _ = progress.send(report.clone()).await;
        }
        report.blobs_total = 99;
        Ok(report)
    }

    async fn collect_garbage(&self) -> Result<GcReport> {
        let mut report = GcReport::default();
        report.bytes_freed = 678;
        Ok(report)
    }
}

async fn kept(corrupt: Vec<Digest>, access: MaintenanceAccess) -> Client {
    let mut options = ServerOptions::default();
    options.maintenance = access;
    let any = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
    let bound = Server::new(Arc::new(MapCas::default()), options)
        .with_maintenance(Arc::new(Keeper { corrupt }))
        .bind(&any)
        .await
        .unwrap();
    let ListenAddr::Tcp(addr) = *bound.local_addr() else {
        panic!("{bound:?}")
    };
    tokio::spawn(bound.serve(std::future::pending()));
    Client::connect(addr).await
}

#[tokio::test]
async fn a_verification_tells_each_finding_once() {
    let corrupt: Vec<Digest> = [&b"a"[..], b"b", b"c"].map(hash::bytes).to_vec();
    let client = kept(corrupt.clone(), MaintenanceAccess::default()).await;
    let asked = hash::bytes(b"asked");
    let answer = client.unary(VERIFY, digests([&asked])).await;
    answer.expect(code::OK);
    let all = |field| -> Vec<Vec<u8>> {
        let messages = answer.messages.iter();
        messages
            .flat_map(|message| bytes_in(message, field))
            .collect()
    };
    assert_eq!(all(5), corrupt.iter().map(digest).collect::<Vec<_>>());
    assert_eq!(all(6), [digest(&asked)]);
    let done: Vec<u64> = answer.messages.iter().map(|m| number_in(m, 8)).collect();
    assert_eq!(done, [0, 0, 0, 1]);
    let last = answer.messages.last().unwrap();
    assert_eq!((number_in(last, 1), number_in(last, 3)), (3, 99));
}

#[tokio::test]
async fn maintenance_is_for_those_who_may() {
    let client = kept(vec![], MaintenanceAccess::Loopback).await;
    let answer = client.unary(COLLECT, b"").await;
    assert_eq!(number_in(answer.expect(code::OK).message(), 2), 678);
    let client = kept(vec![], MaintenanceAccess::Nobody).await;
    client
        .unary(COLLECT, b"")
        .await
        .expect(code::PERMISSION_DENIED);
    client
        .unary(VERIFY, b"")
        .await
        .expect(code::PERMISSION_DENIED);
    let status = client.unary(STATUS, b"").await;
    let status = status.expect(code::OK).message().to_vec();
    assert_eq!((number_in(&status, 2), number_in(&status, 4)), (12, 345));
    assert_eq!(bytes_in(&status, 12), [b"immediate"]);
    assert!(number_in(&status, 13) > 1_700_000_000_000);

    // A store that this process doesn't own has no maintenance.
    let server = Running::start(ServerOptions::default()).await;
    let client = server.session().await;
    client
        .unary(COLLECT, b"")
        .await
        .expect(code::FAILED_PRECONDITION);
    client
        .unary(VERIFY, b"")
        .await
        .expect(code::FAILED_PRECONDITION);
    // The token of `session` opens a session with the first bulk call, not before.
    let status = client.unary(STATUS, b"").await;
    assert_eq!(number_in(status.expect(code::OK).message(), 10), 0);
    client.unary(BATCH_UPLOAD, b"").await.expect(code::OK);
    let status = client.unary(STATUS, b"").await;
    assert_eq!(number_in(status.expect(code::OK).message(), 10), 1);
}
