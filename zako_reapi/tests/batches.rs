//! Many small blobs in one call.
#![allow(clippy::unwrap_used)]

mod support;

use bytes::Bytes;
use support::{TestServer, blake3, random, sha256};
use tonic::transport::Channel;
use tonic::{Code, Status};
use zako_reapi::digest::{DigestFunction, RemoteDigest};
use zako_reapi::proto::reapi::batch_update_blobs_request::Request;
use zako_reapi::proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use zako_reapi::proto::reapi::{
    BatchReadBlobsRequest, BatchUpdateBlobsRequest, Digest, batch_read_blobs_response, compressor,
};

fn client(server: &TestServer) -> ContentAddressableStorageClient<Channel> {
    ContentAddressableStorageClient::new(server.channel.clone())
        .max_decoding_message_size(64 << 20)
        .max_encoding_message_size(64 << 20)
}

fn entry(digest: &RemoteDigest, data: &Bytes) -> Request {
    Request {
        digest: Some(digest.to_wire()),
        data: data.clone(),
        compressor: compressor::Value::Identity as i32,
    }
}

/// The code for each.
async fn update(
    server: &TestServer,
    digest_function: i32,
    requests: Vec<Request>,
) -> Result<Vec<(Option<Digest>, Code, String)>, Status> {
    let request = BatchUpdateBlobsRequest {
        instance_name: "an/instance".to_owned(),
        requests,
        digest_function,
    };
    let response = client(server).batch_update_blobs(request).await?;
    let responses = response.into_inner().responses.into_iter();
    Ok(responses
        .map(|response| {
            let status = response.status.unwrap();
            (response.digest, Code::from(status.code), status.message)
        })
        .collect())
}

async fn read(
    server: &TestServer,
    digest_function: i32,
    digests: Vec<Digest>,
) -> Result<Vec<batch_read_blobs_response::Response>, Status> {
    read_accepting(server, digest_function, digests, &[]).await
}

async fn read_accepting(
    server: &TestServer,
    digest_function: i32,
    digests: Vec<Digest>,
    compressors: &[compressor::Value],
) -> Result<Vec<batch_read_blobs_response::Response>, Status> {
    let request = BatchReadBlobsRequest {
        instance_name: "an/instance".to_owned(),
        digests,
        acceptable_compressors: compressors.iter().map(|value| *value as i32).collect(),
        digest_function,
    };
    let response = client(server).batch_read_blobs(request).await?;
    Ok(response.into_inner().responses)
}

#[tokio::test]
async fn batches_are_written_and_read() {
    let server = TestServer::start().await;
    for function in DigestFunction::ALL {
        let wire = function.wire() as i32;
        let sizes = [0, 1, 100, 8192, 8192, 200_000, 1 << 20];
        let blobs: Vec<Bytes> = sizes.into_iter().map(random).collect();
        let digests: Vec<_> = blobs.iter().map(|data| function.digest(data)).collect();
        let entries = || {
            digests
                .iter()
                .zip(&blobs)
                .map(|(digest, data)| entry(digest, data))
        };
        // The second time they exist.
        for _ in 0..2 {
            let outcomes = update(&server, wire, entries().collect()).await.unwrap();
            assert_eq!(outcomes.len(), blobs.len());
            for ((digest, code, _), expected) in outcomes.iter().zip(&digests) {
                assert_eq!(digest, &Some(expected.to_wire()));
                assert_eq!(*code, Code::Ok);
            }
        }
        let asked = digests.iter().map(|digest| digest.to_wire()).collect();
        let responses = read(&server, wire, asked).await.unwrap();
        assert_eq!(responses.len(), blobs.len());
        for (response, (digest, data)) in responses.iter().zip(digests.iter().zip(&blobs)) {
            assert_eq!(response.digest, Some(digest.to_wire()));
            assert_eq!(response.status.as_ref().unwrap().code, 0);
            assert_eq!(response.compressor, compressor::Value::Identity as i32);
            assert!(response.data == data);
        }
    }
    assert!(update(&server, 0, Vec::new()).await.unwrap().is_empty());
    assert!(read(&server, 0, Vec::new()).await.unwrap().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn each_blob_has_its_own_outcome() {
    let server = TestServer::start().await;
    let (good, other) = (random(1000), random(1000));
    for function in [DigestFunction::Sha256, DigestFunction::Blake3] {
        let wire = function.wire() as i32;
        let (digest, wrong) = (function.digest(&good), function.digest(&other));
        let mut unnamed = entry(&digest, &good);
        unnamed.digest = None;
        let mut negative = entry(&digest, &good);
        negative.digest.as_mut().unwrap().size_bytes = -5;
        let mut deflated = entry(&digest, &good);
        deflated.compressor = compressor::Value::Deflate as i32;
        let entries = vec![
            entry(&wrong, &good),
            entry(&digest, &good),
            entry(&wrong, &other.slice(1..)),
            unnamed,
            negative,
            deflated,
            // The same once more.
            entry(&digest, &good),
        ];
        let outcomes = update(&server, wire, entries).await.unwrap();
        let wants = [
            (Code::InvalidArgument, ""),
            (Code::Ok, ""),
            (Code::InvalidArgument, ""),
            (Code::InvalidArgument, "has no digest"),
            (Code::InvalidArgument, "size is -5"),
            (Code::InvalidArgument, "compressor"),
            (Code::Ok, ""),
        ];
        for ((_, code, message), (want, text)) in outcomes.iter().zip(wants) {
            assert_eq!(*code, want, "{message}");
            assert!(message.contains(text), "{message}");
        }
        let bad = Digest {
            hash: "abc".to_owned(),
            size_bytes: 3,
        };
        let asked = vec![
            wrong.to_wire(),
            digest.to_wire(),
            bad.clone(),
            digest.to_wire(),
        ];
        let responses = read(&server, wire, asked).await.unwrap();
        let codes: Vec<_> = responses
            .iter()
            .map(|response| response.status.as_ref().unwrap().code)
            .collect();
        assert_eq!(codes, [5, 0, 3, 0]);
        assert!(responses[1].data == good && responses[3].data == good);
        assert!(responses[0].data.is_empty());
        assert_eq!(responses[2].digest, Some(bad));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_blob_of_a_batch_is_found_by_its_blake3() {
    let server = TestServer::start().await;
    let data = random(3000);
    let outcomes = update(&server, 0, vec![entry(&sha256(&data), &data)]).await;
    assert_eq!(outcomes.unwrap()[0].1, Code::Ok);
    let own = blake3(&data);
    let function = DigestFunction::Blake3.wire() as i32;
    let responses = read(&server, function, vec![own.to_wire()]).await.unwrap();
    assert!(responses[0].data == data);
    server.stop().await;
}

#[tokio::test]
async fn batches_have_bounds() {
    let server = TestServer::start().await;
    // More than is offered, as some tools send.
    let blobs: Vec<_> = (0..15).map(|_| random(1 << 20)).collect();
    let entries = |count: usize| {
        let blobs = blobs.iter().cycle().take(count);
        blobs.map(|data| entry(&blake3(data), data)).collect()
    };
    let function = DigestFunction::Blake3.wire() as i32;
    let outcomes = update(&server, function, entries(15)).await.unwrap();
    assert!(outcomes.iter().all(|(_, code, _)| *code == Code::Ok));
    let error = update(&server, function, entries(17)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(
        error.message().contains("add up to 17825792 bytes"),
        "{error}"
    );
    let error = update(&server, function, entries(40)).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");

    let digests = |count: usize| {
        let blobs = blobs.iter().cycle().take(count);
        blobs.map(|data| blake3(data).to_wire()).collect()
    };
    // A client may take no longer message than it was offered.
    assert_eq!(read(&server, function, digests(4)).await.unwrap().len(), 4);
    let error = read(&server, function, digests(5)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);

    let empty = Request::default();
    let error = update(&server, 0, vec![empty; 70_000]).await.unwrap_err();
    assert!(error.message().contains("at most 65536 blobs"), "{error}");
    let error = read(&server, 0, vec![Digest::default(); 70_000]).await;
    assert!(error.unwrap_err().message().contains("at most 65536 blobs"));
    for function in [3, 99] {
        let error = update(&server, function, Vec::new()).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(read(&server, function, Vec::new()).await.is_err());
    }
    server.stop().await;
}

#[tokio::test]
async fn blobs_come_and_go_by_zstd() {
    let server = TestServer::start().await;
    let (noise, even) = (random(100_000), Bytes::from(vec![b'a'; 100_000]));
    let short = random(30);
    for function in [DigestFunction::Sha256, DigestFunction::Blake3] {
        let wire = function.wire() as i32;
        let zstd = |data: &Bytes| {
            let compressed = zstd::encode_all(&data[..], 3).unwrap();
            let mut entry = entry(&function.digest(data), &compressed.into());
            entry.compressor = compressor::Value::Zstd as i32;
            entry
        };
        let mut lying = zstd(&even);
        lying.digest.as_mut().unwrap().size_bytes = 99_999;
        let mut cut = zstd(&noise);
        cut.data.truncate(5000);
        let mut garbage = zstd(&even);
        garbage.data = [&garbage.data[..], b"garbage"].concat().into();
        let mut other = zstd(&even);
        other.digest = Some(function.digest(b"other").to_wire());
        other.digest.as_mut().unwrap().size_bytes = 100_000;
        let entries = vec![
            lying,
            cut,
            garbage,
            other,
            zstd(&noise),
            zstd(&even),
            zstd(&short),
            entry(&function.digest(&noise), &noise),
        ];
        let outcomes = update(&server, wire, entries).await.unwrap();
        let codes: Vec<_> = outcomes.iter().map(|(_, code, _)| *code).collect();
        let mut wants = vec![Code::InvalidArgument; 4];
        wants.extend([Code::Ok; 4]);
        assert_eq!(codes, wants, "{outcomes:?}");

        let blobs = [&noise, &even, &short];
        let asked = || blobs.iter().map(|data| function.digest(data).to_wire());
        let plain = read(&server, wire, asked().collect()).await.unwrap();
        for (response, data) in plain.iter().zip(blobs) {
            assert!(response.data == data);
        }
        let both = [compressor::Value::Identity, compressor::Value::Zstd];
        let packed = read_accepting(&server, wire, asked().collect(), &both).await;
        let packed = packed.unwrap();
        let compressors: Vec<_> = packed.iter().map(|response| response.compressor).collect();
        assert_eq!(compressors, [0, compressor::Value::Zstd as i32, 0]);
        assert!(packed[0].data == noise && packed[2].data == short);
        assert!(packed[1].data.len() < 1000);
        assert!(zstd::decode_all(&packed[1].data[..]).unwrap() == even);
        // Another compressor than what is known is none.
        let others = [compressor::Value::Deflate, compressor::Value::Brotli];
        let plain = read_accepting(&server, wire, asked().collect(), &others).await;
        assert!(plain.unwrap()[1].data == even);
    }
    server.stop().await;
}

/// What is declared is counted, not what is sent.
#[tokio::test]
async fn a_batch_that_grows_beyond_its_bound_is_refused() {
    let server = TestServer::start().await;
    let zeros = Bytes::from(vec![0; 17 << 20]);
    let compressed = zstd::encode_all(&zeros[..], 1).unwrap();
    assert!(compressed.len() < 10_000);
    let mut entry = entry(&sha256(&zeros), &compressed.into());
    entry.compressor = compressor::Value::Zstd as i32;
    let error = update(&server, 0, vec![entry.clone()]).await.unwrap_err();
    assert!(error.message().contains("add up to"), "{error}");
    // A bomb that declares little bursts at what it declared.
    entry.digest = Some(sha256(b"small").to_wire());
    let outcomes = update(&server, 0, vec![entry]).await.unwrap();
    assert_eq!(outcomes[0].1, Code::InvalidArgument);
    server.stop().await;
}
