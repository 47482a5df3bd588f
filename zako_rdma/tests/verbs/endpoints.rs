//! Endpoints in this process, and waiting for what they do.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use zako_rdma::fabric::{
    Access, Completion, Endpoint, EndpointOptions, Fabric, FailureKind, RemoteMemory, Work,
};
use zako_rdma::memory::{Slab, Slot};

/// After this, something that has to come never will. Emulated machines are slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// An endpoint with memory.
pub(crate) struct End {
    pub(crate) endpoint: Box<dyn Endpoint>,
    pub(crate) slab: Arc<Slab>,
    pub(crate) memory: RemoteMemory,
}

impl End {
    pub(crate) fn new(fabric: &Arc<dyn Fabric>, access: Access, slot_bytes: usize) -> Self {
        let mut endpoint = fabric.endpoint(&EndpointOptions::default()).unwrap();
        let slab = Slab::new(16, slot_bytes).unwrap();
        let memory = endpoint.register(&slab, access).unwrap();
        Self {
            endpoint,
            slab,
            memory,
        }
    }

    /// A slot of these bytes, the rest of it zero.
    pub(crate) fn slot(&self, bytes: &[u8]) -> Slot {
        let mut slot = self.slab.take().unwrap();
        slot.fill(0);
        slot[..bytes.len()].copy_from_slice(bytes);
        slot
    }

    pub(crate) fn post(&mut self, id: u64, work: Work) {
        self.endpoint.post(id, work).unwrap();
    }

    /// Posts a READ of the first bytes of the peer's memory.
    pub(crate) fn read(&mut self, id: u64, length: u32, address: u64, key: u32) {
        let into = self.slot(&[]);
        self.post(
            id,
            Work::Read {
                into,
                length,
                address,
                key,
            },
        );
    }

    /// Waits for so many completions.
    pub(crate) fn completions(&mut self, count: usize) -> Vec<Completion> {
        run(self.completed(count))
    }

    /// Waits for so many completions, in an async context.
    pub(crate) async fn completed(&mut self, count: usize) -> Vec<Completion> {
        let mut completions = Vec::new();
        let endpoint = &mut self.endpoint;
        let all = async {
            loop {
                endpoint.poll(&mut completions).unwrap();
                if completions.len() >= count {
                    return;
                }
                poll_fn(|context| endpoint.poll_ready(context))
                    .await
                    .unwrap();
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            panic!(
                "{} of {count} completions came: {completions:?}",
                completions.len()
            );
        }
        completions
    }
}

/// Two endpoints that are connected.
pub(crate) fn pair(fabric: &Arc<dyn Fabric>, access: Access, slot_bytes: usize) -> (End, End) {
    let mut one = End::new(fabric, access, slot_bytes);
    let mut other = End::new(fabric, access, slot_bytes);
    one.endpoint.connect(&other.endpoint.address()).unwrap();
    other.endpoint.connect(&one.endpoint.address()).unwrap();
    (one, other)
}

/// The outcomes, by kind.
pub(crate) fn kinds(completions: &[Completion]) -> Vec<Result<u32, FailureKind>> {
    completions
        .iter()
        .map(|one| one.outcome.clone().map_err(|error| error.kind()))
        .collect()
}

/// Bytes that differ from place to place.
pub(crate) fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Runs it on a runtime of one thread.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !so() {
        assert!(std::time::Instant::now() < end, "never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
