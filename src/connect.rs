//! Reaching the configured server.

use zako_core::client::{Client, ClientOptions, TransportChoice as Road};
use zako_core::transfer::TransferOptions;
use zako_core::tree::TreeOptions;

use crate::config::{ClientConfig, ClientKeys, Layers, TransportChoice};
use crate::failure::Failure;

/// Connects to the server that flags, variables and file name.
///
/// # Errors
/// The configuration is wrong, or nothing answers there.
pub(crate) async fn connect(keys: ClientKeys, layers: &Layers<'_>) -> Result<Client, Failure> {
    let config = ClientConfig::resolve(keys, layers)?;
    connect_to(&config).await
}

/// Connects to the server of a resolved configuration.
///
/// # Errors
/// The transport is not built in, or nothing answers there.
pub(crate) async fn connect_to(config: &ClientConfig) -> Result<Client, Failure> {
    config.transport.value.check()?;
    let mut options = ClientOptions::default();
    options.transport = match config.transport.value {
        TransportChoice::Grpc => Road::Grpc,
        TransportChoice::Auto | TransportChoice::Rdma => Road::Auto,
    };
    Ok(Client::connect(&config.server.value, options).await?)
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
