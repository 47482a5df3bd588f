//! A session's hold on the card: its endpoint, its memory, and its share of the budget.

use std::sync::Arc;
use std::time::Duration;

use futures::future::poll_fn;
use rand::RngCore;
use tokio::time::timeout;

use super::budget::{Budget, Reservation};
use super::error::SessionError;
use super::hello::Hello;
use super::message::{NONCE_BYTES, Nonce};
use super::options::SessionOptions;
use super::state::Lifecycle;
use crate::fabric::{Access, Completion, Endpoint, Fabric, Result as FabricResult};
use crate::memory::{Slab, Slot};

/// What a session has of a card. The endpoint goes first, and the budget is given back
/// last.
#[derive(Debug)]
pub(crate) struct Card {
    pub(crate) endpoint: Box<dyn Endpoint>,
    /// What this end says of itself.
    pub(crate) hello: Hello,
    /// What the first bytes of the exposed memory are.
    pub(crate) nonce: Nonce,
    /// What the peer may reach. New, so that nothing of another session is in it.
    pub(crate) exposed: Arc<Slab>,
    /// What is pulled into.
    pub(crate) local: Arc<Slab>,
    /// Where the nonce is.
    _nonce_slot: Slot,
    reservation: Reservation,
}

impl Card {
    /// Takes from the budget, then from the card. A peer may do with the exposed memory what
    /// `access` says.
    pub(crate) fn open(
        fabric: &dyn Fabric,
        options: &SessionOptions,
        access: Access,
        budget: &Budget,
    ) -> Result<Self, SessionError> {
        options.check()?;
        let reservation = budget.reserve(options.pinned_bytes())?;

        let mut endpoint = fabric.endpoint(&options.endpoint)?;
        let slab = |slots| Slab::with_pages(slots, options.slot_bytes, options.pages);
        let exposed = slab(options.all_exposed())?;
        let local = slab(options.all_local())?;
        let Some(mut nonce_slot) = exposed.take().filter(|slot| slot.offset() == 0) else {
            return Err(SessionError::Internal(
                "a new slab has no first slot".to_owned(),
            ));
        };
        let mut nonce = [0; NONCE_BYTES];
        rand::rng().fill_bytes(&mut nonce);
        nonce_slot[..NONCE_BYTES].copy_from_slice(&nonce);

        let memory = endpoint.register(&exposed, access)?;
        endpoint.register(&local, Access::Local)?;
        let hello = Hello {
            address: endpoint.address(),
            memory,
            grant_bytes: options.grant_bytes().min(fabric.limits().message_bytes),
            transfers: options.transfers(),
        };
        Ok(Self {
            endpoint,
            hello,
            nonce,
            exposed,
            local,
            _nonce_slot: nonce_slot,
            reservation,
        })
    }

    /// What has been completed, when there is something.
    pub(crate) async fn completed(
        &mut self,
        completions: &mut Vec<Completion>,
    ) -> FabricResult<()> {
        loop {
            self.endpoint.poll(completions)?;
            if !completions.is_empty() {
                return Ok(());
            }
            poll_fn(|context| self.endpoint.poll_ready(context)).await?;
        }
    }

    /// Ends whatever is posted and gives everything back.
    pub(crate) async fn close(mut self, lifecycle: &mut Lifecycle, limit: Duration) {
        lifecycle.drain();
        if let Err(error) = self.endpoint.fail() {
            tracing::warn!(%error, "a queue pair could not be taken to Error");
        }
        let drained = timeout(limit, async {
            let mut completions = Vec::new();
            while lifecycle.outstanding() > 0 {
                if let Err(error) = self.completed(&mut completions).await {
                    tracing::error!(%error, "the completions of a session are lost");
                    break;
                }
                for completion in completions.drain(..) {
                    // Draining: whatever came of it is well.
                    let _ignored = lifecycle.completed(completion.outcome);
                }
            }
        });
        let _late = drained.await;
        let Self {
            endpoint,
            reservation,
            ..
        } = self;
        drop(endpoint);
        if let Err(error) = lifecycle.closed() {
            let outstanding = lifecycle.outstanding();
            tracing::error!(%error, outstanding, "work never ended; its memory is kept for good");
            reservation.keep_memory();
        }
    }
}
