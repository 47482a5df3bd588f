//! Reaching the configured server.

mod tls;

use std::fs::File;
use std::io::Read;

use zako_core::access::Secret;
use zako_core::client::{Client, ClientOptions, TransportChoice as Road};
use zako_core::transfer::TransferOptions;
use zako_core::tree::TreeOptions;

use crate::config::{ClientConfig, ClientKeys, Layers, Origin, TransportChoice};
use crate::fabric::{self, OpenPort, Unavailable};
use crate::failure::{Exit, Failure};

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Questions and answers, which always go by gRPC.
    Control,
    /// The bytes of blobs too.
    Blobs,
}

/// Connects to the server that flags, variables and file name, to ask it something.
///
/// # Errors
/// The configuration is wrong, RDMA is asked for and can't be had, or nothing answers there.
pub(crate) async fn connect(keys: ClientKeys, layers: &Layers<'_>) -> Result<Client, Failure> {
    let config = ClientConfig::resolve(keys, layers)?;
    reach(&config, Purpose::Control).await
}

/// Connects to the server that flags, variables and file name, to move blobs: over RDMA
/// where it can be had and may be used.
///
/// # Errors
/// As [`connect`].
pub(crate) async fn connect_for_blobs(
    keys: ClientKeys,
    layers: &Layers<'_>,
) -> Result<Client, Failure> {
    let config = ClientConfig::resolve(keys, layers)?;
    connect_to(&config).await
}

/// Connects to the server of a resolved configuration, to move blobs.
///
/// # Errors
/// RDMA is asked for and can't be had, or nothing answers there.
pub(crate) async fn connect_to(config: &ClientConfig) -> Result<Client, Failure> {
    reach(config, Purpose::Blobs).await
}

async fn reach(config: &ClientConfig, purpose: Purpose) -> Result<Client, Failure> {
    let url = &config.server.value;
    let mut options = ClientOptions::default();
    options.transport = match config.transport.value {
        TransportChoice::Grpc => Road::Grpc,
        TransportChoice::Auto => Road::Auto,
        TransportChoice::Rdma => Road::Rdma,
    };
    options.token = token(config)?;
    options.allow_plaintext_token = config.allow_plaintext_token.value;
    if let Some(namespace) = &config.namespace.value {
        options.namespace.clone_from(&namespace.0);
    }
    options.tls = tls::options(config)?;
    let client = match port(config, &options, purpose)? {
        Some(port) => Client::connect_over(url, options, port.fabric).await,
        None => Client::connect(url, options).await,
    };
    client.map_err(|error| {
        let failure = Failure::from(error);
        match config.transport.value {
            TransportChoice::Rdma if failure.exit() == Exit::Unsupported => {
                failure.advise("With --transport auto, what RDMA can't be had for goes by gRPC.")
            }
            _ => failure,
        }
    })
}

/// What shows the server who this is: the token itself, else the content of its file.
///
/// # Errors
/// The file can't be read, or has none.
fn token(config: &ClientConfig) -> Result<Option<Secret>, Failure> {
    let token = config.token.value.as_ref();
    let file = &config.token_file;
    let path = file.value.as_ref().map(|file| &*file.0);
    // A file that was named by a flag is a nearer wish than a variable.
    let path = path.filter(|_| token.is_none() || file.origin == Origin::Flag);
    let Some(path) = path else {
        return Ok(token.map(|token| token.0.clone()));
    };
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST_TOKEN).read_to_string(&mut text));
    read.map_err(|error| Failure::io("reading the token", path, &error))?;
    match text.trim() {
        "" => Err(Failure::usage(format!("{} has no token", path.display()))),
        token => Ok(Some(Secret::new(token))),
    }
}

/// The longest token, in bytes.
const LONGEST_TOKEN: u64 = 12 << 10;

/// The port for RDMA, if it may be used and there is one.
///
/// # Errors
/// There is none, and nothing else will do.
fn port(
    config: &ClientConfig,
    options: &ClientOptions,
    purpose: Purpose,
) -> Result<Option<OpenPort>, Failure> {
    let device = &config.rdma_device.value;
    match config.transport.value {
        TransportChoice::Grpc => Ok(None),
        TransportChoice::Rdma => Ok(Some(fabric::open(device, &options.rdma)?)),
        TransportChoice::Auto if purpose == Purpose::Control => Ok(None),
        TransportChoice::Auto => match fabric::open(device, &options.rdma) {
            Ok(port) => Ok(Some(port)),
            Err(Unavailable::NotBuiltIn) => Ok(None),
            // A device by name is a wish; that a machine has none is nothing to tell.
            Err(why) if device.is_explicit() => {
                tracing::warn!("{why}");
                Ok(None)
            }
            Err(why) => {
                tracing::info!("{why}");
                Ok(None)
            }
        },
    }
}

/// How to move blobs to and from this server.
pub(crate) fn transfer_options(client: &Client) -> TransferOptions {
    let mut options = TransferOptions::default();
    options.concurrency = client.recommended_concurrency();
    options
}

/// How to store trees on this server and restore them.
pub(crate) fn tree_options(client: &Client) -> TreeOptions {
    let mut options = TreeOptions::default();
    options.transfer = transfer_options(client);
    options
}
