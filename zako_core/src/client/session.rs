//! One connection and the transport session on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::metadata::MetadataValue;

use super::dial::Http2;
use super::entry::{Acceptable, Entry, Unusable, enter};
use super::{ClientOptions, call};
use crate::cas::{CasError, ErrorKind, Result};

/// A connection to the server, and the session that its token opened.
#[derive(Debug)]
pub(super) struct Connection {
    control: Http2,
    unusable: Unusable,
    session: Mutex<Option<Arc<Session>>>,
    /// One negotiates, the others wait for what comes of it.
    negotiating: tokio::sync::Mutex<()>,
    retired: AtomicBool,
}

/// A transport session: a redeemed token, and room for the streams that the
/// server recommends.
#[derive(Debug)]
pub(super) struct Session {
    /// Where bytes move: the connection itself, or one to the address that the
    /// server named.
    http2: Http2,
    token: Option<HeaderValue>,
    streams: Arc<Semaphore>,
    recommended: usize,
    /// The server chose RDMA for what is large.
    rdma: bool,
    pub(super) waiting: AtomicUsize,
    heavy: AtomicUsize,
}

/// What a stream is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    Light,
    /// So much that a connection's one thread on either side would hold it up beside
    /// another such load.
    Heavy,
}

/// The right to one stream of a session, until it is dropped.
#[derive(Debug)]
pub(super) struct Lane {
    seat: Seat,
    _permit: OwnedSemaphorePermit,
    _heavy: Option<Heavy>,
}

/// Counts a heavy load of a session, until it is dropped.
#[derive(Debug)]
struct Heavy(Arc<Session>);

/// A session and its connection.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    connection: Arc<Connection>,
    session: Arc<Session>,
}

impl Connection {
    pub(super) fn new(control: Http2, unusable: Unusable) -> Self {
        Self {
            control,
            unusable,
            session: Mutex::new(None),
            negotiating: tokio::sync::Mutex::new(()),
            retired: AtomicBool::new(false),
        }
    }

    /// Whether no new call should begin here. Those under way go on.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
            || self.control.is_closed()
            || self
                .current()
                .is_some_and(|session| session.http2.is_closed())
    }

    /// Draws the consequence of a call's error: a connection on which the server
    /// was not to be had is not used again.
    pub(super) fn judge(&self, error: &CasError) {
        if error.kind() == ErrorKind::Unavailable {
            self.retired.store(true, Ordering::Relaxed);
            if let Some(session) = self.current() {
                session.streams.close();
            }
        }
    }

    pub(super) fn http2(&self) -> Http2 {
        self.control.clone()
    }

    /// The session, if there is one.
    pub(super) fn current(&self) -> Option<Arc<Session>> {
        self.session.lock().clone()
    }

    /// The session; negotiates one if there is none.
    ///
    /// # Errors
    /// Those of the negotiation.
    pub(super) async fn session(
        &self,
        options: &ClientOptions,
        acceptable: Acceptable,
    ) -> Result<Arc<Session>> {
        if let Some(session) = self.current() {
            return Ok(session);
        }
        let _turn = self.negotiating.lock().await;
        if let Some(session) = self.current() {
            return Ok(session);
        }
        let entry = enter(&self.control, options, acceptable, &self.unusable).await?;
        let session = Arc::new(Session::new(entry, options));
        *self.session.lock() = Some(session.clone());
        Ok(session)
    }

    /// Gives up a session that the server doesn't know any more.
    pub(super) fn expire(&self, session: &Arc<Session>) {
        let mut current = self.session.lock();
        if current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, session))
        {
            *current = None;
        }
        // Who waits for a stream of it must wait for one of the next session.
        session.streams.close();
    }
}

impl Session {
    fn new(entry: Entry, options: &ClientOptions) -> Self {
        let streams = entry.recommended.min(options.streams_per_connection());
        Self {
            http2: entry.http2,
            token: entry.token,
            streams: Arc::new(Semaphore::new(streams)),
            recommended: streams,
            rdma: entry.rdma,
            waiting: AtomicUsize::new(0),
            heavy: AtomicUsize::new(0),
        }
    }

    pub(super) fn recommended(&self) -> usize {
        self.recommended
    }

    /// Whether the server chose RDMA for what is large.
    pub(super) fn has_rdma(&self) -> bool {
        self.rdma
    }

    /// A place for a call that takes no stream.
    pub(super) fn seat(self: &Arc<Self>, connection: &Arc<Connection>) -> Seat {
        Seat {
            connection: connection.clone(),
            session: self.clone(),
        }
    }

    pub(super) fn available(&self) -> usize {
        self.streams.available_permits()
    }

    /// The heavy loads under way.
    pub(super) fn heavy(&self) -> usize {
        self.heavy.load(Ordering::Relaxed)
    }

    /// A stream that is free at once.
    pub(super) fn try_lane(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        load: Load,
    ) -> Option<Lane> {
        let permit = self.streams.clone().try_acquire_owned().ok()?;
        let heavy = (load == Load::Heavy).then(|| Heavy::another(self));
        Some(self.lane(connection, permit, heavy))
    }

    /// A stream for a heavy load that is free at once, if there is no other such load.
    pub(super) fn try_lane_alone(self: &Arc<Self>, connection: &Arc<Connection>) -> Option<Lane> {
        let heavy = Heavy::only(self)?;
        let permit = self.streams.clone().try_acquire_owned().ok()?;
        Some(self.lane(connection, permit, Some(heavy)))
    }

    /// The next stream that is free; `None` if the session ends before.
    pub(super) async fn wait_lane(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        load: Load,
    ) -> Option<Lane> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        let permit = self.streams.clone().acquire_owned().await.ok()?;
        let heavy = (load == Load::Heavy).then(|| Heavy::another(self));
        Some(self.lane(connection, permit, heavy))
    }

    fn lane(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        permit: OwnedSemaphorePermit,
        heavy: Option<Heavy>,
    ) -> Lane {
        Lane {
            seat: self.seat(connection),
            _permit: permit,
            _heavy: heavy,
        }
    }
}

impl Load {
    /// Moving fewer bytes takes less time than opening a connection may.
    const HEAVY: u64 = 8 << 20;

    /// That of moving so many bytes.
    pub(super) fn of(bytes: u64) -> Self {
        match bytes < Self::HEAVY {
            true => Self::Light,
            false => Self::Heavy,
        }
    }
}

impl Heavy {
    fn another(session: &Arc<Session>) -> Self {
        session.heavy.fetch_add(1, Ordering::Relaxed);
        Self(session.clone())
    }

    fn only(session: &Arc<Session>) -> Option<Self> {
        let count = &session.heavy;
        count
            .compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed)
            .ok()?;
        Some(Self(session.clone()))
    }
}

impl Drop for Heavy {
    fn drop(&mut self) {
        self.0.heavy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lane {
    pub(super) fn http2(&self) -> Http2 {
        self.seat.http2()
    }

    /// The token that each call carries, if the server wants one.
    pub(super) fn token(&self) -> Option<HeaderValue> {
        self.seat.session.token.clone()
    }

    /// A call for generated code.
    pub(super) fn request<M>(&self, message: M) -> tonic::Request<M> {
        self.seat.request(message)
    }

    pub(super) fn seat(&self) -> Seat {
        self.seat.clone()
    }
}

impl Seat {
    pub(super) fn http2(&self) -> Http2 {
        self.session.http2.clone()
    }

    /// A call for generated code, with the token.
    pub(super) fn request<M>(&self, message: M) -> tonic::Request<M> {
        let mut request = tonic::Request::new(message);
        if let Some(token) = &self.session.token
            && let Ok(token) = MetadataValue::try_from(token.as_bytes())
        {
            request.metadata_mut().insert(call::TOKEN, token);
        }
        request
    }

    /// Whether the server chose RDMA for what is large.
    pub(super) fn has_rdma(&self) -> bool {
        self.session.rdma
    }

    /// Draws the consequences of a call's error.
    pub(super) fn judge(&self, error: &CasError) {
        match error.kind() {
            ErrorKind::Unauthenticated => self.connection.expire(&self.session),
            _ => self.connection.judge(error),
        }
    }
}
