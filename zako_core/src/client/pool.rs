//! The connections of a client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::ClientOptions;
use super::dial::Http2;
use super::entry::{Acceptable, Unusable};
use super::session::{Connection, Lane, Load, Seat, Session};
use super::url::ServerUrl;
use crate::cas::Result;
use crate::tls::TlsConnector;

/// The connections of a client: one at first, more when its streams are all in
/// use or when heavy loads would share it, a new one where one broke.
#[derive(Debug)]
pub(super) struct Pool {
    url: ServerUrl,
    options: ClientOptions,
    tls: Option<TlsConnector>,
    acceptable: Acceptable,
    connections: Mutex<Vec<Arc<Connection>>>,
    /// One opens a connection, the others wait for it: otherwise all who begin at
    /// once would open one.
    opening: tokio::sync::Mutex<Growth>,
    recommended: AtomicUsize,
    /// The server chose RDMA for what is large, on one of the connections that there are or
    /// were last.
    rdma: AtomicBool,
    /// There was a server once.
    met: AtomicBool,
    unusable: Unusable,
}

#[derive(Debug, Default)]
struct Growth {
    /// The server didn't take another connection: none is tried before.
    not_before: Option<Instant>,
}

/// For how long a client makes do with the connections that it has, after the
/// server refused another one.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// How long a heavy load waits for a connection of its own.
const WORTH_WAITING: Duration = Duration::from_secs(1);

impl Pool {
    pub(super) fn new(
        url: ServerUrl,
        options: ClientOptions,
        tls: Option<TlsConnector>,
        acceptable: Acceptable,
    ) -> Self {
        Self {
            url,
            options,
            tls,
            acceptable,
            connections: Mutex::new(Vec::new()),
            opening: tokio::sync::Mutex::default(),
            recommended: AtomicUsize::new(1),
            rdma: AtomicBool::new(false),
            met: AtomicBool::new(false),
            unusable: Unusable::default(),
        }
    }

    pub(super) fn url(&self) -> &ServerUrl {
        &self.url
    }

    /// Whether there was a connection once.
    pub(super) fn met(&self) -> bool {
        self.met.load(Ordering::Relaxed)
    }

    /// The streams that the server last recommended for a connection.
    pub(super) fn recommended(&self) -> usize {
        self.recommended.load(Ordering::Relaxed)
    }

    /// Whether the server chose RDMA for what is large.
    pub(super) fn has_rdma(&self) -> bool {
        self.rdma.load(Ordering::Relaxed)
    }

    /// A session, for a call that takes none of its streams; one with RDMA if there is one.
    pub(super) async fn seat(&self) -> Result<Seat> {
        loop {
            let live = self.live();
            let best = sessions(&live).max_by_key(|(session, _)| session.has_rdma());
            if let Some((session, connection)) = best {
                return Ok(session.seat(connection));
            }
            let connection = self.connection().await?;
            self.negotiate(&connection, false).await?;
        }
    }

    /// A connection, for calls that need no session.
    pub(super) async fn connection(&self) -> Result<Arc<Connection>> {
        if let Some(connection) = self.live().into_iter().next() {
            return Ok(connection);
        }
        let _turn = self.opening.lock().await;
        if let Some(connection) = self.live().into_iter().next() {
            return Ok(connection);
        }
        self.open().await
    }

    /// A stream of a session, as soon as one is free.
    pub(super) async fn lane(&self, load: Load) -> Result<Lane> {
        loop {
            let live = self.live();
            let free = match load {
                Load::Light => free_lane(&live),
                Load::Heavy => lane_alone(&live),
            };
            if let Some(lane) = free {
                return Ok(lane);
            }
            if let Some(connection) = live.iter().find(|one| one.current().is_none()) {
                let spare = live.len() > 1;
                let negotiating = self.negotiate(connection, spare);
                match while_worth(load, spare, rare(negotiating)).await {
                    // It is out of the pool; the others are as good as before.
                    Some(Err(error)) if spare => {
                        tracing::debug!(%error, "a further connection has no session");
                    }
                    Some(other) => other?,
                    None => self.leave_out(connection),
                }
                continue;
            }
            if live.len() < self.options.max_connections && self.grow_for(load, live.len()).await? {
                continue;
            }
            if load == Load::Heavy
                && let Some(lane) = shared_lane(&live)
            {
                return Ok(lane);
            }
            let least = self
                .live()
                .into_iter()
                .filter_map(|one| Some((one.current()?, one)))
                .min_by_key(|(session, _)| session.waiting.load(Ordering::Relaxed));
            if let Some((session, connection)) = least
                && let Some(lane) = session.wait_lane(&connection, load).await
                && !connection.is_retired()
            {
                return Ok(lane);
            }
        }
    }

    /// As [`grow`](Self::grow), but where streams are free, only for as long as the load
    /// is worth waiting for.
    async fn grow_for(&self, load: Load, known: usize) -> Result<bool> {
        match while_worth(load, known > 0, rare(self.grow(known, load))).await {
            Some(grown) => grown,
            None => {
                // Else someone else is trying already.
                if let Ok(mut growth) = self.opening.try_lock() {
                    growth.not_before = Some(Instant::now() + REFUSED_FOR);
                }
                Ok(false)
            }
        }
    }

    /// Opens another connection than the `known` ones; `false` if there is no
    /// hope for one at the moment.
    async fn grow(&self, known: usize, load: Load) -> Result<bool> {
        let mut growth = self.opening.lock().await;
        let live = self.live();
        // Someone else opened one, or a stream became free meanwhile.
        if live.len() != known || has_room(&live, load) {
            return Ok(true);
        }
        if growth.not_before.is_some_and(|then| Instant::now() < then) && known > 0 {
            return Ok(false);
        }
        match self.open_with_session(known > 0).await {
            Ok(()) => Ok(true),
            Err(error) if known > 0 => {
                tracing::debug!(%error, "no further connection");
                growth.not_before = Some(Instant::now() + REFUSED_FOR);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn open_with_session(&self, spare: bool) -> Result<()> {
        let connection = self.open().await?;
        self.negotiate(&connection, spare).await
    }

    /// Opens a session on `connection`; takes it out of the pool if that fails
    /// and it can be spared.
    async fn negotiate(&self, connection: &Arc<Connection>, spare: bool) -> Result<()> {
        match connection.session(&self.options, self.acceptable).await {
            Ok(session) => {
                let recommended = session.recommended();
                self.recommended.store(recommended, Ordering::Relaxed);
                // A server that has no room for another session has it for the one there is.
                let has_rdma = sessions(&self.live()).any(|(session, _)| session.has_rdma());
                self.rdma
                    .store(has_rdma || session.has_rdma(), Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                connection.judge(&error);
                if spare {
                    self.leave_out(connection);
                }
                Err(error)
            }
        }
    }

    fn leave_out(&self, connection: &Arc<Connection>) {
        let mut connections = self.connections.lock();
        connections.retain(|one| !Arc::ptr_eq(one, connection));
    }

    async fn open(&self) -> Result<Arc<Connection>> {
        let http2 = Http2::connect(&self.url, &self.options, self.tls.as_ref()).await?;
        let connection = Arc::new(Connection::new(http2, self.unusable.clone()));
        self.met.store(true, Ordering::Relaxed);
        self.connections.lock().push(connection.clone());
        Ok(connection)
    }

    fn live(&self) -> Vec<Arc<Connection>> {
        let mut connections = self.connections.lock();
        connections.retain(|one| !one.is_retired());
        connections.clone()
    }
}

/// The outcome of `work` for a connection; `None` if a heavy load, which others that are
/// there could take too, has waited for long enough.
async fn while_worth<T>(load: Load, others: bool, work: impl Future<Output = T>) -> Option<T> {
    match load {
        Load::Heavy if others => tokio::time::timeout(WORTH_WAITING, work).await.ok(),
        _ => Some(work.await),
    }
}

/// What few calls do: an allocation then, since all calls would be 11 KiB larger with it, and are
/// moved several times.
fn rare<'a, T>(work: impl Future<Output = T> + Send + 'a) -> BoxFuture<'a, T> {
    work.boxed()
}

/// A free stream of the session that has most of them.
fn free_lane(live: &[Arc<Connection>]) -> Option<Lane> {
    let (session, connection) = sessions(live).max_by_key(|(session, _)| session.available())?;
    session.try_lane(connection, Load::Light)
}

/// A free stream of a session without a heavy load.
fn lane_alone(live: &[Arc<Connection>]) -> Option<Lane> {
    sessions(live).find_map(|(session, connection)| session.try_lane_alone(connection))
}

/// A free stream of the session with the fewest heavy loads.
fn shared_lane(live: &[Arc<Connection>]) -> Option<Lane> {
    let (session, connection) = sessions(live)
        .filter(|(session, _)| session.available() > 0)
        .min_by_key(|(session, _)| session.heavy())?;
    session.try_lane(connection, Load::Heavy)
}

fn has_room(live: &[Arc<Connection>], load: Load) -> bool {
    sessions(live).any(|(session, _)| {
        session.available() > 0 && (load == Load::Light || session.heavy() == 0)
    })
}

fn sessions(live: &[Arc<Connection>]) -> impl Iterator<Item = (Arc<Session>, &Arc<Connection>)> {
    live.iter().filter_map(|one| Some((one.current()?, one)))
}
