//! `kill -9` of a real server under the load of build tools, again and again.
//!
//! The promise: what was acknowledged is there; what is reported present can be read
//! back whole; an action result that is found has all that it names; interrupted
//! uploads go on where they stopped, and leave no file behind when they end.
//! `ZAKO_CRASH_LIVES` says how many servers each test kills.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "crash_build_tools/client.rs"]
mod client;
mod server_process;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::BuildTool;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use server_process::{Place, noise};
use tonic::Code;
use zako_reapi::digest::{DigestFunction, RemoteDigest};

/// Tools that use a server at once.
const TOOLS: usize = 4;

/// Blobs that each tool makes.
const BLOBS: usize = 32;

/// A blob of a build.
#[derive(Clone)]
struct Blob {
    digest: RemoteDigest,
    data: Bytes,
}

/// What a tool was told.
#[derive(Clone, Default)]
struct Told {
    stored: HashSet<RemoteDigest>,
    /// Actions, and the blobs that their results name.
    actions: HashMap<RemoteDigest, Vec<RemoteDigest>>,
    interrupted: u64,
}

fn lives() -> u64 {
    let text = std::env::var("ZAKO_CRASH_LIVES").unwrap_or_else(|_| "20".to_owned());
    text.parse().unwrap()
}

fn blobs(seed: u64) -> Vec<Blob> {
    let mut rng = StdRng::seed_from_u64(seed);
    let blob = |at: usize| {
        let length = match at % 8 {
            0 => rng.random_range(1_200_000..3_000_000),
            1 => rng.random_range(100_000..900_000),
            _ => rng.random_range(1..20_000),
        };
        let data = noise(rng.random(), length);
        let function = match at % 3 {
            0 => DigestFunction::Blake3,
            _ => DigestFunction::Sha256,
        };
        let digest = function.digest(&data);
        Blob { digest, data }
    };
    (0..BLOBS).map(blob).collect()
}

/// Stores, looks, and interrupts until the server is gone.
async fn load(mut tool: BuildTool, blobs: Arc<Vec<Blob>>, mut told: Told, seed: u64) -> Told {
    let mut rng = StdRng::seed_from_u64(seed);
    loop {
        let blob = &blobs[rng.random_range(0..blobs.len())];
        let done = match rng.random_range(0..10) {
            0..=4 => tool.write(blob).await.map(|()| {
                told.stored.insert(blob.digest);
            }),
            5 | 6 => {
                let from = rng.random_range(0..blobs.len());
                let some = blobs[from..].iter().take(6);
                let some: Vec<&Blob> = some.filter(|blob| blob.data.len() < 400_000).collect();
                tool.batch(&some).await.map(|()| {
                    told.stored.extend(some.iter().map(|blob| blob.digest));
                })
            }
            7 => {
                let whole = tool.interrupt(blob, &mut rng).await;
                told.interrupted += 1;
                whole
            }
            _ => {
                let of_it = |digest: &&RemoteDigest| digest.function() == DigestFunction::Sha256;
                let named = told.stored.iter().filter(of_it).take(5);
                let named: Vec<RemoteDigest> = named.copied().collect();
                let action = DigestFunction::Sha256.digest(blob.data.get(..9).unwrap_or(b"x"));
                // Until it is answered either may be there.
                told.actions.remove(&action);
                tool.act(action, &named).await.map(|()| {
                    told.actions.insert(action, named);
                })
            }
        };
        if done.is_err() {
            return told;
        }
    }
}

/// Checks a server that nobody uses yet.
async fn check(tool: &mut BuildTool, blobs: &[Blob], told: &Told, evicts: bool) -> u64 {
    let digests: Vec<RemoteDigest> = blobs.iter().map(|blob| blob.digest).collect();
    let missing = tool.missing(&digests).await;
    let mut lost = 0;
    for blob in blobs {
        if !missing.contains(&blob.digest) {
            let found = tool.read(&blob.digest).await;
            assert!(found == blob.data, "{} is damaged", blob.digest);
        } else if told.stored.contains(&blob.digest) {
            assert!(evicts, "{} was lost", blob.digest);
            lost += 1;
        }
    }
    for (action, named) in &told.actions {
        match tool.result(action).await {
            Some(found) => {
                assert_eq!(&found, named);
                assert!(tool.missing(named).await.is_empty(), "{action} names more");
            }
            None => assert!(evicts, "the result of {action} was lost"),
        }
    }
    lost
}

fn partial_files(data: &Path) -> usize {
    std::fs::read_dir(data.join("partial")).unwrap().count()
}

async fn kill_many(max_size: &str, seed: u64, evicts: bool) -> u64 {
    let mut rng = StdRng::seed_from_u64(seed);
    let place = Place::new();
    let all: Vec<Arc<Vec<Blob>>> = (0..TOOLS as u64)
        .map(|tool| Arc::new(blobs(seed * 100 + tool)))
        .collect();
    let mut told = vec![Told::default(); TOOLS];
    let mut lost = 0;
    for _ in 0..lives() {
        let server = place.serve(&["--max-size", max_size, "--lease", "1s"]);
        for (blobs, told) in all.iter().zip(&told) {
            let mut tool = BuildTool::new(server.address()).await;
            lost += check(&mut tool, blobs, told, evicts).await;
        }
        let mut tasks = Vec::new();
        for (blobs, told) in all.iter().zip(&told) {
            let tool = BuildTool::new(server.address()).await;
            let (blobs, told) = (Arc::clone(blobs), told.clone());
            tasks.push(tokio::spawn(load(tool, blobs, told, rng.random())));
        }
        tokio::time::sleep(Duration::from_micros(rng.random_range(10_000..150_000))).await;
        server.kill();
        for (told, task) in told.iter_mut().zip(tasks) {
            *told = task.await.unwrap();
        }
    }
    let server = place.serve(&["--max-size", max_size, "--lease", "1s"]);
    for (blobs, told) in all.iter().zip(&told) {
        let mut tool = BuildTool::new(server.address()).await;
        check(&mut tool, blobs, told, evicts).await;
        for blob in blobs.iter() {
            // What was looked for is leased for a second.
            while let Err(status) = tool.write(blob).await {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                assert!(evicts, "{status}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    server.stop();
    assert_eq!(
        partial_files(&place.data()),
        0,
        "uploads that ended left files"
    );
    assert!(told.iter().any(|told| !told.stored.is_empty()));
    assert!(told.iter().any(|told| !told.actions.is_empty()));
    assert!(told.iter().any(|told| told.interrupted > 0));
    lost
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_with_room() {
    assert_eq!(kill_many("512MiB", 1, false).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_while_evicting() {
    let lost = kill_many("24MiB", 2, true).await;
    assert!(lost > 0, "nothing was evicted");
}
