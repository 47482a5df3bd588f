//! What both faces stand on: blobs by the names of build tools, action results and
//! values under keys, over one store and one table of aliases.

mod actions;
mod assets;
mod blobs;
mod by_hash;
mod chunk_list;
mod chunks;
mod directories;
mod pieces;
mod references;
mod sweep;
mod upload;
mod values;

use std::sync::Arc;

pub(crate) use actions::Hit;
pub(crate) use assets::{Asset, AssetKind, AssetName};
pub use by_hash::KeyedUpload;
pub(crate) use chunks::AVERAGE_CHUNK;
pub(crate) use directories::Walk;
use tokio::sync::Semaphore;
pub use upload::Upload;

use zako_core::alias::AliasTable;
use zako_core::cas::{Result, Staging};

/// A store as build tools see it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cache {
    store: Arc<dyn Staging>,
    aliases: AliasTable,
    options: Arc<CacheOptions>,
    /// One permit for every KiB of the trees that may be in memory at a time.
    trees: Arc<Semaphore>,
}

/// What becomes of the action results that clients send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ActionUpdates {
    /// They are stored.
    #[default]
    Allowed,
    /// They are refused, and clients that ask are told beforehand.
    Refused,
    /// They are taken and forgotten: for clients that can't do without sending them.
    Dropped,
}

/// What a cache allows. Sizes are in bytes.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct CacheOptions {
    /// Whether clients may store action results (they may).
    pub action_updates: ActionUpdates,
    /// The longest action result, and the longest value under a key of its own that is
    /// held in memory (64 MiB).
    pub max_value_bytes: u64,
    /// What the blobs of one batch may add up to (4 MiB).
    pub max_batch_bytes: u64,
    /// The longest message of a call that isn't a stream (32 MiB).
    pub max_message_bytes: usize,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self {
            action_updates: ActionUpdates::Allowed,
            max_value_bytes: 64 << 20,
            max_batch_bytes: 4 << 20,
            max_message_bytes: 32 << 20,
        }
    }
}

impl Cache {
    /// A cache over a store and the table of its blobs' other names.
    pub fn new(store: Arc<dyn Staging>, aliases: AliasTable, options: CacheOptions) -> Self {
        Self {
            store,
            aliases,
            options: Arc::new(options),
            trees: Arc::new(Semaphore::new(references::TREES_KIB)),
        }
    }

    /// Ends the table of names. The store is its owner's to close.
    ///
    /// # Errors
    /// Those of [`AliasTable::close`].
    pub async fn close(&self) -> Result<()> {
        self.aliases.close().await
    }

    /// What it allows.
    pub fn options(&self) -> &CacheOptions {
        &self.options
    }
}
