//! Opening the configured store in this process.

use std::sync::Arc;

use zako_core::cas::CasError;
use zako_core::observe::Observer;
use zako_core::store::{Durability, LocalStore, StoreOptions, VerifyOnRead};

use crate::config::{DurabilityChoice, ServerConfig, VerifyChoice};
use crate::disk;
use crate::failure::{Exit, Failure};
use crate::quantity::{MaxSize, Rate};

/// Opens the store of a configuration, creating it if there is none. Its index is
/// rebuilt in the background; calls wait for that. `observer` is told what happens in it.
///
/// # Errors
/// The folder can't be used, is locked, or has an unknown format.
pub(crate) async fn open_store(
    config: &ServerConfig,
    observer: Option<Arc<dyn Observer>>,
) -> Result<LocalStore, Failure> {
    let data = &config.data.value.0;
    std::fs::create_dir_all(data).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("creating the data folder {}: {error}", data.display()),
        )
        .advise("Name a folder that this user may create with --data DIR.")
    })?;
    let mut options = store_options(config)?;
    options.observer = observer;
    LocalStore::open_in_background(data, options)
        .await
        .map_err(opening)
}

/// Why a store can't be opened.
pub(crate) fn opening(error: CasError) -> Failure {
    Failure::from(error).context("opening the store")
}

/// When what is stored is durable.
pub(crate) fn durability(config: &ServerConfig) -> Durability {
    match config.durability.value {
        DurabilityChoice::Immediate => Durability::Immediate,
        DurabilityChoice::Interval(period) => Durability::Interval(period.0),
        DurabilityChoice::None => Durability::None,
    }
}

fn store_options(config: &ServerConfig) -> Result<StoreOptions, Failure> {
    let data = &config.data.value.0;
    let max_bytes = match config.max_size.value {
        MaxSize::Bytes(size) => Some(size.0),
        // The store's own default, which costs no walk through its folder.
        MaxSize::Percent(80) => None,
        share @ MaxSize::Percent(_) => {
            let disk = disk::of(data)
                .map_err(|error| Failure::io("asking for the free space at", data, &error))?;
            Some(disk::cap(share, data, &disk))
        }
    };
    let mut options = StoreOptions::default();
    options.max_bytes = max_bytes;
    options.durability = durability(config);
    options.verify_on_read = match config.verify_on_read.value {
        VerifyChoice::Never => VerifyOnRead::Never,
        VerifyChoice::First => VerifyOnRead::First,
        VerifyChoice::Always => VerifyOnRead::Always,
    };
    options.lease = config.lease.value.0;
    options.max_lease = options.max_lease.max(options.lease);
    options.partial_ttl = config.partial_ttl.value.0;
    options.scrub_rate = scrub_rate(config);
    Ok(options)
}

/// How fast the store is re-hashed, in bytes a second, if it is.
pub(crate) fn scrub_rate(config: &ServerConfig) -> Option<u64> {
    match config.scrub_rate.value {
        Rate::Off => None,
        Rate::BytesPerSecond(size) => Some(size.0),
    }
}
