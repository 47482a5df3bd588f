//! A queue pair as its owner has it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::{Sleep, sleep_until};

use super::network::Shared;
use crate::fabric::{
    Access, Address, Completion, Endpoint, EndpointOptions, FabricError, FailureKind, RemoteMemory,
    Result, Work,
};
use crate::memory::{Slab, Slot};

pub(super) struct SoftEndpoint {
    shared: Arc<Shared>,
    address: Address,
    depth: usize,
    /// Until the next work is due.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl SoftEndpoint {
    pub(super) fn new(
        shared: Arc<Shared>,
        address: Address,
        depth: u32,
        options: &EndpointOptions,
    ) -> Self {
        let (timeout, retries) = (options.timeout, options.retries);
        shared
            .lock()
            .set_retries(address.queue_pair, timeout, retries);
        Self {
            shared,
            address,
            depth: depth as usize,
            sleep: None,
        }
    }
}

impl Endpoint for SoftEndpoint {
    fn address(&self) -> Address {
        self.address
    }

    fn register(&mut self, slab: &Arc<Slab>, access: Access) -> Result<RemoteMemory> {
        let number = self.address.queue_pair;
        self.shared.lock().register(number, slab, access)
    }

    fn connect(&mut self, peer: &Address) -> Result<()> {
        self.shared.lock().connect(self.address.queue_pair, peer)
    }

    fn post(&mut self, id: u64, work: Work) -> std::result::Result<(), (FabricError, Slot)> {
        let mut network = self.shared.lock();
        let number = self.address.queue_pair;
        let posted = network.pair(number).map_or(0, |pair| match work {
            Work::Receive { .. } => pair.receives.len(),
            _ => pair.sends.len() + pair.lost,
        });
        if posted >= self.depth {
            let full = FabricError::new(FailureKind::Full, "as much is posted as may be");
            return Err((full, work.into_slot()));
        }
        network.post(number, id, work)
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) -> Result<()> {
        let mut network = self.shared.lock();
        network.advance(self.address.queue_pair)?;
        let pair = network.pair(self.address.queue_pair)?;
        completions.extend(pair.completions.drain(..));
        Ok(())
    }

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        let mut network = self.shared.lock();
        let number = self.address.queue_pair;
        loop {
            if let Err(error) = network.advance(number) {
                return Poll::Ready(Err(error));
            }
            let pair = match network.pair(number) {
                Ok(pair) => pair,
                Err(error) => return Poll::Ready(Err(error)),
            };
            if !pair.completions.is_empty() {
                return Poll::Ready(Ok(()));
            }
            pair.waker = Some(context.waker().clone());
            let Some(due) = pair.sends.front().map(|posted| posted.due) else {
                return Poll::Pending;
            };
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if sleep.deadline() != due {
                sleep.as_mut().reset(due);
            }
            if sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.sleep = None;
        }
    }

    fn fail(&mut self) -> Result<()> {
        self.shared.lock().fail(self.address.queue_pair)
    }

    fn outstanding(&self) -> usize {
        let mut network = self.shared.lock();
        let pair = network.pair(self.address.queue_pair);
        pair.map_or(0, |pair| pair.outstanding())
    }
}

impl Drop for SoftEndpoint {
    fn drop(&mut self) {
        self.shared.lock().close(self.address.queue_pair);
    }
}

impl fmt::Debug for SoftEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftEndpoint")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
