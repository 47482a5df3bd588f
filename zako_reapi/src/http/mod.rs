//! The HTTP cache: blobs, action results and values on a port of their own.
//!
//! | path | what it is |
//! | --- | --- |
//! | `/[instance/]cas/<hash>` | a blob; the length of the hash tells the function, a name before it (`cas/blake3/<hash>`) too |
//! | `/[instance/]ac/<hash>` | an action result, or whatever a client keeps there |
//! | `/[instance/]dav/<path>` | values under free names, with as much of WebDAV as caches need |
//! | `/status` | figures of the server and its store, as JSON |

mod actions;
mod answer;
mod blob_body;
mod blobs;
mod body;
mod compress;
mod conditions;
mod connection;
mod dav;
mod decode;
mod give;
mod memory;
mod meter;
mod multistatus;
mod negotiation;
mod options;
mod path;
mod range;
mod receive;
mod refusal;
mod rights;
mod route;
mod span;
mod status;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use zako_core::access::{Authorizer, Quota};
use zako_core::cas::{Maintain, Result};
use zako_core::observe::Observer;
use zako_core::server::{DrainLimit, ListenAddr, ListenSocket, Port};

pub use options::HttpOptions;

use self::memory::Memory;
use crate::cache::Cache;

/// How long uploads whose connections were cut may take to let go of the store.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// The HTTP cache on its address.
pub struct HttpServer {
    port: Port,
    shared: Shared,
}

/// What all requests share.
struct Shared {
    cache: Cache,
    maintain: Option<Arc<dyn Maintain>>,
    /// Is told of requests and connections.
    observer: Option<Arc<dyn Observer>>,
    /// Knows who callers are; without one everyone is alike.
    authorizer: Option<Arc<dyn Authorizer>>,
    /// Knows what callers may use; without one there are no bounds but the options'.
    quota: Option<Arc<dyn Quota>>,
    options: HttpOptions,
    began: Instant,
    /// Uploads that run, which outlive their connections to clean up.
    uploads: TaskTracker,
    memory: Memory,
    /// For decompressing: who waits for it may hold some of the other.
    windows: Memory,
    compressions: Arc<Semaphore>,
}

impl HttpServer {
    /// Takes the address. Connections queue up until [`serve`](Self::serve) runs.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](zako_core::cas::ErrorKind::Io) if the address can't be taken.
    pub async fn bind(addr: &ListenAddr, cache: Cache, options: HttpOptions) -> Result<Self> {
        let port = Port::bind(addr, options.port()).await?;
        Ok(Self::on(port, cache, options))
    }

    /// Takes a socket that listens already. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](zako_core::cas::ErrorKind::Io) if it is of no use.
    pub fn bind_to(socket: ListenSocket, cache: Cache, options: HttpOptions) -> Result<Self> {
        let port = Port::bind_to(socket, options.port())?;
        Ok(Self::on(port, cache, options))
    }

    fn on(port: Port, cache: Cache, options: HttpOptions) -> Self {
        let shared = Shared {
            memory: Memory::new(options.max_memory_bytes),
            windows: Memory::new(options.max_memory_bytes / 2),
            compressions: Arc::new(Semaphore::new(options.max_compressions)),
            cache,
            maintain: None,
            observer: None,
            authorizer: None,
            quota: None,
            options,
            began: Instant::now(),
            uploads: TaskTracker::new(),
        };
        Self { port, shared }
    }

    /// Tells the figures of the store too.
    #[must_use]
    pub fn with_maintenance(mut self, maintain: Arc<dyn Maintain>) -> Self {
        self.shared.maintain = Some(maintain);
        self
    }

    /// Tells of its requests and connections.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.shared.observer = Some(observer);
        self
    }

    /// Asks who its callers are.
    #[must_use]
    pub fn with_authorizer(mut self, authorizer: Arc<dyn Authorizer>) -> Self {
        self.shared.authorizer = Some(authorizer);
        self
    }

    /// Asks what its callers may use.
    #[must_use]
    pub fn with_quota(mut self, quota: Arc<dyn Quota>) -> Self {
        self.shared.quota = Some(quota);
        self
    }

    /// Takes connections over TCP by TLS only.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, tls: zako_core::tls::TlsAcceptor) -> Self {
        self.port = self.port.with_tls(tls);
        self
    }

    /// The address that it has: with the real port where 0 was asked for.
    pub fn local_addr(&self) -> &ListenAddr {
        self.port.local_addr()
    }

    /// How long the shutdown may take: [`HttpOptions::drain_timeout`], unless it is changed.
    pub fn drain_limit(&self) -> DrainLimit {
        self.port.drain_limit()
    }

    /// Answers requests until `shutdown` is ready. Then takes no more of them, lets those
    /// that run end within [`HttpOptions::drain_timeout`], and cuts the rest: what they
    /// were storing is dropped.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let shared = Arc::new(self.shared);
        let each = Arc::clone(&shared);
        let serve = move |connection| connection::serve(Arc::clone(&each), connection);
        self.port.serve(shutdown, serve).await;
        shared.uploads.close();
        let released = tokio::time::timeout(RELEASE_TIMEOUT, shared.uploads.wait());
        if released.await.is_err() {
            tracing::warn!("uploads still used the store when the HTTP cache ended");
        }
    }
}

impl fmt::Debug for HttpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpServer")
            .field("addr", self.local_addr())
            .finish_non_exhaustive()
    }
}
