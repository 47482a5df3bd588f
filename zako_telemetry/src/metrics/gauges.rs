//! What is read when somebody asks, and not told when it happens.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use zako_core::cas::{Maintain, Usage};
use zako_core::server::{Figures, FiguresReader};

use super::catalog::{self, Spec};
use super::instrument::{gauge, gauges};
use super::process::Process;

/// A store that doesn't answer in this time is left out of a scrape.
const PATIENCE: Duration = Duration::from_millis(250);

/// Where gauges come from, as far as it is there yet.
pub(super) struct Sources {
    server: Mutex<Option<FiguresReader>>,
    certificate: Mutex<Option<Expiry>>,
    store: Mutex<Option<Arc<dyn Maintain>>>,
    /// As the store last told; `None` until it has its index.
    usage: Mutex<Option<Usage>>,
    /// The program's own, not the exporters'.
    runtime: Option<Handle>,
}

/// Tells when what is shown now ends.
type Expiry = Box<dyn Fn() -> SystemTime + Send>;

impl Sources {
    /// Of the program whose runtime this is called on.
    pub(super) fn new() -> Self {
        Self {
            server: Mutex::default(),
            certificate: Mutex::default(),
            store: Mutex::default(),
            usage: Mutex::default(),
            runtime: Handle::try_current().ok(),
        }
    }

    pub(super) fn set_server(&self, server: FiguresReader) {
        *self.server.lock() = Some(server);
    }

    pub(super) fn set_certificate(&self, expiry: Expiry) {
        *self.certificate.lock() = Some(expiry);
    }

    pub(super) fn set_store(&self, store: Arc<dyn Maintain>) {
        *self.store.lock() = Some(store);
    }

    /// Lets go of the server and the store.
    pub(super) fn clear(&self) {
        self.server.lock().take();
        self.store.lock().take();
    }

    /// Asks what can't be asked from within a gauge.
    pub(super) async fn refresh(&self) {
        let store = self.store.lock().clone();
        if let Some(store) = store
            && let Ok(Ok(usage)) = tokio::time::timeout(PATIENCE, store.usage()).await
        {
            *self.usage.lock() = Some(usage);
        }
    }
}

/// Has all gauges read from `sources`.
pub(super) fn register(meter: &Meter, sources: &Arc<Sources>) {
    server(meter, sources);
    store(meter, sources);
    process(meter, sources);
}

fn server(meter: &Meter, sources: &Arc<Sources>) {
    let read_by = |spec: Spec, read: fn(&Figures) -> u64| {
        let sources = Arc::clone(sources);
        gauge(meter, spec, move || {
            sources.server.lock().as_ref().map(|it| read(&it.read()))
        });
    };
    read_by(catalog::SERVER_CALLS, |it| it.calls as u64);
    read_by(catalog::SERVER_UPLOADS, |it| it.uploads as u64);
    read_by(catalog::SERVER_SESSIONS, |it| it.sessions as u64);
    read_by(catalog::SERVER_TOKENS, |it| it.tokens as u64);
    read_by(catalog::SERVER_DRAINING, |it| u64::from(it.is_draining));
    read_by(catalog::UPTIME, |it| it.uptime.as_secs());
    read_by(catalog::RDMA_SESSIONS, |it| it.rdma_sessions as u64);
    read_by(catalog::RDMA_PINNED, |it| it.rdma_pinned_bytes);
    let sources = Arc::clone(sources);
    gauge(meter, catalog::CERTIFICATE_EXPIRES, move || {
        let expires = sources.certificate.lock().as_ref().map(|tell| tell())?;
        Some(since_1970(expires))
    });
}

fn store(meter: &Meter, sources: &Arc<Sources>) {
    let read_by = |spec: Spec, read: fn(&Usage) -> u64| {
        let sources = Arc::clone(sources);
        gauge(meter, spec, move || sources.usage.lock().as_ref().map(read));
    };
    read_by(catalog::STORE_BLOBS, |it| it.blobs);
    read_by(catalog::STORE_BLOB_SIZE, |it| it.blob_bytes);
    read_by(catalog::STORE_INDEX, |it| it.index_bytes);
    read_by(catalog::STORE_QUEUED, |it| it.queued_bytes);
    read_by(catalog::STORE_BLOCKING, |it| it.blocking_jobs);
    read_by(catalog::STORE_DISK_USED, |it| it.disk_bytes);
    read_by(catalog::STORE_DISK_CAP, |it| it.disk_cap_bytes);
    read_by(catalog::STORE_RECLAIMABLE, |it| it.reclaimable_bytes);
    read_by(catalog::STORE_LEASED, |it| it.leased_bytes);
    read_by(catalog::STORE_PARTIAL, |it| it.partial_bytes);
    read_by(catalog::STORE_QUARANTINED, |it| it.quarantined_blobs);
    let sources = Arc::clone(sources);
    gauge(meter, catalog::STORE_READY, move || {
        sources.store.lock().as_ref()?;
        Some(u64::from(sources.usage.lock().is_some()))
    });
}

fn process(meter: &Meter, sources: &Arc<Sources>) {
    let read_by = |spec: Spec, read: fn(&Process) -> Option<u64>| {
        gauge(meter, spec, move || read(&Process::read()));
    };
    read_by(catalog::PROCESS_RESIDENT, |it| it.resident_bytes);
    read_by(catalog::PROCESS_VIRTUAL, |it| it.virtual_bytes);
    read_by(catalog::PROCESS_FDS, |it| it.open_fds);
    read_by(catalog::PROCESS_MAX_FDS, |it| it.max_fds);
    read_by(catalog::PROCESS_THREADS, |it| it.threads);
    let spec = catalog::PROCESS_CPU;
    let counter = meter.f64_observable_counter(spec.name);
    counter
        .with_unit(spec.unit)
        .with_description(spec.help)
        .with_callback(|at| at.observe(Process::read().cpu_seconds, &[]))
        .build();
    let began = since_1970(SystemTime::now());
    gauge(meter, catalog::PROCESS_START, move || Some(began));

    let read_by = |spec: Spec, read: fn(&Handle) -> usize| {
        let sources = Arc::clone(sources);
        gauge(meter, spec, move || {
            sources.runtime.as_ref().map(|it| read(it) as u64)
        });
    };
    read_by(catalog::RUNTIME_TASKS, |it| it.metrics().num_alive_tasks());
    read_by(catalog::RUNTIME_QUEUE, |it| {
        it.metrics().global_queue_depth()
    });
    read_by(catalog::RUNTIME_WORKERS, |it| it.metrics().num_workers());
    let version = [KeyValue::new("version", env!("CARGO_PKG_VERSION"))];
    gauges(meter, catalog::BUILD_INFO, move |at| {
        at.observe(1, &version)
    });
}

fn since_1970(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
