//! A store that is full: what was told to be there stays for the lease, and what is gone
//! is not told to be there.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message;
use support::{TestServer, random, streams};
use tonic::Code;
use zako_core::cas::{Cas, Lease};
use zako_core::server::ServerOptions;
use zako_core::store::{Clock, Durability, StoreOptions};
use zako_reapi::CacheOptions;
use zako_reapi::digest::{DigestFunction, RemoteDigest};
use zako_reapi::proto::reapi::action_cache_client::ActionCacheClient;
use zako_reapi::proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use zako_reapi::proto::reapi::{
    ActionResult, Directory, FileNode, GetActionResultRequest, OutputDirectory, OutputFile,
    SpliceBlobRequest, Tree,
};

/// What the store may take on disk, in bytes.
const CAP: u64 = 6 << 20;

/// More rounds than it takes to fill the store over and over.
const ROUNDS: usize = 40;

/// A clock that is set by hand, in seconds.
#[derive(Debug, Default)]
struct HandSet(AtomicU64);

impl Clock for HandSet {
    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.monotonic()
    }
}

async fn tiny() -> (TestServer, Arc<HandSet>) {
    let clock = Arc::new(HandSet::default());
    let mut options = StoreOptions::default();
    options.max_bytes = Some(CAP);
    options.segment_bytes = Some(256 << 10);
    options.large_from = Some(64 << 10);
    options.durability = Durability::None;
    options.clock = clock.clone();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let (cache, server) = (CacheOptions::default(), ServerOptions::default());
    (TestServer::over(dir, options, cache, server).await, clock)
}

/// Stores a sixth of what the store holds.
async fn flood(server: &TestServer) -> Vec<RemoteDigest> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let blob = |_| {
        let mut data = vec![0; 25_000];
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        data[..8].copy_from_slice(&number.to_le_bytes());
        (support::blake3(&data), Bytes::from(data))
    };
    let blobs: Vec<(RemoteDigest, Bytes)> = (0..40).map(blob).collect();
    let names = blobs.iter().map(|(name, _)| *name).collect();
    for stored in server.cache.put_batch(blobs).await {
        stored.unwrap();
    }
    names
}

/// As `flood`, with blobs of which some are used, so that they take the place of others
/// that were.
async fn flood_used(server: &TestServer, clock: &HandSet) {
    let names = flood(server).await;
    let names: Vec<RemoteDigest> = names.into_iter().step_by(3).collect();
    for _ in 0..3 {
        let lease = Lease::For(Duration::from_secs(1));
        server.cache.missing(&names, lease).await.unwrap();
        clock.0.fetch_add(5, Ordering::Relaxed);
    }
}

/// Stores an action's result, and all that it names; these.
async fn act(
    server: &TestServer,
    function: DigestFunction,
    action: &RemoteDigest,
) -> Vec<RemoteDigest> {
    let blobs: [Bytes; 4] = [random(9000), random(100_000), random(50), random(20_000)];
    let names = blobs.each_ref().map(|blob| function.digest(blob));
    let file = |name: &RemoteDigest| FileNode {
        name: name.hex(),
        digest: Some(name.to_wire()),
        ..FileNode::default()
    };
    let tree = Tree {
        root: Some(Directory {
            files: names[2..].iter().map(file).collect(),
            ..Directory::default()
        }),
        ..Tree::default()
    };
    let tree = Bytes::from(tree.encode_to_vec());
    let tree_name = function.digest(&tree);
    for (name, blob) in names.into_iter().zip(blobs).chain([(tree_name, tree)]) {
        server.cache.put(name, blob).await.unwrap();
    }
    let result = ActionResult {
        output_files: vec![OutputFile {
            digest: Some(names[0].to_wire()),
            ..OutputFile::default()
        }],
        stdout_digest: Some(names[1].to_wire()),
        output_directories: vec![OutputDirectory {
            tree_digest: Some(tree_name.to_wire()),
            ..OutputDirectory::default()
        }],
        ..ActionResult::default()
    };
    let data = result.encode_to_vec().into();
    server.cache.set_action("", action, data).await.unwrap();
    names.into_iter().chain([tree_name]).collect()
}

async fn is_hit(server: &TestServer, action: &RemoteDigest) -> bool {
    let mut client = ActionCacheClient::new(server.channel.clone());
    let request = GetActionResultRequest {
        action_digest: Some(action.to_wire()),
        digest_function: action.function().wire() as i32,
        ..GetActionResultRequest::default()
    };
    match client.get_action_result(request).await {
        Ok(_) => true,
        Err(status) => {
            assert_eq!(status.code(), Code::NotFound, "{status}");
            false
        }
    }
}

async fn are_stored(server: &TestServer, digests: &[RemoteDigest]) -> bool {
    for digest in digests {
        match server.cache.own_name(digest) {
            Some(own) if server.store.stat(&own).await.is_ok() => {}
            _ => return false,
        }
    }
    true
}

async fn read_all(server: &TestServer, digests: &[RemoteDigest]) {
    for (read, digest) in server.cache.fetch_batch(digests).await.iter().zip(digests) {
        let read = read.as_ref().unwrap();
        assert_eq!(digest.function().digest(read), *digest);
    }
}

#[tokio::test]
async fn what_a_result_names_stays_for_the_lease_and_then_makes_it_a_miss() {
    for function in [DigestFunction::Sha256, DigestFunction::Blake3] {
        let (server, clock) = tiny().await;
        let action = function.digest(b"an action");
        let named = act(&server, function, &action).await;
        assert!(is_hit(&server, &action).await);
        for _ in 0..ROUNDS {
            flood(&server).await;
            assert!(are_stored(&server, &named).await);
        }
        read_all(&server, &named).await;
        assert!(is_hit(&server, &action).await);
        read_all(&server, &named).await;

        clock.0.fetch_add(2 * 60 * 60, Ordering::Relaxed);
        let mut rounds = 0;
        while are_stored(&server, &named).await {
            assert!(rounds < 5 * ROUNDS, "nothing was ever evicted");
            flood_used(&server, &clock).await;
            rounds += 1;
        }
        assert!(!is_hit(&server, &action).await);
        server.stop().await;
    }
}

#[tokio::test]
async fn a_hit_under_eviction_names_nothing_that_is_gone() {
    let (server, clock) = tiny().await;
    let function = DigestFunction::Sha256;
    let (mut hits, mut misses) = (0, 0);
    let mut results = Vec::new();
    for round in 0..ROUNDS {
        let action = function.digest(&[round as u8]);
        results.push((action, act(&server, function, &action).await));
        clock.0.fetch_add(60 * 30, Ordering::Relaxed);
        flood_used(&server, &clock).await;
        let asked = &results[round.saturating_sub(12)..];
        // While the store evicts, as others go on to fill it.
        let ask = async {
            for (action, named) in asked.iter().step_by(5) {
                match is_hit(&server, action).await {
                    true => {
                        read_all(&server, named).await;
                        hits += 1;
                    }
                    false => misses += 1,
                }
            }
        };
        tokio::join!(ask, flood(&server));
    }
    assert!(hits > 10, "{hits} hits");
    assert!(misses > 10, "{misses} misses");
    server.stop().await;
}

#[tokio::test]
async fn a_blob_of_chunks_is_whole_or_missing() {
    let (server, clock) = tiny().await;
    let function = DigestFunction::Sha256;
    let chunks: Vec<Bytes> = (0..12).map(|_| random(30_000)).collect();
    let names: Vec<RemoteDigest> = chunks.iter().map(|chunk| function.digest(chunk)).collect();
    for (name, chunk) in names.iter().zip(&chunks) {
        server.cache.put(*name, chunk.clone()).await.unwrap();
    }
    let whole = chunks.concat();
    let digest = function.digest(&whole);
    let mut client = ContentAddressableStorageClient::new(server.channel.clone());
    let request = SpliceBlobRequest {
        blob_digest: Some(digest.to_wire()),
        chunk_digests: names.iter().map(|name| name.to_wire()).collect(),
        ..SpliceBlobRequest::default()
    };
    client.splice_blob(request).await.unwrap();
    for _ in 0..ROUNDS {
        flood(&server).await;
    }
    let name = streams::to_read(&digest);
    assert_eq!(streams::read(&server.channel, &name).await.unwrap(), whole);

    clock.0.fetch_add(2 * 60 * 60, Ordering::Relaxed);
    let mut rounds = 0;
    while are_stored(&server, &names).await {
        assert!(rounds < 5 * ROUNDS, "nothing was ever evicted");
        flood_used(&server, &clock).await;
        rounds += 1;
    }
    let missing = server.cache.missing(&[digest], Lease::Default).await;
    assert_eq!(missing.unwrap(), [0]);
    let read = streams::read(&server.channel, &name).await;
    assert_eq!(read.unwrap_err().code(), Code::NotFound);
    server.stop().await;
}
