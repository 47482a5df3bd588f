//! What a server offers of RDMA.

use zako_core::client::SessionOptions;
use zako_core::server::{ListenAddr, RdmaOptions};
use zako_rdma::memory_limit::MemoryLimit;

use crate::config::{DeviceChoice, RdmaChoice, ServerConfig};
use crate::fabric::{self, OpenPort};
use crate::failure::Failure;
use crate::quantity::bytes;

/// RDMA on a port of this machine.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) options: RdmaOptions,
    /// Where.
    pub(super) place: DeviceChoice,
}

/// What is configured, if it can be had; `None` if it isn't wished for, or only where it
/// can be had.
///
/// # Errors
/// The configuration makes no sense, or a device is named that can't be used.
pub(super) fn offer(config: &ServerConfig) -> Result<Option<Offer>, Failure> {
    allowed(config)?;
    let RdmaChoice::On(device) = &config.rdma.value else {
        return Ok(None);
    };
    if config.rdma_trust.value.0.is_empty() {
        return Ok(None);
    }
    let session = SessionOptions::default();
    let memory = config.rdma_memory.value.0;
    let opened = match &config.listen.value {
        ListenAddr::Unix(_) => Err(Failure::usage(
            "RDMA is for clients that come over TCP, and this server listens on a Unix socket",
        )
        .advise("Listen on ADDR:PORT, or switch RDMA off with --rdma off.")),
        ListenAddr::Tcp(_) => fabric::open(device, &session).map_err(Failure::from),
    };
    match opened {
        Ok(port) => Ok(Some(offer_of(config, port, memory))),
        Err(failure) if device.is_explicit() => {
            Err(failure.context(format_args!("rdma is {device} ({})", config.rdma.origin)))
        }
        Err(failure) => {
            // One line: the log has one for each event.
            tracing::warn!(
                "serving without RDMA: {}",
                failure.to_string().replace("\n ", ".")
            );
            Ok(None)
        }
    }
}

/// Whether the configuration makes sense, whatever this machine has.
///
/// # Errors
/// It doesn't.
pub(super) fn allowed(config: &ServerConfig) -> Result<(), Failure> {
    let RdmaChoice::On(device) = &config.rdma.value else {
        return Ok(());
    };
    if config.rdma_trust.value.0.is_empty() {
        return match device.is_explicit() {
            true => Err(nobody_trusted(config)),
            false => Ok(()),
        };
    }
    let pinned = SessionOptions::default().pinned_bytes();
    if config.rdma_memory.value.0 < pinned {
        return Err(Failure::usage(format!(
            "rdma-memory is {} ({}), and a session pins {}",
            config.rdma_memory.value,
            config.rdma_memory.origin,
            bytes(pinned)
        ))
        .advise("Raise --rdma-memory, or switch RDMA off with --rdma off."));
    }
    Ok(())
}

fn offer_of(config: &ServerConfig, port: OpenPort, memory: u64) -> Offer {
    let OpenPort { fabric, place } = port;
    let trusted = &config.rdma_trust.value;
    tracing::info!(
        "RDMA for {trusted} on {}: neither encrypted nor authenticated",
        fabric.name()
    );
    let mut options = RdmaOptions::new(fabric, trusted.0.clone());
    options.session.pages = config.rdma_pages.value;
    options.limits.sessions = config.rdma_sessions.value.get();
    options.limits.bytes = match MemoryLimit::current().room() {
        Some(room) if room < memory => {
            tracing::warn!(
                "RDMA may pin {} only, not the {} of rdma-memory: the limit of locked memory \
                 (`ulimit -l`) allows no more",
                bytes(room),
                bytes(memory)
            );
            room
        }
        _ => memory,
    };
    Offer { options, place }
}

fn nobody_trusted(config: &ServerConfig) -> Failure {
    Failure::usage(format!(
        "rdma is {} ({}), and no network is trusted with it",
        config.rdma.value, config.rdma.origin
    ))
    .advise(
        "Name the networks whose clients may use it, with --rdma-trust 10.20.0.0/16 or the like. \
         What moves over RDMA is neither encrypted nor authenticated: everyone in them, and on \
         the way, must be trusted.",
    )
}
