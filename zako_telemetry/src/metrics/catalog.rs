//! Every metric there is: its name, unit and meaning.

/// A metric, before anything is measured by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// As OpenTelemetry has it, with points.
    pub name: &'static str,
    /// In UCUM: `s`, `By`, or a word in braces for what is merely counted.
    pub unit: &'static str,
    /// What it does over time.
    pub kind: Kind,
    /// What it tells.
    pub help: &'static str,
    /// What tells its series apart.
    pub labels: &'static [&'static str],
}

/// What a metric does over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values by their size.
    Histogram,
}

impl Spec {
    pub(super) const fn new(
        kind: Kind,
        name: &'static str,
        unit: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self {
            name,
            unit,
            kind,
            help,
            labels,
        }
    }

    /// The name that Prometheus sees: with underscores, its unit, and `_total` behind
    /// what only grows.
    pub fn prometheus_name(&self) -> String {
        let mut name = self.name.replace('.', "_");
        name.push_str(match self.unit {
            "s" => "_seconds",
            "By" => "_bytes",
            _ => "",
        });
        if self.kind == Kind::Counter {
            name.push_str("_total");
        }
        name
    }
}

impl Kind {
    /// A word for it, Prometheus's.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Names the metrics, and all of them together.
macro_rules! catalog {
    ($($id:ident = $kind:ident $name:literal [$unit:literal] ($($label:literal),*) $help:literal;)*) => {
        $(pub(super) const $id: Spec =
            Spec::new(Kind::$kind, $name, $unit, &[$($label),*], $help);)*

        /// Every metric of a server.
        pub const CATALOG: &[Spec] = &[$($id),*];
    };
}

catalog! {
    REQUESTS = Counter "zako.requests" ["{request}"] ("interface", "method", "code")
        "Calls and HTTP requests that ended, by method and code.";
    REQUEST_DURATION = Histogram "zako.request.duration" ["s"] ("interface", "method")
        "How long short calls took, from their first byte to their end.";
    STREAM_DURATION = Histogram "zako.stream.duration" ["s"] ("interface", "method")
        "How long streams took: uploads, downloads, negotiations, RDMA sessions.";
    TRANSFERRED = Counter "zako.transferred" ["By"] ("interface", "transport", "direction")
        "Bytes of request and answer bodies, and those that moved over RDMA.";
    CONNECTIONS = Gauge "zako.connections" ["{connection}"] ("interface")
        "Connections that are open.";
    CONNECTIONS_OPENED = Counter "zako.connections.opened" ["{connection}"] ("interface")
        "Connections that were taken in.";
    LOOKUPS = Counter "zako.lookups" ["{lookup}"] ("interface", "what", "result")
        "Blobs, actions and assets that were looked for: hit or miss.";

    COMMIT_BLOBS = Histogram "zako.store.commit.blobs" ["{blob}"] ()
        "Small blobs that became durable together.";
    COMMIT_SIZE = Histogram "zako.store.commit.size" ["By"] ()
        "Bytes of small blobs that became durable together.";
    WRITE_DURATION = Histogram "zako.store.write.duration" ["s"] ()
        "How long the write of a group of small blobs took.";
    SYNC_DURATION = Histogram "zako.store.fsync.duration" ["s"] ("what")
        "How long a sync took: of a segment, or of a large blob's file.";
    QUEUE_WAIT = Histogram "zako.store.queue.wait" ["s"] ()
        "How long the first blob of a group had waited for its turn.";
    EVICTED_BLOBS = Counter "zako.store.evicted.blobs" ["{blob}"] ("reason")
        "Blobs that were given up: for room (capacity), by a client (deleted), uploads past their time (expired).";
    EVICTED_SIZE = Counter "zako.store.evicted.size" ["By"] ("reason")
        "Their bytes.";
    CORRUPTIONS = Counter "zako.store.corruptions" ["{blob}"] ()
        "Damaged blobs that were found.";

    STORE_READY = Gauge "zako.store.ready" [""] ()
        "1 when the store has its index, 0 before.";
    STORE_BLOBS = Gauge "zako.store.blobs" ["{blob}"] ()
        "Blobs present.";
    STORE_BLOB_SIZE = Gauge "zako.store.blob.size" ["By"] ()
        "The sum of their sizes.";
    STORE_INDEX = Gauge "zako.store.index" ["By"] ()
        "Memory that the index takes.";
    STORE_QUEUED = Gauge "zako.store.queued" ["By"] ()
        "Small blobs that wait to be written.";
    STORE_BLOCKING = Gauge "zako.store.blocking.jobs" ["{job}"] ()
        "File operations that wait for a thread or run on one: cold reads, large writes.";
    STORE_DISK_USED = Gauge "zako.store.disk.used" ["By"] ()
        "Disk in use, with all overhead, partial uploads and quarantine.";
    STORE_DISK_CAP = Gauge "zako.store.disk.cap" ["By"] ()
        "The most disk that may be used.";
    STORE_RECLAIMABLE = Gauge "zako.store.disk.reclaimable" ["By"] ()
        "What a garbage collection could give back, about.";
    STORE_LEASED = Gauge "zako.store.leased" ["By"] ()
        "Blobs under a lease, which eviction keeps.";
    STORE_PARTIAL = Gauge "zako.store.partial" ["By"] ()
        "Interrupted and running uploads.";
    STORE_QUARANTINED = Gauge "zako.store.quarantined.blobs" ["{blob}"] ()
        "Damaged blobs in quarantine.";

    SERVER_CALLS = Gauge "zako.server.calls" ["{call}"] ()
        "gRPC calls that run.";
    SERVER_UPLOADS = Gauge "zako.server.uploads" ["{upload}"] ()
        "Uploads that run.";
    SERVER_SESSIONS = Gauge "zako.server.sessions" ["{session}"] ()
        "Transport sessions alive.";
    SERVER_TOKENS = Gauge "zako.server.tokens" ["{token}"] ()
        "Transport tokens that can be redeemed.";
    SERVER_DRAINING = Gauge "zako.server.draining" [""] ()
        "1 when no more calls are taken, since the server shuts down.";
    UPTIME = Gauge "zako.uptime" ["s"] ()
        "How long the server has been there.";
    CERTIFICATE_EXPIRES = Gauge "zako.tls.certificate.expires" ["s"] ()
        "When the certificate that the server shows, or one behind it, ends, since 1970; only with TLS.";
    RDMA_SESSIONS = Gauge "zako.rdma.sessions" ["{session}"] ()
        "RDMA sessions alive.";
    RDMA_PINNED = Gauge "zako.rdma.pinned" ["By"] ()
        "Memory pinned for RDMA sessions.";
    RDMA_EVENTS = Counter "zako.rdma.session.events" ["{event}"] ("event")
        "Turns in the lives of RDMA sessions: opened, set_up_failed, closed, failed.";
    RDMA_FALLBACKS = Counter "zako.rdma.fallbacks" ["{fallback}"] ("reason")
        "Why bytes go by gRPC that could go over RDMA: not_offered, set_up_failed, failed.";

    BUILD_INFO = Gauge "zako.build.info" [""] ("version")
        "1, with the version as a label.";
    RUNTIME_TASKS = Gauge "zako.runtime.tasks" ["{task}"] ()
        "Asynchronous tasks alive.";
    RUNTIME_QUEUE = Gauge "zako.runtime.queue" ["{task}"] ()
        "Tasks that wait for a worker in the common queue.";
    RUNTIME_WORKERS = Gauge "zako.runtime.workers" ["{thread}"] ()
        "Threads that run tasks.";
    PROCESS_CPU = Counter "process.cpu" ["s"] ()
        "CPU time of the process, user and system.";
    PROCESS_RESIDENT = Gauge "process.resident_memory" ["By"] ()
        "Resident memory.";
    PROCESS_VIRTUAL = Gauge "process.virtual_memory" ["By"] ()
        "Virtual memory.";
    PROCESS_FDS = Gauge "process.open_fds" ["{file}"] ()
        "Open file descriptors.";
    PROCESS_MAX_FDS = Gauge "process.max_fds" ["{file}"] ()
        "The most open file descriptors.";
    PROCESS_THREADS = Gauge "process.threads" ["{thread}"] ()
        "Threads.";
    PROCESS_START = Gauge "process.start_time" ["s"] ()
        "When the process began to measure, since 1970.";
}
