//! How often a session looks for completions.
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
use zako_rdma::session::{accept, connect};
use zako_rdma::soft::{Faults, SoftFabric};

/// More than any test here needs: a session that never sleeps stops the time.
const MANY: usize = 100_000;

/// Counts how often its endpoints are polled.
#[derive(Debug)]
struct Counting {
    fabric: Arc<SoftFabric>,
    polls: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Counted {
    endpoint: Box<dyn Endpoint>,
    polls: Arc<AtomicUsize>,
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
            polls: Arc::clone(&self.polls),
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
        self.endpoint.post(id, work)
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) -> Result<()> {
        let polls = self.polls.fetch_add(1, Ordering::Relaxed);
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

/// How often the card of who pulls 20 slots is polled, if each takes half a second.
async fn polls(look: u32) -> usize {
    let faults = Faults {
        delay: Duration::from_millis(500)..Duration::from_millis(501),
        ..Faults::default()
    };
    let pair = Pair::new(1, faults);
    let polls = Arc::new(AtomicUsize::new(0));
    let near = Arc::new(Counting {
        fabric: Arc::clone(&pair.near),
        polls: Arc::clone(&polls),
    });
    let far: Arc<dyn Fabric> = pair.far.clone();
    let mut near_options = options();
    near_options.polls = look;
    // One at a time, so that each is waited for.
    near_options.reads = 1;
    let (client, server) = controls();
    let (client, server) = tokio::join!(
        connect(near, client, near_options, &pair.near_budget),
        accept(far, server, options(), &pair.far_budget),
    );
    let (client, blobs) = (client.unwrap(), Blobs::default());
    let bytes = content(20 * 4096, 1);
    let digest = blobs.add(&bytes);
    blobs.serve(server.unwrap());
    assert!(get_all(&client, &digest).await.unwrap() == bytes);
    client.close();
    client.freed().await;
    polls.load(Ordering::Relaxed)
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
