//! How an alias table is set up.

use std::sync::Arc;

use crate::store::local::io::{Backend, Disk};
use crate::store::{Clock, Durability, SystemClock};

/// How an alias table is set up. Made by [`AliasOptions::default`], then changed field
/// by field.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct AliasOptions {
    /// When an alias is durable.
    pub durability: Durability,
    /// The most aliases that there may be; each takes about 85 bytes of memory and up to
    /// 192 on disk. Beyond it, inserting is refused.
    pub max_aliases: usize,
    /// The file system.
    pub backend: Arc<dyn Backend>,
    /// The clock by whose time of day aliases expire.
    pub clock: Arc<dyn Clock>,
}

impl Default for AliasOptions {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            max_aliases: 16 << 20,
            backend: Arc::new(Disk),
            clock: Arc::new(SystemClock::default()),
        }
    }
}
