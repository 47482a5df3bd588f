//! What callers may use: the server's bounds, and the quotas of callers with their record.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use zako_access::Quotas;
use zako_core::access::Accounted;
use zako_core::cas::Staging;
use zako_core::server::ServerOptions;
use zako_core::store::LocalStore;
use zako_reapi::http::HttpOptions;

use super::abort_on_drop::AbortOnDrop;
use crate::config::LimitsConfig;

/// Where what callers stored is kept, in the data folder.
const RECORD: &str = "quotas.json";

/// How much of what was stored a crash may forget.
const RECORD_PERIOD: Duration = Duration::from_secs(10);

/// The quotas of callers, and their record.
#[derive(Clone, Debug)]
pub(super) struct CallerQuotas {
    quotas: Arc<Quotas>,
    record: Option<PathBuf>,
}

impl CallerQuotas {
    /// What is configured; `None` if nobody is limited.
    pub(super) fn open(config: &LimitsConfig, data: &Path) -> Option<Self> {
        let table = &config.callers;
        if table.is_empty() {
            return None;
        }
        let quotas = Quotas::new(table.clone());
        let path = data.join(RECORD);
        let restored = match std::fs::read(&path) {
            Ok(record) => quotas.restore(&record).map_err(|error| error.to_string()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = restored {
            let path = path.display();
            tracing::error!("quotas begin anew: what was stored by whom is lost: {path}: {error}");
        }
        Some(Self {
            quotas: Arc::new(quotas),
            record: table.limits_storing().then_some(path),
        })
    }

    /// Those that a server asks.
    pub(super) fn quota(&self) -> Arc<Quotas> {
        Arc::clone(&self.quotas)
    }

    /// The limits of callers from now on.
    pub(super) fn replace(&self, config: &LimitsConfig) {
        let table = config.callers.clone();
        if table.limits_storing() && self.record.is_none() {
            tracing::warn!("stored-bytes-per-day counts from the next start on");
        }
        self.quotas.replace(table);
    }

    /// Writes the record from time to time, until what this gives is dropped.
    pub(super) fn keep(&self) -> Option<AbortOnDrop> {
        self.record.as_ref()?;
        let quotas = self.clone();
        Some(AbortOnDrop::spawn(async move {
            loop {
                tokio::time::sleep(RECORD_PERIOD).await;
                let quotas = quotas.clone();
                let _ = tokio::task::spawn_blocking(move || quotas.save()).await;
            }
        }))
    }

    /// Writes the record, if there is one.
    pub(super) fn save(&self) {
        let Some(path) = &self.record else {
            return;
        };
        if let Err(error) = replace_file(path, &self.quotas.record()) {
            let path = path.display();
            tracing::error!("what was stored by whom can't be kept: {path}: {error}");
        }
    }
}

/// The store; what it stores is booked if anyone is limited in that.
pub(super) fn staging(quotas: Option<&CallerQuotas>, store: &LocalStore) -> Arc<dyn Staging> {
    match quotas {
        Some(CallerQuotas {
            record: Some(_), ..
        }) => Arc::new(Accounted::new(store.clone())),
        _ => Arc::new(store.clone()),
    }
}

/// Sets the bounds of the server.
pub(super) fn bound(options: &mut ServerOptions, config: &LimitsConfig) {
    options.max_connections = config.max_connections.value.get();
    options.max_connections_per_address = config.max_connections_per_address.value.get();
    options.max_streams_per_connection = config.max_streams.value.get();
    let receive = config.max_receive_memory.value.0;
    options.max_receive_bytes = receive;
    options.max_held_bytes = options.max_held_bytes.max(receive / 4);
    // The configuration has no more than fits.
    let headers = config.max_header_bytes.value.0;
    options.max_header_bytes = u32::try_from(headers).unwrap_or(u32::MAX);
    options.handshake_timeout = config.handshake_timeout.value.0;
    options.connection_idle_timeout = config.idle_timeout.value.0;
    options.download_idle_timeout = config.answer_idle_timeout.value.0;
}

/// Sets the bounds of the HTTP cache.
pub(super) fn bound_http(options: &mut HttpOptions, config: &LimitsConfig) {
    options.max_connections = config.max_connections.value.get();
    options.max_connections_per_address = config.max_connections_per_address.value.get();
    options.header_timeout = config.handshake_timeout.value.0;
    options.answer_idle_timeout = config.answer_idle_timeout.value.0;
}

/// The file has the old content or the new one, whatever happens.
fn replace_file(path: &Path, content: &[u8]) -> std::io::Result<()> {
    if std::fs::read(path).is_ok_and(|known| known == content) {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_data()?;
    file.persist(path)?;
    Ok(())
}
