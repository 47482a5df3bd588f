//! The protocol as its field numbers say, spoken byte by byte.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod wire_harness;

use wire_harness::message::{
    Value, bytes, bytes_in, chunk, digest, fields, framed, metadata, number, number_in,
};
use wire_harness::{Answer, DETAILS, NEGOTIATE, Running, UPLOAD, code, pattern};
use zako_core::Digest;
use zako_core::server::ServerOptions;
use zako_digest::hash;

async fn running() -> Running {
    Running::start(ServerOptions::default()).await
}

fn committed(answer: &Answer) -> u64 {
    answer.expect(code::OK);
    number_in(answer.message(), 1)
}

#[tokio::test]
async fn a_download_is_the_blob() {
    let server = running().await;
    let client = server.session().await;
    for size in [0, 1, 5, 70_000, 256 * 1024, 256 * 1024 + 1, 3_000_000] {
        let data = pattern(size);
        let digest = server.cas.insert(&data);
        let answer = client.download(metadata(&digest, 0, None)).await;
        answer.expect(code::OK);
        assert_eq!(answer.headers["content-type"], "application/grpc");
        assert!(answer.data() == data, "{size}");
    }
}

#[tokio::test]
async fn a_download_of_a_part_is_that_part() {
    let server = running().await;
    let client = server.session().await;
    let data = pattern(1000);
    let digest = server.cas.insert(&data);
    for (start, length, part) in [
        (0, None, 0..1000),
        (0, Some(0), 0..0),
        (10, Some(5), 10..15),
        (999, None, 999..1000),
        (1000, None, 1000..1000),
        (1000, Some(0), 1000..1000),
    ] {
        let answer = client.download(metadata(&digest, start, length)).await;
        answer.expect(code::OK);
        assert_eq!(answer.data(), data[part]);
    }
    for (start, length) in [
        (1001, None),
        (1000, Some(1)),
        (0, Some(1001)),
        (1, Some(u64::MAX)),
    ] {
        let answer = client.download(metadata(&digest, start, length)).await;
        answer.expect(code::INVALID_ARGUMENT);
        assert!(answer.details_have("INVALID_RANGE"));
        assert!(answer.messages.is_empty());
    }
}

#[tokio::test]
async fn an_absent_blob_is_not_found_by_its_name() {
    let server = running().await;
    let client = server.session().await;
    let digest = hash::bytes(b"never stored");
    let answer = client.download(metadata(&digest, 0, None)).await;
    answer.expect(code::NOT_FOUND);
    assert!(answer.details_have("NOT_FOUND") && answer.details_have(&digest.to_string()));
}

#[tokio::test]
async fn uploads_of_all_sizes_are_stored() {
    let server = running().await;
    let client = server.session().await;
    for size in [0, 1, 1000, 1 << 20, (1 << 20) + 1, 3_000_000] {
        let data = pattern(size);
        let digest = hash::bytes(&data);
        let mut messages = vec![metadata(&digest, 0, None)];
        messages.extend(data.chunks(100_000).map(chunk));
        let answer = client.upload(&messages).await;
        assert_eq!(committed(&answer), size as u64);
        assert_eq!(server.cas.get(&digest), Some(data));
    }
}

#[tokio::test]
async fn a_length_that_reaches_the_end_may_be_given() {
    let server = running().await;
    let client = server.session().await;
    let data = pattern(1000);
    let digest = hash::bytes(&data);
    let short = metadata(&digest, 0, Some(999));
    let answer = client.upload(&[short, chunk(&data[..999])]).await;
    answer.expect(code::INVALID_ARGUMENT);
    assert_eq!(server.cas.get(&digest), None);
    let whole = metadata(&digest, 0, Some(1000));
    assert_eq!(
        committed(&client.upload(&[whole, chunk(&data)]).await),
        1000
    );
}

#[tokio::test]
async fn metadata_alone_asks_what_is_held_and_the_rest_may_follow() {
    let server = running().await;
    let client = server.session().await;
    let data = pattern(2_000_000);
    let digest = hash::bytes(&data);
    let asked = client.upload(&[metadata(&digest, 0, None)]).await;
    assert_eq!(committed(&asked), 0);

    server.cas.set_partial(&digest, &data[..1_500_000]);
    let asked = client.upload(&[metadata(&digest, 0, None)]).await;
    assert_eq!(committed(&asked), 1_500_000);
    assert_eq!(server.cas.get(&digest), None);

    let beyond = client.upload(&[metadata(&digest, 1_500_001, None)]).await;
    beyond.expect(code::INVALID_ARGUMENT);
    assert!(beyond.text.contains("1500000"), "{beyond:?}");
    assert!(beyond.details_have("NOT_HELD") && beyond.details_have("1500000"));
    assert_eq!(server.cas.partial(&digest), Some(1_500_000));

    let rest = [
        metadata(&digest, 1_400_000, None),
        chunk(&data[1_400_000..]),
    ];
    assert_eq!(committed(&client.upload(&rest).await), 2_000_000);
    assert_eq!(server.cas.get(&digest), Some(data));
}

#[tokio::test]
async fn an_upload_that_begins_at_its_end_is_committed() {
    let server = running().await;
    let client = server.session().await;
    let data = pattern(5000);
    let digest = hash::bytes(&data);
    server.cas.set_partial(&digest, &data);
    let answer = client.upload(&[metadata(&digest, 5000, None)]).await;
    assert_eq!(committed(&answer), 5000);
    assert_eq!(server.cas.get(&digest), Some(data));
}

#[tokio::test]
async fn a_blob_that_exists_is_told_before_it_is_sent() {
    let server = running().await;
    let client = server.session().await;
    let digest = server.cas.insert(&pattern(5_000_000));
    let mut call = client.call(UPLOAD, &[]).await;
    // Neither a chunk nor the end of the stream is sent.
    let message = framed(metadata(&digest, 0, None));
    call.send(message.into(), false).await;
    let answer = call.answer().await;
    answer.expect(code::ALREADY_EXISTS);
    assert!(answer.details_have("5000000"));
}

#[tokio::test]
async fn of_two_uploads_of_a_blob_one_stores_it() {
    let server = running().await;
    let client = server.session().await;
    for size in [1000, 2_000_000] {
        let data = pattern(size);
        let digest = hash::bytes(&data);
        let head = [
            framed(metadata(&digest, 0, None)),
            framed(chunk(&data[..10])),
        ]
        .concat();
        let rest = framed(chunk(&data[10..]));
        let (mut first, mut second) = (
            client.call(UPLOAD, &[]).await,
            client.call(UPLOAD, &[]).await,
        );
        first.send(head.clone().into(), false).await;
        second.send(head.into(), false).await;
        // Both have been begun when this is answered, which takes no stream of the session:
        // with one core it has two.
        let health = client.unary("/grpc.health.v1.Health/Check", b"").await;
        health.expect(code::OK);
        second.send(rest.clone().into(), true).await;
        assert_eq!(committed(&second.answer().await), size as u64);
        first.send(rest.into(), true).await;
        first.answer().await.expect(code::ALREADY_EXISTS);
        assert_eq!(server.cas.get(&digest), Some(data));
    }
}

#[tokio::test]
async fn unknown_fields_and_odd_encodings_are_read() {
    let server = running().await;
    let client = server.session().await;
    let data = pattern(100);
    let named = hash::bytes(&data);
    let unknown = [
        number(100, 7),
        bytes(101, b"later"),
        vec![0x95, 0x06, 1, 2, 3, 4],
    ]
    .concat();
    let hash = bytes(2, named.hash().as_bytes());
    // The size padded to five bytes, the fields in reverse order.
    let odd_digest = [&hash[..], &[0x08, 0xe4, 0x80, 0x80, 0x80, 0x00], &unknown].concat();
    let odd_resource = [bytes(2, b""), unknown.clone(), bytes(1, odd_digest)].concat();
    let first = [unknown.clone(), bytes(1, odd_resource), unknown.clone()].concat();
    let second = [unknown.clone(), chunk(&data), unknown].concat();
    assert_eq!(committed(&client.upload(&[first, second]).await), 100);
    assert_eq!(server.cas.get(&named), Some(data));
}

#[tokio::test]
async fn negotiation_answers_batch_by_batch() {
    let server = running().await;
    let client = server.client().await;
    let here = server.cas.insert(&pattern(10));
    let away = hash::bytes(b"away");
    let mut call = client.call(NEGOTIATE, &[]).await;
    let request = |digests: &[&Digest]| -> Vec<u8> {
        let digests: Vec<u8> = digests.iter().flat_map(|d| bytes(1, digest(d))).collect();
        framed(digests)
    };
    let batches = [
        request(&[&here, &away, &here]),
        request(&[&here]),
        request(&[]),
        request(&[&away, &away]),
    ];
    call.send(batches.concat().into(), true).await;
    let answer = call.answer().await;
    answer.expect(code::OK);
    let counts: Vec<usize> = answer
        .messages
        .iter()
        .map(|m| bytes_in(m, 1).len())
        .collect();
    assert_eq!(counts, [1, 0, 0, 2]);
    assert_eq!(bytes_in(&answer.messages[0], 1), [digest(&away)]);
    assert_eq!(server.cas.leased(), [here, here, here]);
}

#[tokio::test]
async fn a_batch_is_answered_before_the_next_is_sent() {
    let server = running().await;
    let client = server.client().await;
    let mut call = client.call(NEGOTIATE, &[]).await;
    call.send(framed(b"").into(), false).await;
    let mut answers = (&mut call.response).await.unwrap().into_body();
    let answer = answers.data().await.unwrap().unwrap();
    assert_eq!(answer[..], framed(b""));
    call.send(framed(b"").into(), true).await;
    let answer = answers.data().await.unwrap().unwrap();
    assert_eq!(answer[..], framed(b""));
}

#[tokio::test]
async fn a_bad_digest_ends_the_negotiation() {
    let server = running().await;
    let client = server.client().await;
    let bad = [number(1, 5), bytes(2, [7; 31])].concat();
    let body = [framed(b""), framed(bytes(1, bad)), framed(b"")].concat();
    let answer = client.send(NEGOTIATE, body).await;
    answer.expect(code::INVALID_ARGUMENT);
    assert!(answer.details_have("blob_digests"));
    assert_eq!(answer.messages.len(), 1);
}

#[tokio::test]
async fn transport_details() {
    let server = running().await;
    let client = server.client().await;
    // grpc = 0 among numbers of the future, packed and one by one.
    for protocols in [
        bytes(1, [1, 77, 0]),
        [number(1, 9), number(1, 0)].concat(),
        bytes(1, [0]),
    ] {
        let answer = client.unary(DETAILS, protocols).await;
        answer.expect(code::OK);
        let details = answer.message();
        let address = bytes_in(details, 1).remove(0);
        let ip = bytes_in(&address, 1).remove(0);
        assert_eq!(fields(&ip), [(1, Value::Fixed32(0x7f00_0001))]);
        assert_eq!(number_in(&address, 2), u64::from(server.addr.port()));
        assert!(bytes_in(details, 2)[0].len() >= 43);
        assert!(number_in(details, 3) >= 1);
        assert_eq!(number_in(details, 4), 0);
        assert_eq!(number_in(details, 5), 30);
    }
    for protocols in [vec![], bytes(1, [1, 2]), number(1, 1 << 20)] {
        let answer = client.unary(DETAILS, protocols).await;
        answer.expect(code::FAILED_PRECONDITION);
    }
    let odd_scope = [number(1, 0), number(2, 3)].concat();
    client
        .unary(DETAILS, odd_scope)
        .await
        .expect(code::INVALID_ARGUMENT);
}

#[tokio::test]
async fn resources_must_be_whole() {
    let server = running().await;
    let client = server.session().await;
    let named = server.cas.insert(&pattern(10));
    let no_range = bytes(1, bytes(1, digest(&named)));
    let no_digest = bytes(1, bytes(2, number(1, 0)));
    let short = bytes(1, [number(1, 10), bytes(2, [1; 31])].concat());
    let long = bytes(1, [number(1, 10), bytes(2, [1; 33])].concat());
    let range = bytes(2, number(1, 0));
    let wrong = |digest: Vec<u8>| bytes(1, [digest, range.clone()].concat());
    for (message, field) in [
        (vec![], "metadata"),
        (no_range, "metadata.range"),
        (no_digest, "metadata.digest"),
        (wrong(short), "metadata.digest"),
        (wrong(long), "metadata.digest"),
    ] {
        let answer = client.download(&message).await;
        answer.expect(code::INVALID_ARGUMENT);
        assert!(answer.details_have(field), "{field} {answer:?}");
        if !message.is_empty() {
            let answer = client.upload(&[message]).await;
            answer.expect(code::INVALID_ARGUMENT);
            assert!(answer.details_have(field), "{field} {answer:?}");
        }
    }
    // The range may be empty: it starts at 0.
    let whole = bytes(1, [bytes(1, digest(&named)), bytes(2, b"")].concat());
    client.download(whole).await.expect(code::OK);
}

#[tokio::test]
async fn health_and_reflection_answer() {
    let server = running().await;
    let client = server.client().await;
    for service in ["", "zako.v1.transport.Transport", "zako.v1.batch.Batch"] {
        let answer = client
            .unary("/grpc.health.v1.Health/Check", bytes(1, service))
            .await;
        answer.expect(code::OK);
        assert_eq!(number_in(answer.message(), 1), 1);
    }
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let answer = client.send(path, framed(bytes(7, b""))).await;
    answer.expect(code::OK);
    let listed = answer
        .message()
        .windows(27)
        .any(|part| part == b"zako.v1.transport.Transport");
    assert!(listed, "{answer:?}");
}
