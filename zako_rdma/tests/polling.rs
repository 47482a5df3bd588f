//! How often a session looks for completions, and when.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pair;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use pair::{Blobs, Pair, content, controls, get_all, in_virtual_time, options};
use zako_rdma::fabric::{
    Access, Address, Completion, Endpoint, EndpointOptions, Fabric, FabricError, Limits,
    RemoteMemory, Result, Work,
};
use zako_rdma::memory::{Slab, Slot};
use zako_rdma::session::{SessionOptions, accept, connect};
use zako_rdma::soft::{Faults, SoftFabric};

/// More than any test here needs: a session that never sleeps stops the time.
const MANY: usize = 100_000;

/// Counts what is asked of its endpoints.
#[derive(Debug)]
struct Counting {
    fabric: Arc<SoftFabric>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Counted {
    endpoint: Box<dyn Endpoint>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    polls: AtomicUsize,
    /// Posts since the last poll.
    posts: AtomicUsize,
    most_posts: AtomicUsize,
}

impl Fabric for Counting {
    fn name(&self) -> &str {
        self.fabric.name()
    }

    fn limits(&self) -> Limits {
        self.fabric.limits()
    }

    fn endpoint(&self, options: &EndpointOptions) -> Result<Box<dyn Endpoint>> {
        Ok(Box::new(Counted {
            endpoint: self.fabric.endpoint(options)?,
            counts: Arc::clone(&self.counts),
        }))
    }
}

impl Endpoint for Counted {
    fn address(&self) -> Address {
        self.endpoint.address()
    }

    fn register(&mut self, slab: &Arc<Slab>, access: Access) -> Result<RemoteMemory> {
        self.endpoint.register(slab, access)
    }

    fn connect(&mut self, peer: &Address) -> Result<()> {
        self.endpoint.connect(peer)
    }

    fn post(&mut self, id: u64, work: Work) -> std::result::Result<(), (FabricError, Slot)> {
        let posts = self.counts.posts.fetch_add(1, Ordering::Relaxed) + 1;
        self.counts.most_posts.fetch_max(posts, Ordering::Relaxed);
        self.endpoint.post(id, work)
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) -> Result<()> {
        let polls = self.counts.polls.fetch_add(1, Ordering::Relaxed);
        self.counts.posts.store(0, Ordering::Relaxed);
        assert!(polls < MANY, "it never sleeps");
        self.endpoint.poll(completions)
    }

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.endpoint.poll_ready(context)
    }

    fn fail(&mut self) -> Result<()> {
        self.endpoint.fail()
    }

    fn outstanding(&self) -> usize {
        self.endpoint.outstanding()
    }
}

/// What is asked of the card of who pulls 20 slots, if each takes so long.
async fn counts(near_options: SessionOptions, each: Duration) -> Arc<Counts> {
    let faults = Faults {
        delay: each..each + Duration::from_millis(1),
        ..Faults::default()
    };
    let pair = Pair::new(1, faults);
    let counts = Arc::new(Counts::default());
    let near = Arc::new(Counting {
        fabric: Arc::clone(&pair.near),
        counts: Arc::clone(&counts),
    });
    let far: Arc<dyn Fabric> = pair.far.clone();
    let mut far_options = options();
    // All that is asked for is granted at once.
    far_options.exposed_slots = 20 + far_options.transfers;
    let (client, server) = controls();
    let (client, server) = tokio::join!(
        connect(near, client, near_options, &pair.near_budget),
        accept(far, server, far_options, &pair.far_budget),
    );
    let (client, blobs) = (client.unwrap(), Blobs::default());
    let bytes = content(20 * 4096, 1);
    let digest = blobs.add(&bytes);
    blobs.serve(server.unwrap());
    assert!(get_all(&client, &digest).await.unwrap() == bytes);
    client.close();
    client.freed().await;
    counts
}

/// How often the card is polled.
async fn polls(look: u32) -> usize {
    let mut options = options();
    options.polls = look;
    // One at a time, so that each is waited for.
    options.reads = 1;
    let counts = counts(options, Duration::from_millis(500)).await;
    counts.polls.load(Ordering::Relaxed)
}

#[test]
fn completions_are_looked_for_a_bounded_number_of_times() {
    in_virtual_time(async {
        let sleeping = polls(0).await;
        assert!(sleeping < 500, "{sleeping}");
        let looking = polls(100).await;
        // After each of the first 19 reads, as the next one is outstanding.
        assert!(looking >= sleeping + 19 * 100, "{sleeping} {looking}");
        assert!(looking <= sleeping + 20 * 100 + 500, "{sleeping} {looking}");
    });
}

#[test]
fn completions_are_looked_for_between_a_few_posts() {
    in_virtual_time(async {
        // Five slots come back at once while more is granted.
        let counts = counts(options(), Duration::from_millis(500)).await;
        let most = counts.most_posts.load(Ordering::Relaxed);
        assert_eq!(most, 3);
    });
}
