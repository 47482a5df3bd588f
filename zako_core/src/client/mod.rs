//! A store on another machine, or in another process of this one.
//!
//! ```no_run
//! use zako_core::cas::{CasExt, Lease};
//! use zako_core::client::{Client, ClientOptions};
//!
//! # async fn example() -> zako_core::cas::Result<()> {
//! let client = Client::connect(&"localhost:7420".parse()?, ClientOptions::default()).await?;
//! let (digest, _) = client.put_bytes("hello").await?;
//! assert_eq!(client.fetch_bytes(&digest).await?, "hello");
//! # Ok(())
//! # }
//! ```

mod answer;
mod batch;
mod call;
mod cas;
mod credentials;
mod dial;
mod download;
mod entry;
mod gather;
mod line;
mod maintain;
mod negotiate;
mod options;
mod outgoing;
mod pool;
mod probe;
mod rdma;
mod retry;
mod roads;
mod send;
mod session;
mod span;
mod stat;
mod status;
mod upload;
mod url;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub use options::{ClientOptions, TransportChoice};
pub use probe::ProbeError;
pub use retry::RetryPolicy;
pub use roads::{RdmaState, RoadUse, Roads};
pub use stat::{RemoteStat, ServerStatus};
pub use url::{DEFAULT_PORT, ServerUrl};
pub use zako_rdma::fabric::Fabric;
pub use zako_rdma::session::SessionOptions;

use self::dial::Http2;
use self::entry::Acceptable;
use self::gather::Gathering;
use self::pool::Pool;
use self::rdma::Road;
use self::retry::Backoff;
use self::roads::Counters;
use self::session::{Lane, Load};
use crate::cas::{CasError, ErrorKind, Result};

/// A client of one server: a [`Cas`](crate::cas::Cas) whose blobs lie there.
///
/// Cheap to clone; clones share their connections. Errors that pass are waited
/// out as [`ClientOptions::retry`] says: a connection that breaks is opened again,
/// a token that is refused is negotiated again, a download goes on where it broke
/// off.
///
/// A [`Blob`](crate::cas::Blob) of more than [`ClientOptions::small_blob_bytes`]
/// and a [`BlobWriter`](crate::cas::BlobWriter) each take one of the streams that
/// the server recommends, until they end or are dropped. When all streams of
/// [`ClientOptions::max_connections`] connections are taken, further calls wait:
/// so don't keep many of them open without using them.
///
/// Blobs that are read whole are hashed on their way
/// ([`ClientOptions::verify`]), and their last step comes only when they are what
/// was asked for; else it is [`ErrorKind::Corrupt`]. A part of a blob can't be
/// checked without the rest.
///
/// With a fabric ([`connect_over`](Self::connect_over)) and a server that offers it, what is
/// large enough ([`ClientOptions::rdma_from_bytes`]) moves over RDMA. Where that fails, a
/// transfer goes on by gRPC from its next byte, and RDMA is not tried for a time that grows
/// from a second to a minute; [`roads`](Self::roads) tells of it.
///
/// It must be used within a tokio runtime with time and I/O enabled, the same one
/// throughout.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    pool: Pool,
    gathering: Gathering,
    options: ClientOptions,
    roads: Counters,
    /// If there is a fabric and it may be used.
    rdma: Option<Road>,
}

impl Client {
    /// Connects and opens a session. An address with nobody there is tried once, so that
    /// it shows at once.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if no server is there,
    /// [`ErrorKind::Unauthenticated`] and [`ErrorKind::PermissionDenied`] if it
    /// refuses, [`ErrorKind::Untrusted`] if one end's certificate isn't what the other
    /// wants, [`ErrorKind::Unsupported`] if there is no road in common.
    pub async fn connect(url: &ServerUrl, options: ClientOptions) -> Result<Self> {
        if options.transport == TransportChoice::Rdma {
            let message = "RDMA was asked for, and there is no fabric to use it on";
            return Err(CasError::new(ErrorKind::Unsupported, message));
        }
        Self::open(url, options, None).await
    }

    /// Connects as [`connect`](Self::connect) does, to a server that may be reached over
    /// this fabric too.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect); with [`TransportChoice::Rdma`] also
    /// [`ErrorKind::Unsupported`] if the server doesn't offer RDMA. Whether it works is
    /// found out by the first transfer.
    pub async fn connect_over(
        url: &ServerUrl,
        options: ClientOptions,
        fabric: Arc<dyn Fabric>,
    ) -> Result<Self> {
        Self::open(url, options, Some(fabric)).await
    }

    async fn open(
        url: &ServerUrl,
        options: ClientOptions,
        fabric: Option<Arc<dyn Fabric>>,
    ) -> Result<Self> {
        let options = options.bounded();
        let (fabric, acceptable) = match options.transport {
            TransportChoice::Grpc => (None, Acceptable::Grpc),
            TransportChoice::Rdma => (fabric, Acceptable::Rdma),
            TransportChoice::Auto if fabric.is_some() => (fabric, Acceptable::Either),
            TransportChoice::Auto => (None, Acceptable::Grpc),
        };
        let strict = acceptable == Acceptable::Rdma;
        let rdma = fabric.map(|fabric| Road::new(fabric, &options, strict));
        let tls = dial::connector(url, &options).await?;
        let pool = Pool::new(url.clone(), options.clone(), tls, acceptable);
        let mut backoff = Backoff::new(options.retry);
        while let Err(error) = pool.lane(Load::Light).await.map(drop) {
            // Nobody there shows at once; a server that was met and ended may have a successor.
            if !pool.met() {
                return Err(error);
            }
            backoff.pause(error).await?;
        }
        let gathering = Gathering::new();
        Ok(Self(Arc::new(Inner {
            pool,
            gathering,
            options,
            roads: Counters::default(),
            rdma,
        })))
    }

    /// How many streams the server recommends to run at once on a connection.
    pub fn recommended_concurrency(&self) -> usize {
        self.0.pool.recommended()
    }

    /// The road that large blobs take now: "rdma" or "grpc".
    pub fn transport(&self) -> &'static str {
        match self.rdma_for(u64::MAX) {
            Some(_) => "rdma",
            None => "grpc",
        }
    }

    /// Which roads blobs took so far, and how RDMA stands.
    pub fn roads(&self) -> Roads {
        self.0.roads.roads(self.rdma_state())
    }

    fn rdma_state(&self) -> RdmaState {
        let Some(road) = &self.0.rdma else {
            return RdmaState::Off;
        };
        match road.held_off() {
            _ if !self.0.pool.has_rdma() => RdmaState::NotOffered,
            Some((reason, retry_in)) => RdmaState::HeldOff { reason, retry_in },
            None if road.is_open() => RdmaState::Open,
            None => RdmaState::Ready,
        }
    }

    /// RDMA, if so many bytes are to move over it now.
    fn rdma_for(&self, bytes: u64) -> Option<&Road> {
        let road = self.0.rdma.as_ref()?;
        let takes = bytes >= self.options().rdma_from_bytes
            && self.0.pool.has_rdma()
            && road.held_off().is_none();
        takes.then_some(road)
    }

    fn options(&self) -> &ClientOptions {
        &self.0.options
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(self.options().retry)
    }

    /// Makes a call that needs no session; again after errors that pass.
    async fn on_connection<T, F, Fut>(&self, backoff: &mut Backoff, call: F) -> Result<T>
    where
        F: Fn(Http2) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        loop {
            let error = match self.0.pool.connection().await {
                Ok(connection) => match call(connection.http2()).await {
                    Ok(value) => return Ok(value),
                    Err(error) => {
                        connection.judge(&error);
                        error
                    }
                },
                Err(error) => error,
            };
            backoff.pause(error).await?;
        }
    }

    /// Makes a call on a stream of a session; again after errors that pass, and
    /// once if the session is unknown to the server.
    async fn on_lane<T, F, Fut>(&self, backoff: &mut Backoff, call: F) -> Result<T>
    where
        F: Fn(Lane) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        self.on_lane_for(Load::Light, backoff, call).await
    }

    async fn on_lane_for<T, F, Fut>(&self, load: Load, backoff: &mut Backoff, call: F) -> Result<T>
    where
        F: Fn(Lane) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let mut renewed = false;
        loop {
            let error = match self.0.pool.lane(load).await {
                Ok(lane) => {
                    let seat = lane.seat();
                    match call(lane).await {
                        Ok(value) => return Ok(value),
                        Err(error) => {
                            seat.judge(&error);
                            error
                        }
                    }
                }
                Err(error) => error,
            };
            if error.kind() == ErrorKind::Unauthenticated && !renewed {
                renewed = true;
                continue;
            }
            backoff.pause(error).await?;
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("server", &format_args!("{}", self.0.pool.url()))
            .finish_non_exhaustive()
    }
}

/// A line that is slower makes a call of many bytes fail, in bytes a second.
const SLOW_LINE: u64 = 16 << 10;

/// What so many bytes may take on their way.
fn on_the_way(bytes: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1000) / SLOW_LINE)
}

/// Bounds a call with one answer.
async fn within<T>(limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(outcome) => outcome,
        Err(_) => Err(CasError::new(
            ErrorKind::Timeout,
            format!("the server did not answer within {limit:?}"),
        )),
    }
}
