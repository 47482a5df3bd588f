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
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::{BuildTool, is_full, is_gone};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use server_process::{Place, Server, noise};
use tonic::Status;
use zako_reapi::digest::{DigestFunction, RemoteDigest};

/// Tools that use a server at once.
const TOOLS: usize = 4;

/// Blobs that each tool makes.
const BLOBS: usize = 32;

/// Blobs that each tool uses of a server that has to evict: half of the store has room
/// for these of all tools, which may be leased, while all that there are don't fit.
const WINDOW: usize = 8;

/// For how long what is reported present must stay. It does until the minute is over, or
/// the server: nothing is evicted in a life at whose beginning everything was looked for.
const LEASE: Duration = Duration::from_secs(1);

/// Between two tries of what found no room.
const PAUSE: Duration = Duration::from_millis(50);

/// A server lives for less than so many answers to its load.
const MOST_WORK: u64 = 40;

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

/// The load on a server.
struct Load {
    blobs: Arc<Vec<Blob>>,
    told: Told,
    evicts: bool,
    /// What is stored before anything else.
    wanted: Vec<Blob>,
    done: Arc<Done>,
}

/// What all tools have done.
#[derive(Default)]
struct Done {
    answers: AtomicU64,
    /// Tools that have stored what they wanted.
    stored: AtomicU64,
}

fn lives() -> usize {
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

impl Load {
    /// Stores, looks, and interrupts until the server is gone.
    async fn run(mut self, mut tool: BuildTool, seed: u64) -> Told {
        let mut rng = StdRng::seed_from_u64(seed);
        while let Some(blob) = self.wanted.last() {
            match tool.write(blob).await {
                Ok(()) => {
                    self.told.stored.insert(blob.digest);
                    self.wanted.pop();
                }
                Err(status) if is_gone(&status) => return self.told,
                Err(status) => {
                    assert!(self.evicts && is_full(&status), "{status:?}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
            self.done.answers.fetch_add(1, Ordering::Relaxed);
        }
        self.done.stored.fetch_add(1, Ordering::Relaxed);
        loop {
            match self.step(&mut tool, &mut rng).await {
                Ok(()) => {}
                Err(status) if is_gone(&status) => return self.told,
                Err(status) => assert!(self.evicts && is_full(&status), "{status:?}"),
            }
            self.done.answers.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn step(&mut self, tool: &mut BuildTool, rng: &mut StdRng) -> Result<(), Status> {
        let (blobs, told) = (&self.blobs, &mut self.told);
        let blob = &blobs[rng.random_range(0..blobs.len())];
        match rng.random_range(0..10) {
            0..=4 => {
                tool.write(blob).await?;
                told.stored.insert(blob.digest);
            }
            5 | 6 => {
                let from = rng.random_range(0..blobs.len());
                let some = blobs[from..].iter().take(6);
                let some: Vec<&Blob> = some.filter(|blob| blob.data.len() < 400_000).collect();
                let stored = tool.batch(&some).await?;
                assert!(self.evicts || stored.len() == some.len());
                told.stored.extend(stored);
            }
            7 => {
                tool.interrupt(blob, rng).await?;
                told.interrupted += 1;
            }
            _ => {
                let of_it = |digest: &RemoteDigest| {
                    digest.function() == DigestFunction::Sha256 && told.stored.contains(digest)
                };
                let named = blobs.iter().map(|blob| blob.digest).filter(of_it);
                let named: Vec<RemoteDigest> = named.take(5).collect();
                let action = DigestFunction::Sha256.digest(blob.data.get(..9).unwrap_or(b"x"));
                // Until it is answered either may be there.
                told.actions.remove(&action);
                tool.act(action, &named).await?;
                told.actions.insert(action, named);
            }
        }
        Ok(())
    }
}

/// Checks a server that nobody uses yet: what it doesn't have.
async fn check(
    server: &Server,
    blobs: &[Blob],
    told: &Told,
    evicts: bool,
) -> HashSet<RemoteDigest> {
    let mut tool = BuildTool::connect(server.address()).await.unwrap();
    let digests: Vec<RemoteDigest> = blobs.iter().map(|blob| blob.digest).collect();
    let asked = Instant::now();
    let missing = tool.missing(&digests).await.unwrap();
    for blob in blobs {
        if missing.contains(&blob.digest) {
            assert!(
                evicts || !told.stored.contains(&blob.digest),
                "{} was lost",
                blob.digest
            );
            continue;
        }
        match tool.read(&blob.digest, 0, 0).await.unwrap() {
            Some(found) => assert!(found == blob.data, "{} is damaged", blob.digest),
            None => assert!(evicts && asked.elapsed() >= LEASE, "{} went", blob.digest),
        }
    }
    for (action, named) in &told.actions {
        let asked = Instant::now();
        match tool.result(action).await.unwrap() {
            Some(found) => {
                assert_eq!(&found, named);
                let whole = tool.missing(named).await.unwrap().is_empty();
                let over = evicts && asked.elapsed() >= LEASE;
                assert!(whole || over, "{action} names more");
            }
            None => assert!(evicts, "the result of {action} was lost"),
        }
    }
    missing
}

/// Stores all blobs of a tool; there is room for them, if others go.
async fn fill(server: &Server, blobs: &[Blob]) {
    let mut tool = BuildTool::connect(server.address()).await.unwrap();
    for blob in blobs {
        tool.write(blob).await.unwrap();
    }
}

fn partial_files(data: &Path) -> usize {
    std::fs::read_dir(data.join("partial")).unwrap().count()
}

/// Kills servers of one store; the blobs that were evicted during the lives of those.
async fn kill_many(max_size: &str, seed: u64, evicts: bool) -> usize {
    let mut rng = StdRng::seed_from_u64(seed);
    let place = Place::new();
    let lease = format!("{}s", LEASE.as_secs());
    let serve = ["--max-size", max_size, "--lease", &lease];
    let all: Vec<Arc<Vec<Blob>>> = (0..TOOLS as u64)
        .map(|tool| Arc::new(blobs(seed * 100 + tool)))
        .collect();
    let mut told = vec![Told::default(); TOOLS];
    // What of each tool's blobs was not there when it was last looked for.
    let digests = |blobs: &Arc<Vec<Blob>>| blobs.iter().map(|blob| blob.digest).collect();
    let mut lacked: Vec<HashSet<RemoteDigest>> = all.iter().map(digests).collect();
    let mut evicted = 0;
    if evicts {
        // Whatever is new needs the room of something else from then on.
        let server = place.serve(&serve);
        for blobs in &all {
            fill(&server, blobs).await;
        }
        for ((blobs, told), lacked) in all.iter().zip(&told).zip(&mut lacked) {
            *lacked = check(&server, blobs, told, evicts).await;
        }
        server.stop();
    }
    for life in 0..lives() {
        let server = place.serve(&serve);
        let makes_room = evicts && life % 2 == 0;
        if !makes_room {
            for ((blobs, told), lacked) in all.iter().zip(&told).zip(&mut lacked) {
                let missing = check(&server, blobs, told, evicts).await;
                evicted += missing.difference(lacked).count();
                *lacked = missing;
            }
        }
        let done = Arc::new(Done::default());
        let mut tasks = Vec::new();
        for (blobs, told) in all.iter().zip(&told) {
            let used = match makes_room {
                true => Arc::new(blobs[life / 4 * WINDOW % BLOBS..][..WINDOW].to_vec()),
                false => Arc::clone(blobs),
            };
            let load = Load {
                wanted: match makes_room {
                    true => used.to_vec(),
                    false => Vec::new(),
                },
                blobs: used,
                told: told.clone(),
                evicts,
                done: Arc::clone(&done),
            };
            let tool = BuildTool::connect(server.address()).await.unwrap();
            tasks.push(tokio::spawn(load.run(tool, rng.random())));
        }
        // Killed after so much work, not after so much time: machines differ. Somewhere
        // in what is under way then; now while room is made, now when it was.
        let work = rng.random_range(1..MOST_WORK);
        let stored = match life % 4 {
            0 => TOOLS as u64,
            _ => 0,
        };
        let goes_on = || {
            let Done {
                answers,
                stored: so_far,
            } = &*done;
            answers.load(Ordering::Relaxed) < work || so_far.load(Ordering::Relaxed) < stored
        };
        while goes_on() && tasks.iter().all(|it| !it.is_finished()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..10_000))).await;
        server.kill();
        for (told, task) in told.iter_mut().zip(tasks) {
            *told = task.await.unwrap();
        }
    }
    for (blobs, told) in all.iter().zip(&told) {
        let server = place.serve(&serve);
        check(&server, blobs, told, evicts).await;
        server.stop();
        // Another one, with no leases.
        let server = place.serve(&serve);
        fill(&server, blobs).await;
        server.stop();
    }
    assert_eq!(
        partial_files(&place.data()),
        0,
        "uploads that ended left files"
    );
    assert!(told.iter().any(|told| !told.stored.is_empty()));
    assert!(told.iter().any(|told| !told.actions.is_empty()));
    assert!(told.iter().any(|told| told.interrupted > 0));
    evicted
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_with_room() {
    assert_eq!(kill_many("512MiB", 1, false).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_while_evicting() {
    let evicted = kill_many("24MiB", 2, true).await;
    assert!(evicted > 0, "nothing was evicted");
}
