//! The one RDMA session of a client, and whether it is to be used.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::timeout;
use zako_rdma::fabric::Fabric;
use zako_rdma::session::{
    self, Budget, BudgetLimits, ClientSession, SessionError, SessionOptions, TraceContext,
    TransferError,
};

use super::breaker::Breaker;
use super::control::{self, Refusal, Traces};
use super::status::{self, Failure};
use crate::Digest;
use crate::cas::{CasError, ErrorKind, Result};
use crate::client::ClientOptions;
use crate::client::pool::Pool;
use crate::observe::trace;

/// RDMA to the server of a client. Its session is set up by the first transfer, shared by
/// all, and set up anew when it has ended.
pub(in crate::client) struct Road {
    fabric: Arc<dyn Fabric>,
    session: SessionOptions,
    budget: Budget,
    /// Nothing else may be used for what is large enough.
    strict: bool,
    breaker: Breaker,
    current: Mutex<Option<Numbered>>,
    /// One sets a session up, the others wait for it.
    opening: tokio::sync::Mutex<()>,
    /// The number of the last session.
    last: AtomicU64,
}

/// A session and its number, by which the breaker knows it.
#[derive(Clone)]
struct Numbered {
    session: ClientSession,
    number: u64,
    traces: Traces,
}

/// A transfer that the server has begun with, and the session that it is on.
#[derive(Debug)]
pub(in crate::client) struct Begun<T> {
    pub(in crate::client) transfer: T,
    pub(in crate::client) session: u64,
}

/// Why there is no session.
struct NotOpened {
    error: CasError,
    /// It isn't for the lack of a connection.
    fault: bool,
}

impl Road {
    pub(in crate::client) fn new(
        fabric: Arc<dyn Fabric>,
        options: &ClientOptions,
        strict: bool,
    ) -> Self {
        Self {
            fabric,
            session: options.rdma.clone(),
            // What the options say is the bound; an old session may be ending beside.
            budget: Budget::new(BudgetLimits {
                bytes: u64::MAX,
                session_bytes: u64::MAX,
                ..BudgetLimits::default()
            }),
            strict,
            breaker: Breaker::new(options.rdma_hold_off),
            current: Mutex::new(None),
            opening: tokio::sync::Mutex::new(()),
            last: AtomicU64::new(0),
        }
    }

    pub(in crate::client) fn is_strict(&self) -> bool {
        self.strict
    }

    /// Why it should not be tried now, and for how long; `None` also if nothing else may be.
    pub(in crate::client) fn held_off(&self) -> Option<(String, Duration)> {
        match self.strict {
            true => None,
            false => self.breaker.held_off(),
        }
    }

    /// Whether a session is open.
    pub(in crate::client) fn is_open(&self) -> bool {
        self.current().is_some()
    }

    /// The most bytes that the server may have been given and not read.
    pub(in crate::client) fn window(&self) -> u64 {
        let slots = u64::from(self.session.exposed_slots);
        slots.saturating_mul(self.session.slot_bytes as u64)
    }

    /// Begins a transfer, on the session that there is or a new one.
    ///
    /// # Errors
    /// [`Failure::Road`] if RDMA is not to be had, [`Failure::Other`] if the server refuses.
    pub(super) async fn begin<T, F, Fut>(
        &self,
        pool: &Pool,
        options: &ClientOptions,
        digest: &Digest,
        call: F,
    ) -> Result<Begun<T>, Failure>
    where
        F: Fn(ClientSession) -> Fut,
        Fut: Future<Output = Result<T, TransferError>>,
    {
        let mut again = true;
        loop {
            let opened = self.session(pool).await;
            let (opened, fresh) = opened.map_err(Failure::Road)?;
            let (session, number) = (opened.traced(), opened.number);
            let limit = options.call_timeout;
            let Ok(begun) = timeout(limit, call(session)).await else {
                // All transfers may be taken by blobs that nobody reads.
                let text =
                    format!("the server did not begin a transfer over RDMA within {limit:?}");
                let error = CasError::new(ErrorKind::Timeout, text);
                return Err(Failure::Road(error.with_digest(*digest)));
            };
            match begun {
                Ok(transfer) => {
                    let session = number;
                    return Ok(Begun { transfer, session });
                }
                Err(TransferError::Session(cause))
                    if !fresh && again && status::is_quiet(&cause) =>
                {
                    again = false;
                    self.forget(number);
                }
                Err(error) => return Err(self.failed(number, &error, digest)),
            }
        }
    }

    /// Draws the consequences of a transfer's error.
    pub(super) fn failed(&self, session: u64, error: &TransferError, digest: &Digest) -> Failure {
        if let TransferError::Session(cause) = error {
            self.forget(session);
            if status::is_fault(cause) {
                self.blame(session, status::of_session(cause).message());
            }
        }
        status::of_transfer(error, digest)
    }

    /// The bytes that came were others than those of the blob.
    pub(super) fn wrong_bytes(&self, session: u64) {
        let current = self.current().filter(|current| current.number == session);
        if let Some(current) = current {
            current.session.close();
        }
        self.blame(session, "RDMA brought other bytes than those of the blob");
    }

    /// A transfer went well to its end.
    pub(super) fn succeeded(&self, session: u64) {
        self.breaker.succeeded(session);
    }

    fn blame(&self, session: u64, reason: &str) {
        if !self.strict {
            self.breaker.failed(session, reason);
        }
    }

    fn current(&self) -> Option<Numbered> {
        let current = self.current.lock();
        current.as_ref().filter(|it| it.session.is_open()).cloned()
    }

    fn forget(&self, session: u64) {
        let mut current = self.current.lock();
        current.take_if(|current| current.number == session);
    }

    /// The session, and whether it was set up for this.
    async fn session(&self, pool: &Pool) -> Result<(Numbered, bool)> {
        if let Some(current) = self.current() {
            return Ok((current, false));
        }
        let _turn = self.opening.lock().await;
        if let Some(current) = self.current() {
            return Ok((current, false));
        }
        if let Some((reason, _)) = self.held_off() {
            // It failed while this one waited.
            return Err(CasError::new(ErrorKind::Unavailable, reason));
        }
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        match self.open(pool).await {
            Ok((session, traces)) => {
                tracing::debug!(fabric = self.fabric.name(), "an RDMA session is open");
                let opened = Numbered {
                    session,
                    number,
                    traces,
                };
                *self.current.lock() = Some(opened.clone());
                Ok((opened, true))
            }
            Err(NotOpened { error, fault }) => {
                if fault {
                    self.blame(number, error.message());
                }
                Err(error)
            }
        }
    }

    async fn open(&self, pool: &Pool) -> Result<(ClientSession, Traces), NotOpened> {
        let elsewhere = |error| NotOpened {
            error,
            fault: false,
        };
        let mut renewed = false;
        loop {
            let seat = pool.seat().await.map_err(elsewhere)?;
            if !seat.has_rdma() {
                let text = "the server chose gRPC";
                return Err(elsewhere(CasError::new(ErrorKind::Unavailable, text)));
            }
            let refusal = Refusal::default();
            let traces = Traces::default();
            let control = control::open(&seat, Refusal::clone(&refusal), Traces::clone(&traces));
            let (fabric, options) = (Arc::clone(&self.fabric), self.session.clone());
            let error = match session::connect(fabric, control, options, &self.budget).await {
                Ok(session) => return Ok((session, traces)),
                Err(error) => error,
            };
            let said = matches!(error, SessionError::ControlLost(_))
                .then(|| refusal.get())
                .flatten();
            let Some(said) = said else {
                return Err(NotOpened {
                    error: status::of_setup(&error),
                    fault: true,
                });
            };
            seat.judge(said);
            match said.kind() {
                ErrorKind::Unauthenticated if !renewed => renewed = true,
                ErrorKind::Unavailable => return Err(elsewhere(said.clone())),
                // Its caller has used up what it may, not the road.
                _ if said.retry_after().is_some() => return Err(elsewhere(said.clone())),
                kind => {
                    let text = format!("the server refuses RDMA: {}", said.message());
                    return Err(NotOpened {
                        error: CasError::new(kind, text),
                        fault: true,
                    });
                }
            }
        }
    }
}

impl Numbered {
    /// The session, for a transfer of the current trace.
    fn traced(&self) -> ClientSession {
        let session = self.session.clone();
        if !trace::is_on() || !self.traces.load(Ordering::Relaxed) {
            return session;
        }
        let mut context = TraceContext::default();
        trace::inject(&trace::current(), &mut |name, value| match name {
            trace::TRACEPARENT => context.parent = value.to_owned(),
            _ => context.state = value.to_owned(),
        });
        session.traced(context)
    }
}

impl fmt::Debug for Road {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Road")
            .field("fabric", &self.fabric)
            .field("strict", &self.strict)
            .field("breaker", &self.breaker)
            .finish_non_exhaustive()
    }
}
