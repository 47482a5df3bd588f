//! The store of a server: had when nobody else has it, and ready when its index is there.

use std::sync::Arc;
use std::time::Duration;

use zako_admin::{Readiness, State};
use zako_core::observe::Observer;
use zako_core::store::LocalStore;

use super::abort_on_drop::AbortOnDrop;
use super::{Process, service_manager};
use crate::config::ServerConfig;
use crate::failure::{Exit, Failure};
use crate::local_store::{open_store, opening};

/// How often a store that another process has is asked for.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Opens the store. Who was handed sockets waits for the server before it to close the store;
/// `None` if a signal ended that.
///
/// # Errors
/// It can't be opened.
pub(super) async fn open(
    config: &ServerConfig,
    observer: &Arc<dyn Observer>,
    process: &mut Process<'_>,
) -> Result<Option<LocalStore>, Failure> {
    let mut told = false;
    loop {
        match open_store(config, Some(Arc::clone(observer))).await {
            Ok(store) => return Ok(Some(store)),
            Err(failure) if failure.exit() == Exit::Busy && process.sockets.are_from_outside() => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!("waiting for the server that has the store to close it");
                }
            }
            Err(failure) => return Err(failure),
        }
        tokio::select! {
            () = tokio::time::sleep(LOCK_PAUSE) => {}
            _ = process.signals.end() => return Ok(None),
        }
    }
}

/// Tells everyone when the store has its index. Ends only if it can't have one: such a store
/// serves nobody.
pub(super) async fn broken(
    store: &LocalStore,
    readiness: &Readiness,
    still_opening: AbortOnDrop,
) -> Failure {
    match store.opened().await {
        Ok(()) => {
            drop(still_opening);
            readiness.reached(State::Ready);
            service_manager::ready();
            std::future::pending().await
        }
        Err(error) => opening(error),
    }
}
