//! Blobs over HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use bytes::Bytes;
use proptest::prelude::*;
use support::http::{HttpTest, chunked, head};
use support::{blake3, random, sha256};
use zako_core::cas::{Lease, Stored};
use zako_reapi::digest::DigestFunction;
use zako_reapi::http::HttpOptions;
use zako_reapi::proto::reapi::SpliceBlobRequest;
use zako_reapi::proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;

/// Longer than what is held in memory.
const LARGE: usize = (3 << 20) + 7;

#[tokio::test]
async fn blobs_are_stored_and_found_by_every_function() {
    let test = HttpTest::start().await;
    for length in [0, 1, 5000, LARGE] {
        let data = random(length);
        for function in DigestFunction::ALL {
            let digest = function.digest(&data);
            let path = match function {
                DigestFunction::Blake3 => format!("/cas/blake3/{}", digest.hex()),
                _ => format!("/cas/{}", digest.hex()),
            };
            let named = format!("/team/x/cas/{}/{}", function.name(), digest.hex());
            if length > 0 {
                assert_eq!(test.get(&path).await.status, 404, "{digest}");
                // By another name its bytes are here already.
                let is_first = function == DigestFunction::Sha256;
                let status = if is_first { 201 } else { 200 };
                let put = test.put(&path, &data).await.status;
                assert!(put == status || !is_first && put == 201, "{digest}: {put}");
            }
            assert_eq!(test.put(&named, &data).await.status, 200, "{digest}");
            for path in [path, named] {
                let answer = test.get(&path).await;
                assert_eq!(
                    (answer.status, answer.body.len()),
                    (200, length),
                    "{digest}"
                );
                assert!(answer.body == data, "{digest}");
                assert_eq!(answer.header("content-length"), length.to_string());
                assert_eq!(answer.header("etag"), format!("\"{}\"", digest.hex()));
                let seen = test.ask("HEAD", &path, &[], b"").await;
                assert_eq!(seen.status, 200);
                assert_eq!(seen.header("content-length"), length.to_string());
            }
        }
        // Stored once, whatever the names.
        assert!(
            test.cache()
                .missing(&[blake3(&data)], Lease::None)
                .await
                .unwrap()
                .is_empty()
        );
    }
    assert_eq!(test.usage().await.blobs, 3);
    assert_eq!(test.usage().await.partial_bytes, 0);
}

#[tokio::test]
async fn both_faces_have_one_store() {
    let test = HttpTest::start().await;
    let (ours, theirs) = (random(3000), random(3000));
    assert_eq!(
        test.cache().put(sha256(&ours), ours.clone()).await.unwrap(),
        Stored::New
    );
    let answer = test.get(&format!("/cas/{}", sha256(&ours).hex())).await;
    assert!(answer.body == ours);
    test.put(&format!("/cas/{}", sha256(&theirs).hex()), &theirs)
        .await;
    let found = test.cache().fetch_batch(&[sha256(&theirs)]).await;
    assert_eq!(found[0].as_ref().unwrap(), &theirs);
    // A blob that came by its own name has a size in it, which a hash alone doesn't tell.
    let own = random(3000);
    test.cache().put(blake3(&own), own.clone()).await.unwrap();
    let path = format!("/cas/blake3/{}", blake3(&own).hex());
    assert_eq!(test.get(&path).await.status, 404);
    assert_eq!(test.put(&path, &own).await.status, 200);
    assert!(test.get(&path).await.body == own);
}

#[tokio::test]
async fn what_was_put_together_from_chunks_is_a_blob_like_others() {
    let test = HttpTest::start().await;
    let chunks = [random(600_000), random(700_000), random(800_000)];
    let whole = chunks.concat();
    let digest = sha256(&whole);
    for chunk in &chunks {
        let path = format!("/cas/{}", sha256(chunk).hex());
        assert_eq!(test.put(&path, chunk).await.status, 201);
    }
    let mut grpc = ContentAddressableStorageClient::new(test.server.channel.clone());
    let request = SpliceBlobRequest {
        blob_digest: Some(digest.to_wire()),
        chunk_digests: chunks.iter().map(|chunk| sha256(chunk).to_wire()).collect(),
        ..SpliceBlobRequest::default()
    };
    grpc.splice_blob(request).await.unwrap();
    let path = format!("/cas/{}", digest.hex());
    assert!(test.get(&path).await.body == whole);
    let seen = test.ask("HEAD", &path, &[], b"").await;
    assert_eq!(seen.header("content-length"), whole.len().to_string());
    let range = [("range", "bytes=599990-1300009")];
    let part = test.ask("GET", &path, &range, b"").await;
    assert!(part.status == 206 && part.body == whole[599_990..1_300_010]);
    let zstd = test
        .ask("GET", &path, &[("accept-encoding", "zstd")], b"")
        .await;
    assert!(zstd::stream::decode_all(&*zstd.body).unwrap() == whole);
    assert_eq!(test.put(&path, &whole).await.status, 200);
    assert_eq!(test.usage().await.blobs, 4);
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_leave_nothing() {
    let test = HttpTest::start().await;
    for length in [10, LARGE] {
        let (data, other) = (random(length), random(length));
        let (path, digest) = (format!("/cas/{}", sha256(&data).hex()), sha256(&data));
        let answer = test.put(&path, &other).await;
        assert_eq!(answer.status, 400);
        assert!(
            answer.text().contains(&sha256(&other).hex()),
            "{}",
            answer.text()
        );
        let mut http = test.connect().await;
        http.send(head(
            "PUT",
            &path,
            &[("transfer-encoding", "chunked")],
            None,
        ))
        .await;
        http.send(chunked(&other, 70_000)).await;
        assert_eq!(http.answer("PUT").await.status, 400);
        // The connection goes on.
        assert_eq!(http.request("GET", &path, &[], b"").await.status, 404);
        let blake3 = format!("/cas/blake3/{}", blake3(&data).hex());
        assert_eq!(test.put(&blake3, &other).await.status, 400);
        assert_eq!(
            test.cache().missing(&[digest], Lease::None).await.unwrap(),
            [0]
        );
    }
    let usage = test.usage().await;
    assert_eq!((usage.blobs, usage.partial_bytes), (0, 0));
}

#[tokio::test]
async fn what_is_there_is_not_stored_again_and_its_sender_needs_not_send_it() {
    let test = HttpTest::start().await;
    let data = random(LARGE);
    let path = format!("/cas/{}", sha256(&data).hex());
    assert_eq!(test.put(&path, &data).await.status, 201);
    let mut http = test.connect().await;
    assert_eq!(http.request("PUT", &path, &[], &data).await.status, 200);
    assert_eq!(
        http.request("PUT", &path, &[], &data[1..]).await.status,
        400
    );
    http.send(head(
        "PUT",
        &path,
        &[("transfer-encoding", "chunked")],
        None,
    ))
    .await;
    http.send(chunked(&data, 1 << 20)).await;
    assert_eq!(http.answer("PUT").await.status, 200);
    // Who asks first sends nothing.
    let expects = [("expect", "100-continue")];
    http.send(head("PUT", &path, &expects, Some(data.len())))
        .await;
    assert_eq!(http.answer("PUT").await.status, 200);
    let mut http = test.connect().await;
    let new = random(100);
    let path = format!("/cas/{}", sha256(&new).hex());
    http.send(head("PUT", &path, &expects, Some(new.len())))
        .await;
    assert_eq!(http.answer("PUT").await.status, 100);
    http.send(&new).await;
    assert_eq!(http.answer("PUT").await.status, 201);
}

#[tokio::test]
async fn one_blob_from_many_at_once_is_stored_once() {
    let test = HttpTest::start().await;
    let data = random(LARGE);
    let path = format!("/cas/{}", sha256(&data).hex());
    let puts = (0..12).map(|_| test.put(&path, &data));
    let answers = futures::future::join_all(puts).await;
    assert!(
        answers
            .iter()
            .all(|answer| [200, 201].contains(&answer.status))
    );
    assert!(test.get(&path).await.body == data);
    let usage = test.usage().await;
    assert_eq!((usage.blobs, usage.partial_bytes), (1, 0));
}

#[tokio::test]
async fn limits_are_told_by_their_own_statuses() {
    let mut options = HttpOptions::default();
    options.max_blob_bytes = 2 << 20;
    let mut store = zako_core::store::StoreOptions::default();
    store.max_bytes = Some(24 << 20);
    let test = HttpTest::over(store, Default::default(), options).await;
    let data = random(LARGE);
    let path = format!("/cas/{}", sha256(&data).hex());
    let answer = test.put(&path, &data).await;
    assert_eq!(answer.status, 413);
    assert!(answer.text().contains("2097152"), "{}", answer.text());
    let mut http = test.connect().await;
    http.send(head(
        "PUT",
        &path,
        &[("transfer-encoding", "chunked")],
        None,
    ))
    .await;
    http.send(chunked(&data, 100_000)).await;
    assert_eq!(http.answer("PUT").await.status, 413);
    let bomb = zstd::bulk::compress(&vec![0; 100 << 20], 19).unwrap();
    let zeros = "00".repeat(32);
    let encoded = [("content-encoding", "zstd")];
    let answer = test
        .ask("PUT", &format!("/cas/{zeros}"), &encoded, &bomb)
        .await;
    assert_eq!(answer.status, 413);
    assert_eq!(test.usage().await.partial_bytes, 0);

    let mut store = zako_core::store::StoreOptions::default();
    store.max_bytes = Some(24 << 20);
    let test = HttpTest::over(store, Default::default(), HttpOptions::default()).await;
    let huge = random(40 << 20);
    let path = format!("/cas/{}", sha256(&huge).hex());
    let answer = test.put(&path, &huge).await;
    assert_eq!(answer.status, 507, "{}", answer.text());
    assert_eq!(test.usage().await.partial_bytes, 0);
}

#[tokio::test]
async fn tags_spare_content_and_guard_ranges() {
    let test = HttpTest::start().await;
    let data = random(1000);
    let hex = sha256(&data).hex();
    let path = format!("/cas/{hex}");
    let none_match = |tag: String| [("if-none-match", tag)];
    for tag in [format!("\"{hex}\""), "*".to_owned()] {
        let headers = none_match(tag);
        let headers = headers
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        assert_eq!(test.ask("GET", &path, &headers, b"").await.status, 404);
    }
    test.put(&path, &data).await;
    let tag = format!("\"{hex}\"");
    let answer = test
        .ask("GET", &path, &[("if-none-match", &tag)], b"")
        .await;
    assert_eq!((answer.status, answer.header("etag")), (304, &*tag));
    let answer = test
        .ask("GET", &path, &[("if-none-match", "\"x\"")], b"")
        .await;
    assert_eq!(answer.status, 200);
    let range = ("range", "bytes=1-2");
    let answer = test
        .ask("GET", &path, &[range, ("if-range", &tag)], b"")
        .await;
    assert_eq!((answer.status, &*answer.body), (206, &data[1..3]));
    assert_eq!(answer.header("content-range"), "bytes 1-2/1000");
    let answer = test
        .ask("GET", &path, &[range, ("if-range", "\"x\"")], b"")
        .await;
    assert_eq!((answer.status, answer.body.len()), (200, 1000));
    let answer = test
        .ask("GET", &path, &[("range", "bytes=1000-")], b"")
        .await;
    assert_eq!(
        (answer.status, answer.header("content-range")),
        (416, "bytes */1000")
    );
    let answer = test.ask("HEAD", &path, &[range], b"").await;
    assert_eq!(
        (answer.status, answer.header("content-length")),
        (200, "1000")
    );
}

#[tokio::test]
async fn compressed_answers_are_for_those_who_ask() {
    let test = HttpTest::start().await;
    let lines: String = (0..400_000).map(|line| format!("{line}\n")).collect();
    let zstd = [("accept-encoding", "zstd, gzip")];
    for length in [100, 5_000, lines.len()] {
        let data = Bytes::copy_from_slice(&lines.as_bytes()[..length]);
        let path = format!("/cas/{}", sha256(&data).hex());
        test.put(&path, &data).await;
        let answer = test.ask("GET", &path, &zstd, b"").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("vary"), "accept-encoding");
        if length == 100 {
            assert_eq!(answer.header("content-encoding"), "");
            assert!(answer.body == data);
            continue;
        }
        assert_eq!(answer.header("content-encoding"), "zstd");
        assert_eq!(
            answer.header("etag"),
            format!("\"{}-zstd\"", sha256(&data).hex())
        );
        assert!(answer.body.len() < length / 2);
        assert!(zstd::stream::decode_all(&*answer.body).unwrap() == data);
        for refuses in ["zstd;q=0", "gzip", "*"] {
            let answer = test
                .ask("GET", &path, &[("accept-encoding", refuses)], b"")
                .await;
            assert_eq!(answer.header("content-encoding"), "", "{refuses}");
            assert!(answer.body == data);
        }
        let part = [zstd[0], ("range", "bytes=10-19")];
        let answer = test.ask("GET", &path, &part, b"").await;
        assert_eq!((answer.status, &*answer.body), (206, &data[10..20]));
    }
    // What doesn't get shorter comes as it is.
    let data = random(5000);
    let path = format!("/cas/{}", sha256(&data).hex());
    test.put(&path, &data).await;
    let answer = test.ask("GET", &path, &zstd, b"").await;
    assert_eq!(answer.header("content-encoding"), "");
    assert!(answer.body == data);
}

#[tokio::test]
async fn compressed_uploads_are_stored_as_what_they_hold() {
    let test = HttpTest::start().await;
    let encoded = [("content-encoding", "zstd")];
    for length in [0, 10, 100_000, 5 << 20] {
        let mut data = vec![7; length];
        data[length / 2..].copy_from_slice(&random(length - length / 2));
        let path = format!("/cas/{}", sha256(&data).hex());
        let whole = zstd::bulk::compress(&data, 1).unwrap();
        let halves = data.split_at(length / 3);
        let frames = [halves.0, halves.1].map(|half| zstd::bulk::compress(half, 3).unwrap());
        if length > 0 {
            let answer = test
                .ask("PUT", &path, &encoded, &whole[..whole.len() - 1])
                .await;
            assert_eq!(answer.status, 400, "{}", answer.text());
            let answer = test.ask("PUT", &path, &encoded, &data).await;
            assert_eq!(answer.status, 400, "{}", answer.text());
            let answer = test.ask("PUT", &path, &encoded, &frames.concat()).await;
            assert_eq!(answer.status, 201, "{}", answer.text());
        }
        assert_eq!(test.ask("PUT", &path, &encoded, &whole).await.status, 200);
        assert!(test.get(&path).await.body == data);
    }
    let path = format!("/cas/{}", "12".repeat(32));
    for coding in ["gzip", "zstd, zstd", "br"] {
        let answer = test
            .ask("PUT", &path, &[("content-encoding", coding)], b"x")
            .await;
        assert_eq!(answer.status, 415, "{coding}");
    }
    let answer = test
        .ask("PUT", &path, &[("content-range", "bytes 0-0/2")], b"x")
        .await;
    assert_eq!(answer.status, 400);
    assert_eq!(test.usage().await.partial_bytes, 0);
}

#[tokio::test]
async fn methods_that_are_not_for_blobs_are_told_so() {
    let test = HttpTest::start().await;
    let path = format!("/cas/{}", "12".repeat(32));
    for method in ["DELETE", "POST", "PATCH", "PROPFIND", "MKCOL"] {
        let answer = test.ask(method, &path, &[], b"").await;
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, "GET, HEAD, PUT, OPTIONS")
        );
    }
    assert_eq!(test.ask("BREW", &path, &[], b"").await.status, 501);
    assert_eq!(test.ask("OPTIONS", &path, &[], b"").await.status, 204);
    assert_eq!(test.ask("OPTIONS", "*", &[], b"").await.status, 204);
}

#[test]
fn every_range_is_that_part() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (test, small, large) = runtime.block_on(async {
        let test = HttpTest::start().await;
        // One is a record, one a file of its own.
        let (small, large) = (random(20_000), random(LARGE));
        for data in [&small, &large] {
            test.put(&format!("/cas/{}", sha256(data).hex()), data)
                .await;
        }
        (test, small, large)
    });
    proptest!(ProptestConfig::with_cases(48), |(
        is_large: bool, first in 0..4_000_000usize, length in 1..1_000_000usize, form in 0..3
    )| {
        let data = if is_large { &large } else { &small };
        let size = data.len();
        let (first, last) = (first % size, first % size + length - 1);
        let (text, part) = match form {
            0 => (format!("bytes={first}-{last}"), first..(last + 1).min(size)),
            1 => (format!("bytes={first}-"), first..size),
            _ => (format!("bytes=-{length}"), size.saturating_sub(length)..size),
        };
        let path = format!("/cas/{}", sha256(data).hex());
        let answer = runtime.block_on(test.ask("GET", &path, &[("range", &text)], b""));
        prop_assert_eq!(answer.status, 206);
        let range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
        prop_assert_eq!(answer.header("content-range"), range);
        prop_assert!(answer.body == data[part]);
    });
}
