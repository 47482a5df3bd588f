//! Blobs as chunks, as clients cut and join them.
#![allow(clippy::unwrap_used)]

mod support;

use bytes::Bytes;
use rand::Rng;
use support::http::HttpTest;
use support::{TestServer, random, streams};
use tonic::Code;
use tonic::transport::Channel;
use zako_core::BlobRange;
use zako_core::cas::{Cas, ErrorKind, Lease, Maintain};
use zako_core::server::ServerOptions;
use zako_core::store::StoreOptions;
use zako_reapi::CacheOptions;
use zako_reapi::digest::{DigestFunction, RemoteDigest};
use zako_reapi::proto::reapi::capabilities_client::CapabilitiesClient;
use zako_reapi::proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use zako_reapi::proto::reapi::{
    BatchReadBlobsRequest, GetCapabilitiesRequest, SpliceBlobRequest, SplitBlobRequest,
    SplitBlobResponse, chunking_function,
};

const FUNCTIONS: [DigestFunction; 3] = [
    DigestFunction::Sha256,
    DigestFunction::Blake3,
    DigestFunction::Sha512,
];

fn client(server: &TestServer) -> ContentAddressableStorageClient<Channel> {
    ContentAddressableStorageClient::new(server.channel.clone())
}

async fn split(server: &TestServer, digest: &RemoteDigest) -> Result<SplitBlobResponse, Code> {
    let request = SplitBlobRequest {
        blob_digest: Some(digest.to_wire()),
        digest_function: digest.function().wire() as i32,
        ..SplitBlobRequest::default()
    };
    let answer = client(server).split_blob(request).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| status.code())
}

async fn chunks_of(server: &TestServer, digest: &RemoteDigest) -> Vec<RemoteDigest> {
    let function = digest.function();
    let chunks = split(server, digest).await.unwrap().chunk_digests;
    let parse = |chunk| RemoteDigest::of_wire(Some(function), chunk).unwrap();
    chunks.iter().map(parse).collect()
}

async fn splice(
    server: &TestServer,
    digest: &RemoteDigest,
    chunks: &[RemoteDigest],
) -> Result<(), Code> {
    let request = SpliceBlobRequest {
        blob_digest: Some(digest.to_wire()),
        chunk_digests: chunks.iter().map(|chunk| chunk.to_wire()).collect(),
        digest_function: digest.function().wire() as i32,
        ..SpliceBlobRequest::default()
    };
    let answer = client(server).splice_blob(request).await;
    let answer = answer.map_err(|status| status.code())?.into_inner();
    assert_eq!(answer.blob_digest, Some(digest.to_wire()));
    Ok(())
}

/// Stores the chunks of a blob and splices it.
async fn joined(server: &TestServer, function: DigestFunction, chunks: &[Bytes]) -> RemoteDigest {
    let names: Vec<RemoteDigest> = chunks.iter().map(|chunk| function.digest(chunk)).collect();
    for (name, chunk) in names.iter().zip(chunks) {
        server.cache.put(*name, chunk.clone()).await.unwrap();
    }
    let whole = function.digest(&chunks.concat());
    splice(server, &whole, &names).await.unwrap();
    whole
}

async fn missing(server: &TestServer, digests: &[RemoteDigest]) -> Vec<usize> {
    server.cache.missing(digests, Lease::Default).await.unwrap()
}

async fn blob_bytes(server: &TestServer) -> u64 {
    server.store.usage().await.unwrap().blob_bytes
}

async fn read_batch(server: &TestServer, digests: &[RemoteDigest]) -> Vec<Bytes> {
    let request = BatchReadBlobsRequest {
        digests: digests.iter().map(|digest| digest.to_wire()).collect(),
        digest_function: digests[0].function().wire() as i32,
        ..BatchReadBlobsRequest::default()
    };
    let answer = client(server).batch_read_blobs(request).await.unwrap();
    let read = answer.into_inner().responses.into_iter();
    read.map(|read| read.data).collect()
}

#[tokio::test]
async fn a_blob_is_cut_without_storing_its_chunks() {
    let server = TestServer::start().await;
    for function in FUNCTIONS {
        let data = random(7 << 20);
        let digest = function.digest(&data);
        assert_eq!(split(&server, &digest).await, Err(Code::NotFound));
        server.cache.put(digest, data.clone()).await.unwrap();
        let before = blob_bytes(&server).await;
        let answer = split(&server, &digest).await.unwrap();
        let fast_cdc = chunking_function::Value::FastCdc2020 as i32;
        assert_eq!(answer.chunking_function, fast_cdc);
        let chunks = chunks_of(&server, &digest).await;
        assert!(chunks.len() > 3);
        assert!(missing(&server, &chunks).await.is_empty());
        assert!(blob_bytes(&server).await - before < 8192);

        let mut at = 0;
        for (place, chunk) in chunks.iter().enumerate() {
            let size = chunk.size() as usize;
            let is_last = place + 1 == chunks.len();
            assert!(size <= 2 << 20 && (size >= 128 << 10 || is_last));
            let expected = &data[at..at + size];
            assert_eq!(*chunk, function.digest(expected));
            assert_eq!(read_batch(&server, &[*chunk]).await, [expected]);
            let name = streams::to_read(chunk);
            // The last chunk may be of any size.
            let from = size / 3;
            let limit = 5000.min(size - from);
            let part = streams::read_part(&server.channel, &name, from as i64, limit as i64);
            assert_eq!(part.await.unwrap(), expected[from..from + limit]);
            at += size;
        }
        assert_eq!(at, data.len());
        // A client of another function finds the same cuts.
        let other = DigestFunction::Sha384.digest(&data);
        server.cache.put(other, data.clone()).await.unwrap();
        let sizes = |chunks: &[RemoteDigest]| chunks.iter().map(RemoteDigest::size).collect();
        let cuts: Vec<u64> = sizes(&chunks_of(&server, &other).await);
        assert_eq!(cuts, sizes(&chunks));

        // The chunks go with the blob around them.
        let own = zako_digest::hash::bytes(&data);
        server.store.delete(&own).await.unwrap();
        assert_eq!(missing(&server, &chunks).await.len(), chunks.len());
        assert_eq!(split(&server, &digest).await, Err(Code::NotFound));
    }
    server.stop().await;
}

#[tokio::test]
async fn clients_are_told_how_blobs_are_cut() {
    let server = TestServer::start().await;
    let mut client = CapabilitiesClient::new(server.channel.clone());
    let request = GetCapabilitiesRequest::default();
    let all = client.get_capabilities(request).await.unwrap().into_inner();
    let cache = all.cache_capabilities.unwrap();
    assert!(cache.split_blob_support && cache.splice_blob_support);
    let params = cache.fast_cdc_2020_params.unwrap();
    assert_eq!((params.avg_chunk_size_bytes, params.seed), (512 << 10, 0));
    server.stop().await;
}

#[tokio::test]
async fn a_short_blob_is_its_only_chunk() {
    let server = TestServer::start().await;
    let data = random(1000);
    let digest = support::sha256(&data);
    server.cache.put(digest, data).await.unwrap();
    assert_eq!(chunks_of(&server, &digest).await, [digest]);
    let empty = support::sha256(&[]);
    assert!(chunks_of(&server, &empty).await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_blob_of_chunks_is_one_for_clients_that_know_none() {
    let server = TestServer::start().await;
    for function in FUNCTIONS {
        let same = random(300_000);
        let chunks = [
            random(700_000),
            same.clone(),
            random(10),
            same,
            random(900_000),
        ];
        let data = Bytes::from(chunks.concat());
        let digest = joined(&server, function, &chunks).await;
        let before = blob_bytes(&server).await;
        assert!(missing(&server, &[digest]).await.is_empty());
        let name = streams::to_read(&digest);
        assert_eq!(streams::read(&server.channel, &name).await.unwrap(), data);
        let part = streams::read_part(&server.channel, &name, 650_000, 400_000).await;
        assert_eq!(part.unwrap(), data[650_000..1_050_000]);
        assert_eq!(read_batch(&server, &[digest]).await[0], data);
        let names: Vec<_> = chunks.iter().map(|chunk| function.digest(chunk)).collect();
        assert_eq!(chunks_of(&server, &digest).await, names);

        // It is there by its own name too, and is not stored again.
        assert!(missing(&server, &[support::blake3(&data)]).await.is_empty());
        let written = streams::write(&server.channel, &streams::to_write(&digest), &data).await;
        assert_eq!(written.unwrap(), data.len() as i64);
        server.cache.put(digest, data.clone()).await.unwrap();
        let status = streams::query(&server.channel, &streams::to_write(&digest)).await;
        let status = status.unwrap();
        assert!(status.complete && status.committed_size == data.len() as i64);
        splice(&server, &digest, &names).await.unwrap();
        assert!(blob_bytes(&server).await - before < 8192);

        let own = zako_digest::hash::bytes(&chunks[2]);
        server.store.delete(&own).await.unwrap();
        assert_eq!(missing(&server, &[digest]).await, [0]);
        let gone = streams::read(&server.channel, &name).await;
        assert_eq!(gone.unwrap_err().code(), Code::NotFound);
        assert_eq!(split(&server, &digest).await, Err(Code::NotFound));
        // With its chunk, the blob is back.
        server.cache.put(names[2], chunks[2].clone()).await.unwrap();
        assert!(missing(&server, &[digest]).await.is_empty());
    }
    server.stop().await;
}

#[tokio::test]
async fn chunks_that_are_not_the_blob_are_refused() {
    let server = TestServer::start().await;
    for function in FUNCTIONS {
        let chunks = [random(1000), random(2000)];
        let names = chunks.each_ref().map(|chunk| function.digest(chunk));
        let whole = function.digest(&chunks.concat());
        server.cache.put(names[0], chunks[0].clone()).await.unwrap();
        let spliced = splice(&server, &whole, &names).await;
        assert_eq!(spliced, Err(Code::NotFound));
        server.cache.put(names[1], chunks[1].clone()).await.unwrap();
        for wrong in [&names[..1], &[names[1], names[0]], &[names[0]; 3]] {
            let spliced = splice(&server, &whole, wrong).await;
            assert_eq!(spliced, Err(Code::InvalidArgument));
            assert_eq!(missing(&server, &[whole]).await, [0]);
        }
        splice(&server, &whole, &names).await.unwrap();
    }
    let nothing = client(&server)
        .splice_blob(SpliceBlobRequest::default())
        .await;
    assert_eq!(nothing.unwrap_err().code(), Code::InvalidArgument);
    let nothing = client(&server)
        .split_blob(SplitBlobRequest::default())
        .await;
    assert_eq!(nothing.unwrap_err().code(), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test]
async fn chunks_may_be_parts_of_others_or_have_chunks_themselves() {
    let server = TestServer::start().await;
    for function in FUNCTIONS {
        // A version that came whole, and a next one that shares most of it.
        let first = random(5 << 20);
        let digest = function.digest(&first);
        server.cache.put(digest, first.clone()).await.unwrap();
        let mut chunks = chunks_of(&server, &digest).await;
        let added = random(200_000);
        let name = function.digest(&added);
        server.cache.put(name, added.clone()).await.unwrap();
        chunks.insert(1, name);
        let before = blob_bytes(&server).await;
        let cut = chunks[0].size() as usize;
        let second = Bytes::from([&first[..cut], &added, &first[cut..]].concat());
        let second_digest = function.digest(&second);
        splice(&server, &second_digest, &chunks).await.unwrap();
        let name = streams::to_read(&second_digest);
        assert_eq!(streams::read(&server.channel, &name).await.unwrap(), second);

        // And one that consists of both.
        let both = Bytes::from([&second[..], &first].concat());
        let both_digest = function.digest(&both);
        let parts = [second_digest, digest];
        splice(&server, &both_digest, &parts).await.unwrap();
        let name = streams::to_read(&both_digest);
        assert_eq!(streams::read(&server.channel, &name).await.unwrap(), both);
        assert_eq!(
            chunks_of(&server, &both_digest).await.len(),
            chunks.len() + 1
        );
        assert!(blob_bytes(&server).await - before < 16384);

        let own = zako_digest::hash::bytes(&first);
        server.store.delete(&own).await.unwrap();
        let gone = [second_digest, both_digest, digest];
        assert_eq!(missing(&server, &gone).await, [0, 1, 2]);
    }
    server.stop().await;
}

#[tokio::test]
async fn every_range_is_that_of_the_whole() {
    let server = TestServer::start().await;
    let mut rng = rand::rng();
    for round in 0..12 {
        let function = FUNCTIONS[round % FUNCTIONS.len()];
        let mut chunks: Vec<Bytes> = Vec::new();
        for _ in 0..rng.random_range(2..9) {
            let chunk = match chunks.len() {
                2.. if rng.random_bool(0.2) => chunks[0].clone(),
                _ => random(rng.random_range(1..3000)),
            };
            chunks.push(chunk);
        }
        let data = chunks.concat();
        let digest = joined(&server, function, &chunks).await;
        let mut edges = vec![0];
        for chunk in &chunks {
            edges.push(edges.last().unwrap() + chunk.len());
        }
        let mut points: Vec<usize> = edges
            .iter()
            .flat_map(|at| [at.saturating_sub(1), *at, at + 1])
            .collect();
        points.extend((0..5).map(|_| rng.random_range(0..=data.len())));
        points.retain(|at| *at <= data.len());
        points.sort_unstable();
        for (place, from) in points.iter().enumerate() {
            for to in &points[place..] {
                let range = BlobRange::new(*from as u64, (to - from) as u64);
                let blob = server.cache.open(&digest, range).await.unwrap();
                assert_eq!(blob.range(), *from as u64..*to as u64);
                assert_eq!(blob.bytes().await.unwrap(), data[*from..*to]);
            }
        }
        let past = BlobRange::new(0, data.len() as u64 + 1);
        let error = server.cache.open(&digest, past).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRange);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_blob_of_chunks_is_read_compressed_and_over_http() {
    let test = HttpTest::start().await;
    let chunks = [random(40_000), random(300_000), random(10_000)];
    let data = chunks.concat();
    let digest = joined(&test.server, DigestFunction::Sha256, &chunks).await;
    let name = streams::to_read_zstd(&digest);
    let compressed = streams::read(&test.server.channel, &name).await.unwrap();
    assert_eq!(zstd::decode_all(&compressed[..]).unwrap(), data);

    let path = format!("/cas/{}", digest.hex());
    let whole = test.get(&path).await;
    assert_eq!((whole.status, &whole.body), (200, &data));
    let range = [("Range", "bytes=39990-340009")];
    let part = test.ask("GET", &path, &range, b"").await;
    assert_eq!((part.status, &part.body[..]), (206, &data[39_990..340_010]));
    let own = zako_digest::hash::bytes(&chunks[1]);
    test.store().delete(&own).await.unwrap();
    assert_eq!(test.get(&path).await.status, 404);
}

#[tokio::test]
async fn lists_survive_restarts_and_sweeps() {
    let server = TestServer::start().await;
    let function = DigestFunction::Sha256;
    let whole = random(5 << 20);
    let whole_digest = function.digest(&whole);
    server.cache.put(whole_digest, whole).await.unwrap();
    let parts = chunks_of(&server, &whole_digest).await;
    let chunks = [random(500_000), random(700_000)];
    let joined_digest = joined(&server, function, &chunks).await;
    let dir = server.stop().await;
    let (cache, options) = (CacheOptions::default(), ServerOptions::default());
    let server = TestServer::over(dir, StoreOptions::default(), cache, options).await;
    for _ in 0..2 {
        assert!(missing(&server, &parts).await.is_empty());
        assert!(missing(&server, &[joined_digest]).await.is_empty());
        let name = streams::to_read(&joined_digest);
        let read = streams::read(&server.channel, &name).await.unwrap();
        assert_eq!(read, chunks.concat());
        server.cache.sweep().await.unwrap();
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_told_to_be_there_is_leased_with_all_that_it_needs() {
    let server = TestServer::start().await;
    let function = DigestFunction::Blake3;
    let whole = random(3 << 20);
    let digest = function.digest(&whole);
    let chunks = [random(5000), random(6000)];
    let names = chunks.each_ref().map(|chunk| function.digest(chunk));
    server.cache.put(digest, whole).await.unwrap();
    let parts = chunks_of(&server, &digest).await;
    let joined_digest = joined(&server, function, &chunks).await;
    let dir = server.stop().await;
    // Leases end with the process.
    let (cache, options) = (CacheOptions::default(), ServerOptions::default());
    let server = TestServer::over(dir, StoreOptions::default(), cache, options).await;
    for (asked, needed) in [(parts[1], &[digest][..]), (joined_digest, &names[..])] {
        for digest in needed {
            let stat = server.store.stat(&digest.blake3().unwrap()).await.unwrap();
            assert!(stat.leased_for.is_zero());
        }
        assert!(missing(&server, &[asked]).await.is_empty());
        for digest in needed {
            let stat = server.store.stat(&digest.blake3().unwrap()).await.unwrap();
            assert!(stat.leased_for.as_secs() > 3000);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn damage_around_a_chunk_is_told_and_mended() {
    let server = TestServer::start().await;
    let function = DigestFunction::Sha256;
    let data = random(3 << 20);
    let digest = function.digest(&data);
    server.cache.put(digest, data.clone()).await.unwrap();
    let chunk = chunks_of(&server, &digest).await[0];
    let own = zako_digest::hash::bytes(&data);
    let blob = server.store.fetch(&own, BlobRange::FULL).await.unwrap();
    let extent = blob.extent().unwrap().clone();
    drop(blob);
    // The file as anybody may damage it.
    let path = format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&*extent.file)
    );
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let flipped = [data[100] ^ 1];
    std::os::unix::fs::FileExt::write_all_at(&file, &flipped, extent.offset + 100).unwrap();

    let read = server.cache.fetch_batch(&[chunk]).await.pop().unwrap();
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(missing(&server, &[chunk]).await, [0]);
    let content = data.slice(..chunk.size() as usize);
    server.cache.put(chunk, content.clone()).await.unwrap();
    assert_eq!(read_batch(&server, &[chunk]).await, [content]);
    server.stop().await;
}
