//! Two ends of a session over a soft network, and a server of made-up blobs.
#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod raw;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, stream};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use zako_digest::{Digest, hash};
use zako_protobuf::rdma::{ClientMessage, ServerMessage};
use zako_rdma::fabric::{EndpointOptions, Fabric};
use zako_rdma::session::{
    Budget, BudgetLimits, BudgetUsed, Client, ClientSession, Code, Control, FreeSlots, GetRequest,
    PutRequest, Request, Server, ServerSession, SessionError, SessionOptions, Status, accept,
    connect,
};
use zako_rdma::soft::{Faults, SoftFabric, SoftNetwork};

/// Small slots, so that small blobs take many, and a READ for each.
pub(crate) fn options() -> SessionOptions {
    SessionOptions {
        slot_bytes: 4096,
        run_slots: 1,
        exposed_slots: 8,
        pull_slots: 8,
        lent_slots: 4,
        transfers: 4,
        reads: 8,
        endpoint: EndpointOptions::default(),
        ..SessionOptions::default()
    }
}

pub(crate) fn incoming<M: Send + 'static>(
    receiver: mpsc::Receiver<M>,
) -> impl Stream<Item = Result<M, String>> + Send {
    stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|message| (Ok(message), receiver))
    })
}

/// A control stream, both ends of it.
pub(crate) fn controls() -> (Control<Client>, Control<Server>) {
    let (to_server, from_client) = mpsc::channel::<ClientMessage>(4);
    let (to_client, from_server) = mpsc::channel::<ServerMessage>(4);
    (
        Control::new(to_server, incoming(from_server)),
        Control::new(to_client, incoming(from_client)),
    )
}

/// The ports and budgets of two ends.
pub(crate) struct Pair {
    pub(crate) network: SoftNetwork,
    pub(crate) near: Arc<SoftFabric>,
    pub(crate) far: Arc<SoftFabric>,
    pub(crate) near_budget: Budget,
    pub(crate) far_budget: Budget,
}

impl Pair {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let network = SoftNetwork::new(seed, faults);
        Self {
            near: network.fabric(),
            far: network.fabric(),
            network,
            near_budget: Budget::new(BudgetLimits::default()),
            far_budget: Budget::new(BudgetLimits::default()),
        }
    }

    pub(crate) async fn open(&self) -> (ClientSession, ServerSession) {
        let (client, server) = self.try_open(options(), options()).await;
        (client.unwrap(), server.unwrap())
    }

    pub(crate) async fn try_open(
        &self,
        near: SessionOptions,
        far: SessionOptions,
    ) -> (
        Result<ClientSession, SessionError>,
        Result<ServerSession, SessionError>,
    ) {
        let (client, server) = controls();
        let near_fabric: Arc<dyn Fabric> = self.near.clone();
        let far_fabric: Arc<dyn Fabric> = self.far.clone();
        tokio::join!(
            connect(near_fabric, client, near, &self.near_budget),
            accept(far_fabric, server, far, &self.far_budget),
        )
    }

    /// Nothing is left of any session, and nothing was kept.
    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.near_budget.used(), BudgetUsed::default());
        assert_eq!(self.far_budget.used(), BudgetUsed::default());
        assert_eq!(self.network.outstanding(), 0);
        assert_eq!(self.network.endpoints(), 0);
        assert_eq!(self.network.registered(), 0);
    }
}

/// All slots of a session with [`options`] and an open card.
pub(crate) const ALL_FREE: FreeSlots = FreeSlots {
    exposed: 8,
    pulled: 12,
};
/// The same when the nonce's has come back, too.
pub(crate) const FREED: FreeSlots = FreeSlots {
    exposed: 9,
    pulled: 12,
};

/// Blobs that a server has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Blobs(Arc<Mutex<HashMap<Digest, Bytes>>>);

impl Blobs {
    pub(crate) fn add(&self, bytes: &[u8]) -> Digest {
        let digest = hash::bytes(bytes);
        self.0.lock().insert(digest, Bytes::copy_from_slice(bytes));
        digest
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.0.lock().get(digest).cloned()
    }

    /// Serves a session until it ends; why it did, and the slots that are free then.
    pub(crate) fn serve(
        &self,
        mut session: ServerSession,
    ) -> JoinHandle<(SessionError, FreeSlots)> {
        let blobs = self.clone();
        tokio::spawn(async move {
            let mut requests = Vec::new();
            while let Some(request) = session.next().await {
                let blobs = blobs.clone();
                requests.push(tokio::spawn(async move {
                    match request {
                        Request::Get(get) => blobs.answer_get(get).await,
                        Request::Put(put) => blobs.answer_put(put).await,
                    }
                }));
            }
            for request in requests {
                request.await.unwrap();
            }
            let error = session.freed().await;
            (error, session.free_slots())
        })
    }

    async fn answer_get(&self, get: GetRequest) {
        let Some(bytes) = self.get(get.digest()) else {
            return get.refuse(Status::new(Code::NotFound, "not here"));
        };
        let range = get.range();
        let mut expose = get.accept();
        // In steps that are not those of the slots.
        for step in bytes[range.start as usize..range.end as usize].chunks(5000) {
            if expose.send(step).await.is_err() {
                return;
            }
        }
        let _given_up = expose.finish().await;
    }

    async fn answer_put(&self, put: PutRequest) {
        let digest = *put.digest();
        if self.get(&digest).is_some() {
            let status = Status::new(Code::AlreadyExists, "here").with_held(digest.size());
            return put.refuse(status);
        }
        if put.offset() > 0 {
            return put.refuse(Status::new(Code::InvalidArgument, "not held").with_held(0));
        }
        let mut pull = put.accept();
        let mut bytes = Vec::new();
        while let Some(step) = pull.next().await {
            match step {
                Ok(step) => bytes.extend_from_slice(&step),
                Err(_) => {
                    let held = bytes.len() as u64;
                    return pull.finish(Status::cancelled().with_held(held));
                }
            }
        }
        if hash::bytes(&bytes) != digest {
            return pull.finish(Status::new(Code::InvalidArgument, "other bytes"));
        }
        self.add(&bytes);
        pull.finish(Status::ok(digest.size()));
    }
}

/// Bytes that differ everywhere.
pub(crate) fn content(length: usize, seed: u8) -> Vec<u8> {
    (0..length)
        .map(|at| (at / 251) as u8 ^ (at % 251) as u8 ^ seed)
        .collect()
}

/// Reads a blob whole.
pub(crate) async fn get_all(
    client: &ClientSession,
    digest: &Digest,
) -> Result<Vec<u8>, zako_rdma::session::TransferError> {
    let mut pull = client.get(digest, 0..digest.size()).await?;
    let mut bytes = Vec::new();
    while let Some(step) = pull.next().await {
        bytes.extend_from_slice(&step?);
    }
    Ok(bytes)
}

/// Sends a blob whole; how much the server holds.
pub(crate) async fn put_all(
    client: &ClientSession,
    bytes: &[u8],
) -> Result<u64, zako_rdma::session::TransferError> {
    let mut expose = client.put(&hash::bytes(bytes), 0).await?;
    for step in bytes.chunks(3000) {
        expose.send(step).await?;
    }
    expose.finish().await
}

/// Waits until a condition holds, in virtual time.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it never came to be");
}

/// Runs a test on one thread in time that passes only where something waits for it. Fails
/// one that doesn't end within an hour of it.
pub(crate) fn in_virtual_time(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let limit = Duration::from_secs(3600);
        tokio::time::timeout(limit, test).await.expect("it ends");
    });
}
