//! `kill -9` of a real server, at any moment, again and again.
//!
//! The promise: no blob is reported present that can't be read back whole; no
//! acknowledged blob is lost; what was deleted stays deleted; interrupted uploads
//! go on where they stopped; no space leaks. `ZAKO_CRASH_LIVES` says how many
//! servers each test kills.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "crash/blobs.rs"]
mod blobs;
#[path = "crash/check.rs"]
mod check;
#[path = "crash/load.rs"]
mod load;
mod server_process;

use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use blobs::{Blobs, Known, TASKS};
use check::Check;
use load::Task;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use server_process::{Place, Server, bytes_on_disk};
use zako_core::client::Client;

/// How the store is set up.
#[derive(Clone, Copy, Debug)]
struct Variant {
    max_size: &'static str,
    /// A segment's size, in bytes: it follows from the store's.
    segment: u64,
    /// Larger blobs have files of their own.
    large_from: u64,
    /// Whether the load is more than fits.
    evicts: bool,
}

/// What happened, so that a test that tests nothing shows.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    stored: u64,
    deleted: u64,
    parked: u64,
    resumed: u64,
    evicted: u64,
    open: u64,
}

const ROOMY: Variant = Variant {
    max_size: "128MiB",
    segment: 2 << 20,
    large_from: 512 << 10,
    evicts: false,
};

const SMALL: Variant = Variant {
    max_size: "8MiB",
    segment: 128 << 10,
    large_from: 32 << 10,
    evicts: true,
};

/// A server lives for less than so many steps of its load.
const MOST_WORK: u64 = 100;

/// Lives of one store; then it is emptied.
const LIVES_OF_A_STORE: u64 = 20;

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.stored += other.stored;
        self.deleted += other.deleted;
        self.parked += other.parked;
        self.resumed += other.resumed;
        self.evicted += other.evicted;
        self.open += other.open;
    }
}

fn lives() -> u64 {
    let text = std::env::var("ZAKO_CRASH_LIVES").unwrap_or_else(|_| "120".to_owned());
    text.parse().unwrap()
}

/// Kills servers of one store, and at last empties it.
async fn store_of_many_lives(variant: Variant, seed: u64, lives: u64) -> Tally {
    let mut rng = StdRng::seed_from_u64(seed);
    let place = Place::new();
    let data = place.data();
    let serve = || place.serve(&["--max-size", variant.max_size]);
    let blobs = Arc::new(Blobs::new(seed));
    let mut known = Known::default();
    let mut tally = Tally::default();
    let check = |client: &Client, when: &str| Check {
        client: client.clone(),
        data: &data,
        blobs: &blobs,
        variant,
        about: format!("{variant:?}, seed {seed}, {when}"),
    };
    for life in 0..lives {
        if rng.random_range(0..5) == 0 {
            // Killed while it opens.
            let starting = place.start(&["--max-size", variant.max_size]);
            tokio::time::sleep(Duration::from_micros(rng.random_range(0..30_000))).await;
            starting.kill();
        }
        let server = serve();
        let client = server.client().await;
        let opened = check(&client, &format!("life {life}"));
        opened.run(&mut known, &mut tally, &mut rng).await;
        let tasks = begin(&client, &blobs, variant, &known, &mut rng);
        tasks.work(&mut rng).await;
        tasks.kill(server, &blobs, &mut known, &mut tally).await;
    }
    let server = serve();
    let client = server.client().await;
    let last = check(&client, "at last");
    last.run(&mut known, &mut tally, &mut rng).await;
    last.empty().await;
    server.stop();
    let closed = bytes_on_disk(&data);
    let server = serve();
    let client = server.client().await;
    check(&client, "emptied").exact(closed).await;
    tally
}

/// Tasks at work.
struct Working {
    tasks: Vec<tokio::task::JoinHandle<(Known, Tally)>>,
    killed: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
}

fn begin(
    client: &Client,
    blobs: &Arc<Blobs>,
    variant: Variant,
    known: &Known,
    rng: &mut StdRng,
) -> Working {
    let killed = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let tasks = (0..TASKS)
        .map(|number| {
            let task = Task {
                client: client.clone(),
                blobs: Arc::clone(blobs),
                number,
                variant,
                killed: Arc::clone(&killed),
                done: Arc::clone(&done),
                known: known.clone(),
                tally: Tally::default(),
            };
            tokio::spawn(task.run(rng.random()))
        })
        .collect();
    Working {
        tasks,
        killed,
        done,
    }
}

impl Working {
    /// Waits for so much work, not for so much time: machines differ. Then somewhere in what is
    /// under way.
    async fn work(&self, rng: &mut StdRng) {
        let work = rng.random_range(1..MOST_WORK);
        let done = || self.done.load(Ordering::Relaxed);
        while done() < work && self.tasks.iter().all(|task| !task.is_finished()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..10_000))).await;
    }

    /// Kills the server and takes up what the tasks know.
    async fn kill(self, server: Server, blobs: &Blobs, known: &mut Known, tally: &mut Tally) {
        self.killed.store(true, Ordering::Release);
        server.kill();
        for (number, task) in self.tasks.into_iter().enumerate() {
            let (task, did) = task.await.unwrap();
            known.learn(&task, &blobs.own[number], &blobs.shared);
            *tally += did;
        }
    }
}

async fn kill_many(variant: Variant, first_seed: u64) -> Tally {
    let mut tally = Tally::default();
    let mut left = lives();
    let mut seed = first_seed;
    while left > 0 {
        let lives = left.min(LIVES_OF_A_STORE);
        tally += store_of_many_lives(variant, seed, lives).await;
        left -= lives;
        seed += 1;
    }
    assert!(tally.stored > 0 && tally.deleted > 0, "{tally:?}");
    assert!(tally.parked > 0 && tally.resumed > 0, "{tally:?}");
    assert!(tally.open > 0, "no server was killed at work: {tally:?}");
    tally
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_with_room() {
    let tally = kill_many(ROOMY, 0).await;
    assert_eq!(tally.evicted, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_while_evicting() {
    let tally = kill_many(SMALL, 1000).await;
    assert!(tally.evicted > 0, "nothing was evicted: {tally:?}");
}
